"""The inner loop: a model that adapts to the support set of each of T stacked tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import litmaml.inner.autocast  # noqa: F401 - what autocast does with attention
from litmaml.engine.batch_norm import has_batch_norm
from litmaml.engine.features import Features, OtherCalls
from litmaml.engine.switches import is_on
from litmaml.engine.together import (
    Convolution,
    Drawn,
    can_be_mapped,
    first_convolution,
    task_by_task,
    tasks_at_once,
    tasks_held,
)
from litmaml.inner.channels_last import channels_last, has_channels_last
from litmaml.inner.constant_parts import ConstantParts
from litmaml.inner.derivatives import Derivatives, needs_other_operations
from litmaml.inner.gradient_rule import GradientRule, plain
from litmaml.inner.head import seen_by
from litmaml.inner.layers import random_layers
from litmaml.inner.learnt import Learnt
from litmaml.inner.model_call import Output, arguments, picked, predictions_of
from litmaml.inner.optimizer import InnerOptimizer
from litmaml.inner.places import aliases
from litmaml.inner.surroundings import no_hooks, unfused_attention
from litmaml.inner.task_head import HeadStart, task_head
from litmaml.inner.weight_roles import assign_roles, check_roles
from litmaml.tasks import Batch, MetaBatch, Tasks, Tree, copies, ordinary, tensors_of, tree_map
from litmaml.weights import Params, Weights

_COPIES = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class InnerLoop(nn.Module):
    """theta_{j+1} = U_j(theta_j, grad l(theta_j; S_j)) from theta_0, the model's weights, for every task.

    The model is called functionally with each task's own fast weights: in a loop over tasks or by ``vmap``.
    Only the forward pass is mapped, and the sum of the tasks' losses is differentiated outside: mapping the gradient
    itself is wrong at second order for affine normalisation layers (PyTorch functorch issue 534).

    Args:
        model: Any module that maps a batch of inputs (n, ...) to predictions (n, ...). A dict of inputs is given to it
            by keyword, a tuple by position.
        loss: (predictions, targets) -> a scalar.
        optimizer: U, the inner optimizer; it is not changed.
        fast_weights: Patterns (``*`` and ``?``; a bracket is a bracket) of the names of the parameters to adapt: ``*``
            is MAML, ``head.*`` of a model with a head ANIL. A buffer is adapted where it is named in full, as CAVIA's
            context is: from its fixed value, which is not trained. A tied parameter fits by any of its names.
            Parameters that need no gradient are never adapted.
        steps: N, for which rates and weights per step are made.
        frozen_weights: Patterns of the parameters that are neither adapted nor trained.
        per_step_weights: Patterns of the parameters that have a row for each inner step, as the batch norms of MAML++
            (Antoniou et al. 2019, arXiv 1810.09502). They are not adapted; row j is taken in step j and by the query
            after it, and the last one in further steps.
        output: Which of the model's outputs are the predictions, where it returns several; see ``picked``.
        head: The name of the layer that gives the logits, where it is not the one registered last.
        head_start: Where its weights start in each task: as they are learnt, at zero or from the class means of the
            support, see ``TaskHead``. In the last two they are adapted and not trained, and what is learnt for single
            entries, such as rates, is shared by the classes.

    Attributes:
        fast_names, slow_names, rows: The names of the weights that are adapted, that are only trained, and that
            ``per_step_weights`` fits; see ``WeightRoles``.
        learnt: What the inner optimizer learns, and the rows of ``per_step_weights``.
        draws: Whether a forward pass draws random numbers; tasks are then computed in a loop.
        mapped: Whether ``vmap`` can take the model and its loss; else tasks are computed in a loop too.
        changes_inputs: Whether a forward pass writes into its inputs, so that it gets a copy.
        constant: Parts of the model that no inner step changes. Batches may come with their outputs in place.
        head: The ``TaskHead``, if the head does not start as it was learnt.

    What the layers tell of ``draws`` and the next two is set at once; ``try_first_batch`` finds the rest.

    Raises:
        ValueError: A pattern fits no trainable parameter, or a parameter has no shape yet.

    Example:
        A step of l(w) = (w x - y)^2 at x = y = 1 from w = 0, whose gradient is -2:

        >>> import torch
        >>> from litmaml.inner import SGD
        >>> model = nn.Linear(1, 1, bias=False)
        >>> nn.init.zeros_(model.weight).shape
        torch.Size([1, 1])
        >>> one = Batch(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
        >>> loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], steps=1)
        >>> *_, adapted = loop.path(Tasks((one,), one, torch.zeros(1).long()), 1)
        >>> round(adapted["weight"].item(), 6)
        0.2
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        optimizer: InnerOptimizer,
        fast_weights: Sequence[str],
        steps: int,
        frozen_weights: Sequence[str] = (),
        per_step_weights: Sequence[str] = (),
        output: Output = None,
        head: str | None = None,
        head_start: HeadStart = "learnt",
    ) -> None:
        super().__init__()
        self.model, self.loss, self.optimizer, self.trained_steps = model, loss, optimizer, steps
        self.output = output
        for name, weight in model.named_parameters():
            if isinstance(weight, nn.parameter.UninitializedParameter):
                raise ValueError(f"model: {name} has no shape yet; run one batch through lazy layers first")
        if wrapped := [module for module in model.modules() if isinstance(module, _COPIES)]:
            raise ValueError(
                f"model: holds a {type(wrapped[0]).__name__}, which computes with copies of the weights; give what it "
                "wraps (.module), and the number of devices as trainer.devices"
            )
        self.head = task_head(model, loss, head, head_start)
        for name in self.begun:  # in a model that was in an inner loop before they are held still
            model.get_parameter(name).requires_grad_(True)
        roles = assign_roles(model, fast_weights, frozen_weights, per_step_weights)
        self.fast_names, self.slow_names, self.rows = roles
        weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name in self.begun:
            if name not in self.fast_names:
                raise ValueError(f"head_start: {name} is not adapted, got {head_start!r}; add it to fast_weights")
            weights[name].requires_grad_(False)
        self.learnt = Learnt(steps)
        for name in self.rows:
            self.learnt.add("weights." + name, weights[name].detach().expand(steps, *weights[name].shape), True)
        start = {name: weights[name].detach() for name in self.fast_names}
        start |= {name: start[name][:1] for name in self.begun}
        for key, value in optimizer.learnt(start, steps).items():
            self.learnt.add(key, value, optimizer.per_step)
        # In a tuple, since an attribute would make it a module twice.
        self._convolution: tuple[Convolution | None] = (first_convolution(model),)
        self._images = any(isinstance(module, nn.Conv2d) for module in model.modules())
        self._batch_norm, self._written_out = has_batch_norm(model), needs_other_operations(model)
        self.draws, self.mapped, self.changes_inputs = bool(random_layers(model)), can_be_mapped(model), False
        self.channels_last = has_channels_last(model)
        # Looking for tied weights in each call takes longer than a small network's forward pass.
        self._tied = aliases(model)
        self.constant = ConstantParts()

    def check_trainable(self) -> None:
        """Refuse a model that has been frozen or unfrozen since; see ``check_roles``."""
        check_roles(self.model, [name for name in self.fast_names if name not in self.begun], self.slow_names)

    @property
    def begun(self) -> tuple[str, ...]:
        """The weights that start in each task anew."""
        return () if self.head is None else self.head.parts

    @property
    def _maps(self) -> bool:
        return self.mapped and not self.draws and is_on("together")

    def predict(self, fast: Params, inputs: Tree, slow: Params | None = None) -> Tensor:
        """Each task's predictions (T, n, ...) by its own fast weights, on inputs (T, n, ...)."""
        predictions: Tensor = self.each(lambda weights, x: self.call(weights, slow, x), fast, inputs)
        return predictions

    def loss_of(self, predictions: Tensor, targets: Tree) -> Tensor:
        """The loss of each task (T,) for predictions already made."""
        losses: Tensor = self._task_by_task(self.loss, self._maps, len(predictions), predictions, targets)
        return losses

    def losses(self, fast: Params, slow: Params, batch: Batch, twice: bool = False) -> Tensor:
        """l of each task (T,). ``twice``: its gradient is to be differentiated again."""
        # Not for all: small networks feel a context.
        with Derivatives() if twice and self._batch_norm else nullcontext():
            return self.outcome(fast, slow, batch)[0]

    def outcome(self, fast: Params, slow: Params, batch: Batch, loss: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """l of each task (T,), or another loss, and the predictions (T, n, ...) that it is taken on."""
        taken = self.loss if loss is None else loss

        def one(weights: Params, inputs: Tree, targets: Tree) -> tuple[Tensor, Tensor]:
            predictions = self.call(weights, slow, inputs)
            return taken(predictions, targets), predictions

        losses, predictions = self.each(one, fast, batch.inputs, batch.targets)
        return losses, predictions

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Of a checkpoint of version 0.1, in which learnt rates belonged to the inner optimizer.
        for key in [key for key in state_dict if key.startswith(old := prefix + "optimizer.rates.values.")]:
            name = key.removeprefix(old)
            state_dict[f"{prefix}learnt.rate" + ("" if name == "all" else f"/{name.lstrip('/')}")] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def default_chunk(self, tasks: Tasks, steps: int = 1, once: bool = False) -> int:
        """How many tasks to adapt together: those whose support fits at once, if memory takes so many steps' graphs.

        ``once``: Constant parts are computed once. Where all convolutions are in them, the steps take any number.
        """
        support, calls = tasks.support[0].inputs, self.constant.of(self.model)
        if once and self._maps and calls is not None and calls.left is None:
            return tasks_held(*self._convolution, [batch.inputs for batch in (*tasks.adapting, tasks.query)])
        held = [support] * steps + [tasks.query.inputs]
        return min(self.tasks_at_once(support), tasks_held(*self._convolution, held))

    def tasks_at_once(self, inputs: Tree) -> int:
        """How many tasks' forward passes to compute at once on such inputs (T, n, ...)."""
        if isinstance(inputs, Features) and (calls := self.constant.of(self.model)) is not None:
            return tasks_at_once(calls.left, inputs.parts) if self._maps else 1
        return tasks_at_once(*self._convolution, inputs) if self._maps else 1

    def each(self, function: Callable[..., Any], fast: Params, inputs: Tree, *others: Tree) -> Any:
        """The function of each task's fast weights and inputs, at once or in a loop."""
        first = inputs if isinstance(inputs, Tensor) else tensors_of(inputs)[0]
        at_once = self.tasks_at_once(inputs) == len(first)
        # On a GPU grouped convolutions are slow, and under vmap torch's own batch norm takes no channels-last images.
        other = self._written_out or (first.is_cuda and self._images)
        with unfused_attention(), no_hooks(), Derivatives() if other else nullcontext():
            return self._task_by_task(function, at_once, len(first), fast, inputs, *others)

    def _task_by_task(self, function: Callable[..., Any], at_once: bool, tasks: int, *stacked: Any) -> Any:
        try:
            return task_by_task(function, at_once, tasks, *stacked)
        except Drawn:  # by a generator of its own, or for this data only: the trial has seen nothing of it
            self.mapped = False
            return task_by_task(function, False, tasks, *stacked)

    def call(self, weights: Params, slow: Params | None, inputs: Tree) -> Tensor:
        """The model's predictions (n, ...) with a single task's weights."""
        both = {**slow, **weights} if slow else weights
        if self._tied:
            both = both | {alias: both[name] for alias, name in self._tied.items() if name in both}
        if isinstance(inputs, Features):
            inputs, parts = inputs
            if (calls := self.constant.of(self.model)) is not None:
                try:
                    replayed: Tensor = calls.replay(lambda: self._called(both, inputs), parts)
                    return replayed
                except OtherCalls:
                    self.constant.drop(self.model)
        return self._called(both, inputs)

    def _called(self, weights: Params, inputs: Tree) -> Tensor:
        if self.changes_inputs:
            inputs = copies(inputs)
        if self.channels_last:
            inputs = tree_map(channels_last, inputs)
        outputs = functional_call(self.model, weights, *arguments(inputs), tie_weights=False)
        predictions: Tensor = outputs if self.output is None else picked(outputs, self.output)
        return predictions

    def own_predictions(self, inputs: Tree) -> Any:
        """What the model by itself, called as anyone would call it, predicts for inputs (n, ...): a tensor, if it fits.

        Raises:
            ValueError: It has no such ``output``.
        """
        return predictions_of(self.model, inputs, self.output)

    def start(self, tasks: Tasks) -> Weights:
        """theta_0 of the tasks, stacked, and the slow weights that they share.

        Slow weights per step come with all their rows, see ``at_step``.
        """
        fast, slow = self.learnt_start(tasks.size)
        if self.head is None:
            return Weights(fast, slow)
        # Of weights of their own: the inner gradient by these is to hold the head still.
        apart = self.learnt_start(tasks.size).fast
        name, own = self.head.name, {part: self.model.get_parameter(part) for part in self.head.parts}
        begun = self.head.weights(own, lambda x: self.features(name, apart, x, self.at_step(slow, 0)), tasks)
        return Weights(fast | {part: _leaf(weight) for part, weight in begun.items()}, slow)

    def shared_start(self, tasks: int) -> Weights:
        """theta_0 for so many tasks where it is the same in all of them.

        Raises:
            ValueError: The head starts in each task anew.
        """
        if self.head is not None:
            raise ValueError(
                "head_start: what is measured at the weights that all tasks start from needs a head that starts as it "
                f"is learnt, got {self.head.start!r}; set it to learnt"
            )
        return self.learnt_start(tasks)

    def by_classes(self, tasks: MetaBatch) -> MetaBatch:
        """The tasks in stacks whose heads can start together; see ``TaskHead.by_classes``."""
        return tasks if self.head is None else self.head.by_classes(tasks)

    def with_classes(self, stack: Tasks) -> Tasks:
        """The stack with the number of classes that its tasks have in common, where their heads are made for it.

        Raises:
            ValueError: They have several.
        """
        return stack if self.head is None else self.head.with_classes(stack)

    def features(self, head: str, fast: Params, inputs: Tree, slow: Params | None = None) -> Tensor:
        """What goes into the layer of this name, in each task (T, n, ...).

        Raises:
            ValueError: A forward pass calls it several times, or not at all.
        """
        layer = self.model.get_submodule(head)

        def one(weights: Params, x: Tree) -> Tensor:
            with seen_by(layer) as seen:
                self.call(weights, slow, x)
            if len(seen) != 1:
                raise ValueError(
                    f"head: a forward pass calls it {len(seen)} times, and once is needed, got {head!r}; name another "
                    "layer, or set head_start to learnt"
                )
            return seen[0]

        found: Tensor = self.each(one, fast, inputs)
        return found

    def learnt_start(self, tasks: int) -> Weights:
        """The same as it is learnt, for so many tasks, whatever becomes of the head."""
        weights = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        fast = {name: _leaf(weights[name]).expand(tasks, *weights[name].shape) for name in self.fast_names}
        slow = {name: weights[name] for name in self.slow_names}
        return Weights(fast, slow | {name: self.learnt["weights." + name] for name in self.rows})

    def at_step(self, slow: Params, j: int) -> Params:
        """The slow weights of inner step ``j``, from those of all."""
        if not self.rows:
            return slow
        return slow | {name: slow[name][min(j, self.trained_steps - 1)] for name in self.rows}

    def at_query(self, slow: Params, j: int) -> Params:
        """The slow weights that a query takes after ``j`` inner steps: those of the last one."""
        return self.at_step(slow, max(j - 1, 0))

    def forward(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function of this inner loop, as it stands: by ``functional_call`` with other weights and rates."""
        return function(self, *arguments)

    def steps(
        self, start: Params, slow: Params, tasks: Tasks, count: int, gradient: GradientRule = plain
    ) -> Iterator[Params]:
        """theta_0, theta_1, ... theta_N of the tasks, N = ``count``, along the gradients of the rule.

        Where there are fewer batches than steps, as in evaluation with more steps, they go round.
        """
        learnt = self.learnt.values()
        fast, state = start, self.optimizer.start(start)
        yield fast
        for j in range(count):
            found = gradient(self.losses, fast, self.at_step(slow, j), tasks.step(j))
            fast, state = self.optimizer.step(j, fast, found, state, learnt)
            yield fast

    def path(self, tasks: Tasks, steps: int, gradient: GradientRule = plain) -> Iterator[Params]:
        """theta_0, ..., theta_N without a graph, for evaluation; also inside ``no_grad`` and ``inference_mode``.

        Slow weights per step are among them, with the step's row for every task.
        """
        with torch.inference_mode(False), torch.no_grad():
            tasks = ordinary(tasks)
            start, slow = self.start(tasks)
            found = self.steps(start, slow, tasks, steps, gradient)
        for j in range(steps + 1):
            with torch.inference_mode(False), torch.no_grad():
                fast = next(found)
                row = self.at_query(slow, j)
                rows = {name: row[name].expand(tasks.size, *row[name].shape) for name in self.rows}
            yield {name: weight.detach() for name, weight in (fast | rows).items()}


def _leaf(weight: Tensor) -> Tensor:
    """A buffer is made a leaf, to be differentiated by like a parameter."""
    return weight if weight.requires_grad else weight.detach().requires_grad_()
