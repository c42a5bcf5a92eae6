"""The inner loop: a model that adapts to the support set of each of T stacked tasks."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import litmaml.autocast  # noqa: F401 - what autocast does with attention
from litmaml.batch_norm import has_batch_norm
from litmaml.derivatives import Derivatives, needs_other_operations
from litmaml.inner_optimizer import InnerOptimizer
from litmaml.model_checks import random_layers
from litmaml.outer_gradient import FirstOrder, OuterGradient, SecondOrder
from litmaml.places import aliases, all_places
from litmaml.shown import listed
from litmaml.task_batching import (
    Convolution,
    Drawn,
    can_be_mapped,
    first_convolution,
    task_by_task,
    tasks_at_once,
    tasks_held,
)
from litmaml.types import Batch, Params, Tasks, map_batches

NO_HOOKS = (
    "model: recomputes activations or keeps them elsewhere (torch.utils.checkpoint, save_on_cpu), after the inner loop "
    "has put other weights into it; switch that off (gradient_checkpointing_disable() of a transformers model) and "
    "save memory by SecondOrder(recompute=True) or tasks_per_chunk"
)

_COPIES = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class InnerLoop(nn.Module):
    """theta_{j+1} = U_j(theta_j, grad l(theta_j; S_j)) from theta_0, the model's weights, for every task.

    The model is called functionally with each task's own fast weights: in a loop over tasks or by ``vmap``.
    Only the forward pass is mapped, and the sum of the tasks' losses is differentiated outside: mapping the gradient
    itself is wrong at second order for affine normalisation layers (PyTorch functorch issue 534).

    Args:
        model: Any module that maps a batch of inputs (n, ...) to predictions (n, ...).
        loss: (predictions, targets) -> a scalar.
        optimizer: U, the inner optimizer.
        outer_gradient: How the outer loop differentiates through the steps.
        fast_weights: Patterns (``*`` and ``?``; a bracket is a bracket) of the names of the parameters to adapt: ``*``
            is MAML, ``head.*`` of a model with a head ANIL. A tied parameter fits by any of its names. Parameters that
            need no gradient are never adapted.
        steps: N, for which per-step rates are made.

    Attributes:
        draws: Whether a forward pass draws random numbers.
        mapped: Whether ``vmap`` can take the model and its loss; else tasks are computed in a loop.
        changes_inputs: Whether a forward pass writes into its inputs, so that it gets a copy.

    What the layers tell of the first three is set at once; ``try_first_batch`` finds the rest.

    Raises:
        ValueError: A pattern fits no trainable parameter, or a parameter has no shape yet.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        optimizer: InnerOptimizer,
        outer_gradient: OuterGradient,
        fast_weights: Sequence[str],
        steps: int,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.optimizer, self.outer_gradient = model, loss, optimizer, outer_gradient
        trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        for name, weight in model.named_parameters():
            if isinstance(weight, nn.parameter.UninitializedParameter):
                raise ValueError(f"model: {name} has no shape yet; run one batch through lazy layers first")
        if wrapped := [module for module in model.modules() if isinstance(module, _COPIES)]:
            raise ValueError(
                f"model: holds a {type(wrapped[0]).__name__}, which computes with copies of the weights; give what it "
                "wraps (.module), and the number of devices as trainer.devices"
            )
        if not trainable:
            raise ValueError(
                "model: none of its parameters is trainable; leave those to adapt or to train with requires_grad=True"
            )
        called = {name: [name] for name in trainable}  # and by the names of a tied weight's other places
        for name, first in all_places(model).items():
            called.get(first, []).append(name)
        for pattern in fast_weights:
            if not any(_fits(names, pattern) for names in called.values()):
                raise ValueError(
                    f"fast_weights: {pattern!r} fits none of the model's trainable parameters: " + ", ".join(trainable)
                )
        self.fast_names = [name for name, names in called.items() if any(_fits(names, p) for p in fast_weights)]
        if not self.fast_names:
            raise ValueError("fast_weights: names no parameter; there is nothing to adapt")
        self.slow_names = [name for name in trainable if name not in set(self.fast_names)]
        # In a tuple, since an attribute would make it a module twice.
        self._convolution: tuple[Convolution | None] = (first_convolution(model),)
        self._images = any(isinstance(module, nn.Conv2d) for module in model.modules())
        self._batch_norm, self._written_out = has_batch_norm(model), needs_other_operations(model)
        self.draws, self.mapped, self.changes_inputs = bool(random_layers(model)), can_be_mapped(model), False
        optimizer.bind({name: trainable[name].detach() for name in self.fast_names}, steps)
        self.channels_last = any(
            weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
            for weight in model.parameters()
        )
        # Looking for tied weights in each call takes longer than a small network's forward pass.
        self._tied = aliases(model)

    def check_trainable(self) -> None:
        """Refuse a model of which other parameters can be adapted or trained now than when the inner loop was made.

        A slow weight may be frozen since: it is trained no longer.

        Raises:
            ValueError: Naming those.
        """
        known = {*self.fast_names, *self.slow_names}
        now = {name for name, weight in self.model.named_parameters() if weight.requires_grad}
        for names, what in (({*self.fast_names} - now, "no longer trainable"), (now - known, "trainable only now")):
            if names:
                raise ValueError(
                    f"model: {listed(sorted(names), 3)} {'is' if len(names) == 1 else 'are'} {what}, but when the "
                    "learner was made requires_grad decided what is adapted and trained; freeze or unfreeze the model "
                    "before it is given to the learner, without a callback that does so in between"
                )

    def predict(self, fast: Params, inputs: Tensor, slow: Params | None = None) -> Tensor:
        """Each task's predictions (T, n, ...) by its own fast weights, on inputs (T, n, ...)."""
        predictions: Tensor = self._each(lambda weights, x: self.call(weights, slow, x), fast, inputs)
        return predictions

    def loss_of(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The loss of each task (T,) for predictions already made."""
        losses: Tensor = task_by_task(self.loss, self.mapped, predictions, targets)
        return losses

    def losses(self, fast: Params, slow: Params, batch: Batch) -> Tensor:
        """l of each task (T,)."""
        # Not for all: small networks feel a context.
        twice = self._batch_norm and isinstance(self.outer_gradient, SecondOrder)
        with Derivatives() if twice else nullcontext():
            return self.outcome(fast, slow, batch)[0]

    def outcome(self, fast: Params, slow: Params, batch: Batch) -> tuple[Tensor, Tensor]:
        """l of each task (T,) and the predictions (T, n, ...) that it is taken on."""

        def one(weights: Params, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            predictions = self.call(weights, slow, inputs)
            return self.loss(predictions, targets), predictions

        losses, predictions = self._each(one, fast, batch.inputs, batch.targets)
        return losses, predictions

    def default_chunk(self, tasks: Tasks, steps: int = 1) -> int:
        """How many tasks to adapt together: those whose support fits at once, if memory takes so many steps' graphs."""
        support = tasks.support[0].inputs
        held = [support] * steps + [tasks.query.inputs]
        return min(self.tasks_at_once(support), tasks_held(*self._convolution, held))

    def tasks_at_once(self, inputs: Tensor) -> int:
        """How many tasks' forward passes to compute at once on such inputs (T, n, ...)."""
        return tasks_at_once(*self._convolution, inputs) if self.mapped else 1

    def _each(self, function: Callable[..., Any], fast: Params, inputs: Tensor, *others: Tensor) -> Any:
        """The function of each task's fast weights and inputs, at once or in a loop."""
        at_once = self.tasks_at_once(inputs) == len(inputs)
        # On a GPU grouped convolutions are slow, and under vmap torch's own batch norm takes no channels-last images.
        other = self._written_out or (inputs.is_cuda and self._images)
        with unfused_attention(), _no_hooks(), Derivatives() if other else nullcontext():
            try:
                return task_by_task(function, at_once, fast, inputs, *others, draws=self.draws)
            except Drawn:  # for this data only: the trial has seen nothing of it
                self.mapped = False
                return task_by_task(function, False, fast, inputs, *others)

    def call(self, weights: Params, slow: Params | None, inputs: Tensor) -> Tensor:
        """The model's predictions (n, ...) with a single task's weights."""
        both = {**slow, **weights} if slow else weights
        if self._tied:
            both = both | {alias: both[name] for alias, name in self._tied.items() if name in both}
        if self.changes_inputs:
            inputs = inputs.clone()
        if self.channels_last and inputs.dim() == 4:
            inputs = _channels_last(inputs)
        predictions: Tensor = functional_call(self.model, both, (inputs,), tie_weights=False)
        return predictions

    def start(self, tasks: int) -> tuple[Params, Params]:
        """theta_0 stacked for so many tasks, and the slow weights that they share."""
        weights = dict(self.model.named_parameters())
        fast = {name: weights[name].expand(tasks, *weights[name].shape) for name in self.fast_names}
        return fast, {name: weights[name] for name in self.slow_names}

    def forward(self, tasks: Tasks, steps: int) -> tuple[Tensor, Tensor]:
        """The outer losses l(theta_N; query) of the tasks (T,) and their predictions on the query (T, n, ...)."""
        start, slow = self.start(tasks.size)
        return self.outcome(self._adapted(start, slow, tasks, steps), slow, tasks.query)

    def adapt(self, tasks: Tasks, steps: int) -> Params:
        """theta_N, differentiable by the initial weights and the inner rates as the outer gradient has it."""
        return self._adapted(*self.start(tasks.size), tasks, steps)

    def _adapted(self, fast: Params, slow: Params, tasks: Tasks, steps: int) -> Params:
        state = self.optimizer.start(fast)
        for j in range(steps):
            hessian = None if tasks.hessian is None else tasks.hessian[_batch(j, tasks.hessian, steps)]
            support = tasks.support[_batch(j, tasks.support, steps)]
            gradient = self.outer_gradient.inner_gradient(self.losses, fast, slow, support, hessian)
            fast, state = self.optimizer.step(j, fast, gradient, state)
        return fast

    def path(self, tasks: Tasks, steps: int) -> Iterator[Params]:
        """theta_0, ..., theta_N without a graph, for evaluation; also inside ``no_grad`` and ``inference_mode``."""
        with torch.inference_mode(False), torch.enable_grad():
            tasks = ordinary(tasks)
            fast, slow = self.start(tasks.size)
            fast = {name: weight.detach() for name, weight in fast.items()}
            state = self.optimizer.start(fast)
        first_order = FirstOrder()
        yield fast
        for j in range(steps):
            with torch.inference_mode(False), torch.enable_grad():
                # Evaluation may take more steps than there are batches to train on: it goes round.
                support = tasks.support[j % len(tasks.support)]
                gradient = first_order.inner_gradient(self.losses, fast, slow, support, None)
                fast, state = self.optimizer.step(j, fast, gradient, state)
                fast = {name: weight.detach() for name, weight in fast.items()}
            yield fast


def _no_hooks() -> AbstractContextManager[None]:
    """Refuse a model that hooks what autograd saves, but let pass hooks from outside, which do not run it again."""
    outside = torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
    return nullcontext() if outside else disable_saved_tensors_hooks(NO_HOOKS)


def _channels_last(images: Tensor) -> Tensor:
    """The images (n, channels, height, width) with strides in the order of n, height, width, channels.

    For a single channel torch's own conversion keeps the strides, from which convolutions then take it that the images
    are not channels-last, and go on so down to the layers that do most of the work.
    """
    channels = images.movedim(1, -1)
    return channels.flatten().view(channels.shape).movedim(-1, 1)


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Fused attention has no second derivative, and fused encoder layers (torch's in eval mode) none under vmap."""
    fused_layers = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_layers)


def _fits(names: Sequence[str], pattern: str) -> bool:
    """Whether a parameter's name, or one of several, is one of a pattern.

    Names have brackets too, as in ``nn.ParameterDict``.
    """
    return any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for name in names)


def _batch(j: int, batches: Sequence[Batch], steps: int) -> int:
    if len(batches) not in (1, steps):
        raise ValueError(
            f"{len(batches)} support or Hessian batches a task do not fit {steps} inner steps: "
            "set support_batches to 1 or to the number of steps"
        )
    return j % len(batches)


def ordinary(tasks: Tasks) -> Tasks:
    """The tasks, with copies of inference tensors, which autograd may not save."""

    def copy(batch: Batch) -> Batch:
        return Batch(batch.inputs.clone(), batch.targets.clone())

    if not tasks.query.inputs.is_inference():
        return tasks
    return map_batches(copy, tasks)
