"""Tasks that come one after another, of which all that have come are trained on."""

from __future__ import annotations

from litmaml.data.drawn_tasks import DrawnTasks
from litmaml.data.task_distribution import TaskDistribution, check_at_least
from litmaml.randomness import task_streams
from litmaml.tasks import Split


class OnlineTasks(DrawnTasks):
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

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return self.tasks.describe(split) | ({"every": self.every} if split == "train" else {})

    def drawn(self, number: int, seed: int) -> int:
        (stream,) = task_streams(seed, "train", [number], "rounds")
        return int(stream.integers(number // self.every + 1))
