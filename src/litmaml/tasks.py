"""What the layers hand to each other: batches, and stacks of tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from litmaml.weights import Params

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


class StepTasks(NamedTuple):
    """What T tasks bring to one inner step.

    support: The batch that it adapts to. hessian: The batch of the Hessian products, or None: the support batch.
    directions: Of a sampled outer gradient, by weight (T, Q, ...), or None.
    """

    support: Batch
    hessian: Batch | None = None
    directions: Params | None = None


class Tasks(NamedTuple):
    """T stacked tasks.

    support: what the inner loop adapts to: one batch that every inner step uses again (the finite-sum case of
        Ji et al.), or N batches, a fresh one for each of N inner steps (resampling; S_j, Fallah's D_in).
    query: what the outer loss is taken on (T, D_o).
    hessian: N batches for the Hessian products (D_j, D_h), or None: each step's own support batch.
    numbers: (T,) int64, the task numbers; they name a task in errors and seed its random directions.
    directions: What a sampled outer gradient draws for each of N inner steps, by weight (T, Q, ...), or None.
    weights: (T,) what each task counts in the outer loss, 1 on the average, or None: all alike.
    """

    support: tuple[Batch, ...]
    query: Batch
    numbers: Tensor
    hessian: tuple[Batch, ...] | None = None
    directions: tuple[Params, ...] | None = None
    weights: Tensor | None = None

    def step(self, j: int) -> StepTasks:
        """What inner step ``j`` takes; where there are fewer batches than steps, they go round."""
        return StepTasks(
            self.support[j % len(self.support)],
            None if self.hessian is None else self.hessian[j % len(self.hessian)],
            None if self.directions is None else self.directions[j],
        )

    def check_batches(self, steps: int) -> None:
        """Refuse numbers of batches that do not fit N = ``steps`` inner steps.

        Raises:
            ValueError: There are neither one nor N.
        """
        for batches in (self.support, self.hessian or self.support):
            if len(batches) not in (1, steps):
                raise ValueError(
                    f"support_batches, hessian_batches: {len(batches)} per task do not fit {steps} inner steps; set "
                    "support_batches to 1 or to the number of steps"
                )

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
        directions=None
        if tasks.directions is None
        else tuple({name: part[which] for name, part in step.items()} for step in tasks.directions),
        weights=None if tasks.weights is None else tasks.weights[which],
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
