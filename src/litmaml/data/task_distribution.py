"""Where tasks come from: a distribution that makes task number i from a seed, a split and i alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from litmaml.tasks import Batch, MetaBatch, Split, Tasks, map_batches, tree_map


def check_at_least(least: int, **arguments: int | None) -> None:
    """Refuses counts below ``least``; None passes.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in arguments.items():
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def in_run_precision(tasks: Tasks) -> Tasks:
    """The tasks of a regression in torch's default dtype, which is the precision of the run while it renders."""
    dtype = torch.get_default_dtype()
    return map_batches(lambda batch: tree_map(lambda part: part.to(dtype), batch), tasks)


class TaskDistribution(ABC):
    """A distribution of tasks p(T), from which task number i is drawn as a pure function of (seed, split, i).

    Args:
        shots: Support examples (of each class, in classification) in one support batch.
        queries: Query examples (of each class, in classification).
        test_shots: Support examples in validation and test; as in training if not given.
        test_queries: Query examples in validation and test; as in training if not given.
        support_batches: 1: every inner step uses the same support batch (the finite-sum case). N: a fresh one
            for each of N inner steps (the resampling case).
        hessian_batches: 0: the Hessian products of the outer gradient use each step's own support batch. N: a
            fresh batch for each of N inner steps.

    Raises:
        ValueError: if a count is too small.
    """

    shares_examples: ClassVar[bool] = False
    """Whether support and query share examples on purpose, as where both are the whole of a finite problem: then they
    are not looked for."""

    def __init__(
        self,
        shots: int,
        queries: int,
        test_shots: int | None = None,
        test_queries: int | None = None,
        support_batches: int = 1,
        hessian_batches: int = 0,
    ) -> None:
        check_at_least(
            1,
            shots=shots,
            queries=queries,
            test_shots=test_shots,
            test_queries=test_queries,
            support_batches=support_batches,
        )
        check_at_least(0, hessian_batches=hessian_batches)
        self.shots = shots
        self.queries = queries
        self.test_shots = test_shots
        self.test_queries = test_queries
        self.support_batches = support_batches
        self.hessian_batches = hessian_batches

    def shots_in(self, split: Split) -> int:
        """Support examples (of each class) in one support batch of a task of this split."""
        return self.shots if split == "train" or self.test_shots is None else self.test_shots

    def queries_in(self, split: Split) -> int:
        """Query examples (of each class) in a task of this split."""
        return self.queries if split == "train" or self.test_queries is None else self.test_queries

    def _arrange(self, batches: Sequence[Batch], numbers: Sequence[int]) -> Tasks:
        """Stacked batches, in the order support, Hessian, query, as tasks."""
        return Tasks(
            support=tuple(batches[: self.support_batches]),
            query=batches[-1],
            numbers=torch.as_tensor(numbers, dtype=torch.int64),
            hessian=tuple(batches[self.support_batches : -1]) or None,
        )

    def prepare(self) -> None:  # noqa: B027 - most distributions have nothing to prepare
        """Downloads and caches what is needed. Called by one process of each machine."""

    def load(self, split: Split) -> None:  # noqa: B027 - a formula has nothing to load
        """Brings what the tasks of a split are made of into memory and checks it. A second call does
        nothing."""

    @abstractmethod
    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> MetaBatch:
        """The tasks with these numbers, stacked, on the CPU. Cheap: pictures are still uint8.

        Tasks of unequal size come in several stacks (``in_stacks``), each of which is computed by itself. Sizes that
        are nearly alike cost one small stack each: round them to a few.

        Args:
            split: Which classes or functions to draw from.
            numbers: The tasks' numbers, not negative.
            seed: Of the whole experiment; not negative.
        """

    def render(self, tasks: Tasks) -> Tasks:
        """What the learner is given of a stack: on the tensors' own device, as floats, augmented.

        Raw inputs may be a dict of whatever is to be made into what the model takes.
        """
        return tasks

    @abstractmethod
    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        """The protocol that results of this split are stated with, in plain types."""
