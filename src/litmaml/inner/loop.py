"""The inner loop: a model that adapts to the support set of each of T stacked tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.inner.gradient_rule import GradientRule, plain
from litmaml.inner.learnt import Learnt
from litmaml.inner.model_call import Output
from litmaml.inner.optimizer import InnerOptimizer
from litmaml.inner.task_head import HeadStart, task_head
from litmaml.inner.task_model import TaskModel
from litmaml.inner.weight_roles import assign_roles, check_roles
from litmaml.tasks import MetaBatch, Tasks, ordinary
from litmaml.weights import Params, Weights, named_weights


class InnerLoop(TaskModel):
    """theta_{j+1} = U_j(theta_j, grad l(theta_j; S_j)) from theta_0, the model's weights, for every task.

    Args:
        model, loss, output: See ``TaskModel``.
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
        head: The name of the layer that gives the logits, where it is not the one registered last.
        head_start: Where its weights start in each task: as they are learnt, at zero or from the class means of the
            support, see ``TaskHead``. In the last two they are adapted and not trained, and what is learnt for single
            entries, such as rates, is shared by the classes.

    Attributes:
        fast_names, slow_names, rows: The names of the weights that are adapted, that are only trained, and that
            ``per_step_weights`` fits; see ``WeightRoles``.
        learnt: What the inner optimizer learns, and the rows of ``per_step_weights``.
        head: The ``TaskHead``, if the head does not start as it was learnt.

    Raises:
        ValueError: A pattern fits no trainable parameter, or the model cannot be called so, see ``TaskModel``.

    Example:
        A step of l(w) = (w x - y)^2 at x = y = 1 from w = 0, whose gradient is -2:

        >>> import torch
        >>> from litmaml.inner import SGD
        >>> from litmaml.tasks import Batch
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
        super().__init__(model, loss, output)
        self.optimizer, self.trained_steps = optimizer, steps
        self.head = task_head(model, loss, head, head_start)
        for name in self.begun:  # in a model that was in an inner loop before they are held still
            model.get_parameter(name).requires_grad_(True)
        roles = assign_roles(model, fast_weights, frozen_weights, per_step_weights)
        self.fast_names, self.slow_names, self.rows = roles
        weights = named_weights(model)
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
            self.learnt.add(key, value, optimizer.has_rows(key))

    def check_trainable(self) -> None:
        """Refuse a model that has been frozen or unfrozen since; see ``check_roles``."""
        check_roles(self.model, [name for name in self.fast_names if name not in self.begun], self.slow_names)

    def trained(self) -> Params:
        """What the outer loop trains, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    @property
    def optimizer_learns(self) -> list[str]:
        """The names of what the inner optimizer learns."""
        rows = {"weights." + name for name in self.rows}
        return [name for name in self.learnt.names if name not in rows]

    @property
    def begun(self) -> tuple[str, ...]:
        """The weights that start in each task anew."""
        return () if self.head is None else self.head.parts

    @property
    def shared_names(self) -> list[str]:
        """The weights that tasks share: slow ones, and those that have rows."""
        return [*self.slow_names, *self.rows]

    @property
    def fixed_starts(self) -> list[str]:
        """The fast weights whose start is neither trained nor made of what is: buffers, and a head from zero."""
        zero = self.begun if self.head is not None and self.head.start == "zero" else ()
        trained = {name for name, _ in self.model.named_parameters()}
        return [name for name in self.fast_names if name in zero or name not in trained]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Of a checkpoint of version 0.1, in which learnt rates belonged to the inner optimizer.
        for key in [key for key in state_dict if key.startswith(old := prefix + "optimizer.rates.values.")]:
            name = key.removeprefix(old)
            state_dict[f"{prefix}learnt.rate" + ("" if name == "all" else f"/{name.lstrip('/')}")] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

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

    def learnt_start(self, tasks: int) -> Weights:
        """The same as it is learnt, for so many tasks, whatever becomes of the head."""
        weights = named_weights(self.model)
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
