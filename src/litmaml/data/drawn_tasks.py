"""Distributions of which each training draw is some task of another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Sequence

import torch

from litmaml.data.tasks_within import TasksWithin
from litmaml.tasks import MetaBatch, Split, Tasks, stacks_of


class DrawnTasks(TasksWithin, ABC):
    """Training draw number k is a task that subclasses say; validation and test have the tasks of those within.

    Args:
        tasks: Where they come from.
    """

    @abstractmethod
    def drawn(self, number: int, seed: int) -> int:
        """The task of a draw of training."""

    def source_of(self, split: Split, number: int, seed: int) -> str | None:
        return self.tasks.source_of(split, self.drawn(number, seed) if split == "train" else number, seed)

    def group_of(self, split: Split, number: int, seed: int) -> str | None:
        return self.tasks.group_of(split, self.drawn(number, seed) if split == "train" else number, seed)

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> MetaBatch:
        if split != "train":
            return self.tasks.sample(split, numbers, seed)
        of_task: dict[int, deque[int]] = defaultdict(deque)
        for number in numbers:
            of_task[self.drawn(number, seed)].append(number)
        found = self.tasks.sample(split, [task for task, draws in of_task.items() for _ in draws], seed)
        # Under the numbers of the draws: where a task comes again, so are its random directions others.
        named = tuple(
            stack._replace(numbers=torch.tensor([of_task[task].popleft() for task in stack.numbers.tolist()]))
            for stack in stacks_of(found)
        )
        return named[0] if isinstance(found, Tasks) else named
