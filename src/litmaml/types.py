"""What the layers hand to each other: parameters by name, batches, and stacks of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

Params = dict[str, Tensor]
"""Tensors by parameter name. Fast weights carry one more leading dimension, the task."""

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Batch(NamedTuple):
    """Labelled examples of T stacked tasks, n of each.

    inputs: (T, n, ...). targets: (T, n) class indices, or (T, n, ...) values.
    jitter: uniform random numbers (T, n, k) that the task distribution's ``render`` turns into augmentation;
        None where nothing is to be augmented (always None after rendering).
    """

    inputs: Tensor
    targets: Tensor
    jitter: Tensor | None = None


class Tasks(NamedTuple):
    """T stacked tasks.

    support: what the inner loop adapts to: one batch that every inner step uses again (the finite-sum case of
        Ji et al.), or N batches, a fresh one for each of N inner steps (resampling; S_j, Fallah's D_in).
    query: what the outer loss is taken on (T, D_o).
    hessian: N batches for the Hessian products (D_j, D_h), or None: each step's own support batch.
    numbers: (T,) int64, the task numbers; they name a task in errors and seed its random directions.
    """

    support: tuple[Batch, ...]
    query: Batch
    numbers: Tensor
    hessian: tuple[Batch, ...] | None = None

    @property
    def size(self) -> int:
        """T, the number of tasks."""
        return len(self.numbers)

    @property
    def adapting(self) -> tuple[Batch, ...]:
        """The batches that inner steps are taken on: support, and Hessian products' own."""
        return self.support + (self.hessian or ())


def of_each_form(batches: Iterable[Batch], sized: bool = False) -> list[Batch]:
    """The first batch of each form: shapes and dtypes of single inputs and targets; ``sized``: and their number."""
    first: dict[object, Batch] = {}
    for batch in batches:
        parts = (batch.inputs, batch.targets)
        first.setdefault(tuple((part.shape[1 if sized else 2 :], part.dtype) for part in parts), batch)
    return [*first.values()]


def select(tasks: Tasks, which: slice | Sequence[int]) -> Tasks:
    """The chosen tasks of a stack, in the given order."""

    def pick(batch: Batch) -> Batch:
        return Batch(*(None if field is None else field[which] for field in batch))  # type: ignore[arg-type]

    return Tasks(
        support=tuple(pick(batch) for batch in tasks.support),
        query=pick(tasks.query),
        numbers=tasks.numbers[which],
        hessian=None if tasks.hessian is None else tuple(pick(batch) for batch in tasks.hessian),
    )


def map_batches(change: Callable[[Batch], Batch], tasks: Tasks) -> Tasks:
    """The tasks with each of their batches changed."""
    return tasks._replace(
        support=tuple(change(batch) for batch in tasks.support),
        query=change(tasks.query),
        hessian=None if tasks.hessian is None else tuple(change(batch) for batch in tasks.hessian),
    )


def chunks(tasks: Tasks, size: int) -> list[Tasks]:
    """The tasks in order, at most ``size`` at a time."""
    if size >= tasks.size:
        return [tasks]
    return [select(tasks, slice(start, start + size)) for start in range(0, tasks.size, size)]
