"""Tasks of any number of classes and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from litmaml.data.task_distribution import TaskDistribution
from litmaml.data.tasks_within import TasksWithin
from litmaml.randomness import task_streams
from litmaml.tasks import MetaBatch, Split, Tasks, stacks_of


class AnyWay(TasksWithin):
    """Tasks of another distribution with any numbers of classes and examples in validation and test.

    Each such task draws how many classes it has and how many support examples of each, uniformly between two bounds, as
    the any-way any-shot protocol of Meta-Album does. In training tasks are as they are. A head of a fixed number of
    classes cannot follow: ``model.head_start: prototypes`` (or zero) makes one for each task. Each task is a stack of
    its own.

    Args:
        tasks: The distribution, of classes.
        ways: The least and the most classes of a task.
        shots: The least and the most support examples of a class.

    Raises:
        ValueError: The bounds are none, or the tasks have no classes.
    """

    def __init__(
        self, tasks: TaskDistribution, ways: tuple[int, int] = (2, 20), shots: tuple[int, int] = (1, 20)
    ) -> None:
        super().__init__(tasks)
        for name, bounds, least in (("ways", ways, 2), ("shots", shots, 1)):
            if len(bounds) != 2 or not least <= bounds[0] <= bounds[1]:
                raise ValueError(
                    f"{name}: has to be two numbers, from {least} on and the larger one last, got {list(bounds)}; give "
                    f"such as [{least}, 20]"
                )
        if not tasks.sizes("test").ways:
            raise ValueError(f"tasks: have no classes, got {type(tasks).__name__}; give a distribution of classes")
        self.ways, self.shots = ways, shots
        self._most = self._of(ways[1], shots[1])

    @property
    def most_ways(self) -> int:  # type: ignore[override]  # as drawn
        return self.ways[1]

    def load(self, split: Split) -> None:
        # With the most of both, so that whatever is drawn is there.
        (self.tasks if split == "train" else self._most).load(split)

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> MetaBatch:
        if split == "train":
            return self.tasks.sample(split, numbers, seed)
        self.load(split)
        stacks: list[Tasks] = []
        for number, stream in zip(numbers, task_streams(seed, split, numbers, "protocol"), strict=True):
            ways, shots = (int(stream.integers(low, high + 1)) for low, high in (self.ways, self.shots))
            stacks += stacks_of(self._of(ways, shots).sample(split, [number], seed))
        return tuple(stacks)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        found = self.tasks.describe(split)
        if split == "train":
            return found
        return found | {name: f"{low} to {high}" for name, (low, high) in (("ways", self.ways), ("shots", self.shots))}

    def _of(self, ways: int, shots: int) -> TaskDistribution:
        """The same distribution, with what it has loaded, whose evaluation tasks have these numbers."""
        return self.tasks.resized(replace(self.tasks.test, ways=ways, shots=shots))
