"""Tasks that come one after another, of which all that have come are trained on."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

import torch

from litmaml.data.task_distribution import TaskDistribution, check_at_least
from litmaml.data.tasks_within import TasksWithin
from litmaml.randomness import task_streams
from litmaml.tasks import MetaBatch, Split, Tasks, stacks_of


class OnlineTasks(TasksWithin):
    """Follow the meta leader (FTML, Finn et al. 2019, arXiv 1902.08438): round t = 0, 1, ... brings task t, and trains
    on tasks drawn uniformly from 0, ..., t.

    Training draw number k is of round t = k // every, and of the task that its own random stream picks: a pure function
    of (seed, k), so that nothing is kept and a resumed run goes on alike. Validation and test have the tasks of the
    distribution within. The callback ``Regret`` reports what the newest tasks cost before they are trained on.

    Args:
        tasks: Where they come from: task t is number t of its training split.
        every: Draws in a round.

    Raises:
        ValueError: every is below 1.
    """

    def __init__(self, tasks: TaskDistribution, every: int) -> None:
        check_at_least(1, every=every)
        super().__init__(tasks)
        self.every = every

    def source_of(self, split: Split, number: int, seed: int) -> str | None:
        return self.tasks.source_of(split, self.drawn(number, seed) if split == "train" else number, seed)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return self.tasks.describe(split) | ({"every": self.every} if split == "train" else {})

    def drawn(self, number: int, seed: int) -> int:
        """The task of a draw of training."""
        (stream,) = task_streams(seed, "train", [number], "rounds")
        return int(stream.integers(number // self.every + 1))

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
