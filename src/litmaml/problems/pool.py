"""What the theory's problems share: as many tasks as there are in a pool, and batches beside them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from litmaml.data.episode import Episode
from litmaml.data.task_distribution import TaskDistribution, check_at_least, in_run_precision
from litmaml.randomness import task_stream
from litmaml.tasks import Split, Tasks

_BATCHES = 2**63  # Where the streams of batches begin: the tasks' own streams have the numbers below.


class TaskPool(TaskDistribution):
    """Problems in ``size`` weights, of which task number i is number i modulo ``pool``, with batches of its own.

    Args:
        size: d, the number of weights.
        pool: Number of tasks that there are; None: without end.
        train: The numbers of samples and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.

    Raises:
        ValueError: A number is out of its range.
    """

    shares_examples: ClassVar[bool] = True

    def __init__(self, size: int, pool: int | None, train: Episode, test: Episode) -> None:
        check_at_least(1, size=size, pool=pool)
        super().__init__(train, test)
        self.size, self.pool = size, pool

    def render(self, tasks: Tasks) -> Tasks:
        """The tasks in torch's default dtype, that is, in the precision of the run."""
        return in_run_precision(tasks)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {"size": self.size, "pool": self.pool or "without end"}

    def _member(self, number: int) -> int:
        """Which of the tasks that there are has this number."""
        return number % self.pool if self.pool else number

    def _batch_stream(self, seed: int, split: Split, number: int) -> np.random.Generator:
        """The random numbers of a task's batches, which differ where the task comes again."""
        return task_stream(seed, split, _BATCHES + number)
