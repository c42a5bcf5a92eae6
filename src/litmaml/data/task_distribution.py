"""Where tasks come from: a distribution that makes task number i from a seed, a split and i alone."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from litmaml.data.episode import AS_IN_TRAINING, LEAST, Episode, Sizes, sizes_of
from litmaml.shown import spelled
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
    """The tasks with floating point numbers in torch's default dtype, the precision of the run while it renders."""
    dtype = torch.get_default_dtype()

    def cast(part: Tensor) -> Tensor:
        return part.to(dtype) if part.is_floating_point() else part

    return map_batches(lambda batch: tree_map(cast, batch), tasks)


_ONE_BATCH = Episode(support_batches=1, hessian_batches=0)


class TaskDistribution(ABC):
    """A distribution of tasks p(T), from which task number i is drawn as a pure function of (seed, split, i).

    Args:
        train: The numbers of classes, examples and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.

    Raises:
        ValueError: if a number is too small.
    """

    least: ClassVar[Episode] = LEAST
    """The least that each number of an episode may be; without ``ways`` the tasks have no classes."""

    shares_examples: ClassVar[bool] = False
    """Whether support and query share examples on purpose, as where both are the whole of a finite problem: then they
    are not looked for."""

    most_ways: int = 0
    """The most classes of a task in validation and test where each draws how many it has; 0 where all have as many."""

    def __init__(self, train: Episode, test: Episode = AS_IN_TRAINING) -> None:
        self.train = train.over(_ONE_BATCH)
        self.test = test
        self._sizes = {
            "train": sizes_of(self.train, "train", self.least),
            "test": sizes_of(test.over(self.train), "test", self.least),
        }

    def __repr__(self) -> str:
        return spelled(self)

    def sizes(self, split: Split) -> Sizes:
        """The numbers of classes, examples and batches of each task of this split."""
        return self._sizes["train" if split == "train" else "test"]

    def check_ways(self, split: Split, there: int, what: str, remedy: str) -> None:
        """Refuse tasks of more classes than a split has.

        Args:
            split: The split.
            there: How many it has.
            what: What they are called.
            remedy: What to do.

        Raises:
            ValueError: A task has more.
        """
        if (ways := self.sizes(split).ways) > there:
            argument = "train" if split == "train" or self.test.ways is None else "test"
            raise ValueError(f"{argument}.ways: the split {split} has {there} {what}, got {ways}; {remedy}")

    def resized(self, test: Episode) -> Self:
        """The same tasks, and what is loaded of them, with other numbers in validation and test."""
        other = copy.copy(self)
        other.test = test
        other._sizes = {**self._sizes, "test": sizes_of(test.over(self.train), "test", self.least)}
        return other

    def _arrange(self, split: Split, batches: Sequence[Batch], numbers: Sequence[int]) -> Tasks:
        """Stacked batches, in the order support, Hessian, query, as tasks."""
        support = self.sizes(split).support_batches
        return Tasks(
            support=tuple(batches[:support]),
            query=batches[-1],
            numbers=torch.as_tensor(numbers, dtype=torch.int64),
            hessian=tuple(batches[support:-1]) or None,
        )

    def prepare(self) -> None:  # noqa: B027 - most distributions have nothing to prepare
        """Downloads and caches what is needed. Called by one process of each machine."""

    def load(self, split: Split) -> None:  # noqa: B027 - a formula has nothing to load
        """Brings what the tasks of a split are made of into memory and checks it. A second call does
        nothing."""

    def keep_on(self, split: Split, device: torch.device) -> None:  # noqa: B027 - most make tasks of little
        """Put what the tasks of a loaded split are made of on the device where they will be rendered, if it has room:
        ``sample`` then only says which examples they are, and the tasks are the same."""

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

    def in_own_units(self, values: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
        """Targets of test tasks with these numbers, or predictions of them, (T, n, ...), in the units of what the tasks
        are made of."""
        return values

    def source_of(self, split: Split, number: int, seed: int) -> str | None:
        """The name of the source that a task is of, for results by source; None if there is one alone."""
        return None

    def group_of(self, split: Split, number: int, seed: int) -> str | None:
        """The name of the group that a task is of, such as a patient; None where tasks are not groups."""
        return None

    def record(self) -> Mapping[str, Any] | None:
        """What the tasks took from the training split, such as scales, in plain values for a checkpoint; None if
        nothing."""
        return None

    def adopt(self, record: object) -> None:  # noqa: B027 - most have nothing to adopt
        """Make the tasks as those that a checkpoint's model was trained on, by what ``record`` gave then.

        Raises:
            ValueError: It is another thing, or does not fit these tasks.
        """

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        """The protocol that results of this split are stated with, in plain types."""
        numbers = self.sizes(split)._asdict()
        return {"tasks": type(self).__name__, "split": split} | {k: v for k, v in numbers.items() if k != "ways" or v}
