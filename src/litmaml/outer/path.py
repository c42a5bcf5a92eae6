"""The path of inner steps, as an outer gradient sees it, and the outer loss along it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from torch import Tensor, nn

from litmaml.inner.gradient_rule import GradientRule, plain
from litmaml.inner.learnt import Learnt
from litmaml.inner.optimizer import InnerOptimizer
from litmaml.outer.loss import OuterLoss
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params


class Inner(Protocol):
    """What an outer gradient may ask of the inner loop."""

    @property
    def optimizer(self) -> InnerOptimizer:
        """U."""

    @property
    def learnt(self) -> Learnt:
        """What the inner optimizer learns."""

    @property
    def fixed_starts(self) -> list[str]:
        """The fast weights whose start is neither trained nor made of what is."""

    def losses(self, fast: Params, slow: Params, batch: Batch, twice: bool = False) -> Tensor:
        """l of each task (T,)."""

    def steps(
        self, start: Params, slow: Params, tasks: Tasks, count: int, gradient: GradientRule = ...
    ) -> Iterator[Params]:
        """theta_0, ..., theta_N along the rule's gradients."""

    def at_query(self, slow: Params, j: int) -> Params:
        """The slow weights that a query takes after ``j`` inner steps, from those of all steps."""

    def outcome(self, fast: Params, slow: Params, batch: Batch, loss: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """The losses (T,) and predictions of a batch."""


class AroundInner:
    """An inner loop that passes everything on to another, for those that answer a part of it otherwise."""

    def __init__(self, inner: Inner) -> None:
        self._inner = inner

    @property
    def optimizer(self) -> InnerOptimizer:
        return self._inner.optimizer

    @property
    def learnt(self) -> Learnt:
        return self._inner.learnt

    @property
    def fixed_starts(self) -> list[str]:
        return self._inner.fixed_starts

    def losses(self, fast: Params, slow: Params, batch: Batch, twice: bool = False) -> Tensor:
        return self._inner.losses(fast, slow, batch, twice)

    def steps(
        self, start: Params, slow: Params, tasks: Tasks, count: int, gradient: GradientRule = plain
    ) -> Iterator[Params]:
        return self._inner.steps(start, slow, tasks, count, gradient)

    def at_query(self, slow: Params, j: int) -> Params:
        return self._inner.at_query(slow, j)

    def outcome(self, fast: Params, slow: Params, batch: Batch, loss: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        return self._inner.outcome(fast, slow, batch, loss)


def end_of(path: Iterator[Params]) -> Params:
    """The last weights of a path, of which no others are kept."""
    return deque(path, maxlen=1).pop()


def loss_of_path(
    inner: Inner,
    outer_loss: OuterLoss,
    start: Params,
    slow: Params,
    tasks: Tasks,
    steps: int,
    epoch: int,
    gradient: GradientRule = plain,
) -> tuple[Tensor, Tensor]:
    """The outer losses (T,) along the path of N = ``steps`` inner steps, and the predictions on the query at its end.

    Raises:
        ValueError: The tasks have batches for another number of steps, or the outer loss has no weight for each step or
            no number per task.
    """
    tasks.check_batches(steps)
    shares = outer_loss.step_weights(steps, epoch)
    if shares is not None and len(shares) != steps + 1:
        raise ValueError(
            f"outer_loss.step_weights: has to give a weight for the start and each of {steps} inner steps, got "
            f"{len(shares)}; give {steps + 1}"
        )
    total: Tensor | None = None
    for j, fast in enumerate(inner.steps(start, slow, tasks, steps, gradient)):
        term: Tensor | None = None
        if j < steps:
            term = outer_loss.along(inner, j, fast, inner.at_query(slow, j + 1), tasks.step(j).support)
        if j == steps or (shares is not None and shares[j] != 0):
            losses, predictions = inner.outcome(fast, inner.at_query(slow, j), tasks.query, outer_loss.loss)
            if shares is not None:
                losses = shares[j] * losses
            term = losses if term is None else term + losses
        if term is not None:
            if term.shape != (tasks.size,):  # such as a sum over tasks, which would count in each of them
                raise ValueError(
                    f"outer_loss: its terms have to be one number per task, ({tasks.size},), got "
                    f"{tuple(term.shape)}; sum over all but the first dimension"
                )
            total = term if total is None else total + term
    assert total is not None  # of the last step
    return total, predictions
