"""Finitely many tasks of a distribution that has no end."""

from __future__ import annotations

from litmaml.data.drawn_tasks import DrawnTasks
from litmaml.data.task_distribution import TaskDistribution, check_at_least
from litmaml.tasks import Split


class FiniteTasks(DrawnTasks):
    """The first ``pool`` training tasks of another distribution, over and over: draw k is task k modulo ``pool``, with
    the same examples each time.

    For what has something of each task, such as ``WorstCaseLoss``. Validation and test have the tasks of the
    distribution within, without end.

    Args:
        tasks: Where they come from.
        pool: How many of them there are.

    Raises:
        ValueError: pool is below 1.

    Example:
        >>> from litmaml.data import Sinusoid
        >>> few = FiniteTasks(Sinusoid(), pool=3)
        >>> few.sample("train", [1, 4], 0).support[0].inputs.diff(dim=0).abs().max().item()
        0.0
    """

    def __init__(self, tasks: TaskDistribution, pool: int) -> None:
        check_at_least(1, pool=pool)
        super().__init__(tasks)
        self.pool = pool

    def drawn(self, number: int, seed: int) -> int:
        return number % self.pool

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return self.tasks.describe(split) | ({"pool": self.pool} if split == "train" else {})
