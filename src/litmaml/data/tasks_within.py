"""Distributions that change something of the tasks of another one, and leave the rest to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from litmaml.data.episode import Episode, Sizes
from litmaml.data.task_distribution import TaskDistribution
from litmaml.tasks import MetaBatch, Split, Tasks


class TasksWithin(TaskDistribution):
    """The tasks of a distribution, as they are; subclasses say what they change.

    Args:
        tasks: The distribution.
    """

    def __init__(self, tasks: TaskDistribution) -> None:
        if not isinstance(tasks, TaskDistribution):
            raise ValueError(f"tasks: has to be a distribution of tasks, got {tasks!r}; give one, such as Sinusoid()")
        # Their sizes are checked by what they are of.
        self.tasks, self.train, self.test = tasks, tasks.train, tasks.test

    @property
    def shares_examples(self) -> bool:  # type: ignore[override]  # of the distribution within
        return self.tasks.shares_examples

    @property
    def most_ways(self) -> int:  # type: ignore[override]  # as above
        return self.tasks.most_ways

    def sizes(self, split: Split) -> Sizes:
        return self.tasks.sizes(split)

    def resized(self, test: Episode) -> Self:
        other = copy.copy(self)
        other.tasks, other.test = self.tasks.resized(test), test
        return other

    def prepare(self) -> None:
        self.tasks.prepare()

    def load(self, split: Split) -> None:
        self.tasks.load(split)

    def keep_on(self, split: Split, device: torch.device) -> None:
        self.tasks.keep_on(split, device)

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> MetaBatch:
        return self.tasks.sample(split, numbers, seed)

    def render(self, tasks: Tasks) -> Tasks:
        return self.tasks.render(tasks)

    def in_own_units(self, values: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
        return self.tasks.in_own_units(values, numbers, seed)

    def source_of(self, split: Split, number: int, seed: int) -> str | None:
        return self.tasks.source_of(split, number, seed)

    def group_of(self, split: Split, number: int, seed: int) -> str | None:
        return self.tasks.group_of(split, number, seed)

    def record(self) -> Mapping[str, Any] | None:
        return self.tasks.record()

    def adopt(self, record: object) -> None:
        self.tasks.adopt(record)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return self.tasks.describe(split)
