"""Tasks of control: what distinguishes the environments of a family, and no data before a policy has acted."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from litmaml.data.episode import LEAST_WITHOUT_CLASSES, Episode
from litmaml.data.task_distribution import TaskDistribution, check_at_least
from litmaml.randomness import task_streams
from litmaml.rl.environments import Environments
from litmaml.tasks import Batch, Split, Tasks


class ControlTasks(TaskDistribution):
    """A family of environments with one reward, start or physics per task, told by p numbers.

    What is sampled are these numbers alone. The trajectories come from the policy as it adapts; see ``Rollouts``.

    Args:
        horizon: H, the steps of a trajectory.
        trajectories: K, of each inner step.
        query_trajectories: Of the adapted policy, for the outer step; by default as many.

    Raises:
        ValueError: A number is below 1.
    """

    least: ClassVar[Episode] = LEAST_WITHOUT_CLASSES
    shares_examples: ClassVar[bool] = True
    """Tasks start from the same places."""

    discrete: bool
    """Whether an action is one of some choices."""
    observations: int
    """o, the numbers of an observation."""
    actions: int
    """The numbers of an action, or of choices."""

    _only: Sequence[float] | None = None

    def __init__(self, horizon: int, trajectories: int, query_trajectories: int | None = None) -> None:
        check_at_least(1, horizon=horizon, trajectories=trajectories, query_trajectories=query_trajectories)
        super().__init__(Episode(shots=trajectories, queries=query_trajectories or trajectories))
        self.horizon, self.trajectories, self.query_trajectories = horizon, trajectories, query_trajectories

    @abstractmethod
    def draw(self, split: Split, number: int, stream: np.random.Generator) -> Sequence[float]:
        """The p numbers of the task of this number and split, by its own stream."""

    def numbers_of(self, named: Mapping[str, Any]) -> Sequence[float]:
        """The p numbers of the task with these parameters.

        Raises:
            ValueError: They are not those that tasks have.
        """
        raise ValueError(f"task: those of {type(self).__name__} have no parameters by name, got {', '.join(named)}")

    def only(self, named: Mapping[str, Any]) -> Self:
        """The family of the one task with these parameters.

        Raises:
            ValueError: They are not those that tasks have.
        """
        other = copy.copy(self)
        other._only = self.numbers_of(named)
        return other

    @property
    def axes(self) -> tuple[str, str]:
        """What the first two numbers of an observation are, for pictures."""
        return ("observation 1", "observation 2") if self.observations > 1 else ("step", "observation 1")

    def goals(self, parameters: Tensor) -> Tensor | None:
        """Where the goals of tasks lie in these pictures (T, 2), by their numbers (T, p); None where there are none."""
        return None

    @abstractmethod
    def environments(self, parameters: Tensor) -> Environments:
        """The environments of the tasks with these numbers (T, p), on the same device."""

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        streams = task_streams(seed, split, numbers)
        only, pairs = self._only, zip(numbers, streams, strict=True)
        drawn = [self.draw(split, number, each) if only is None else only for number, each in pairs]
        parameters = Batch(torch.tensor(np.array(drawn, dtype=np.float64)).unsqueeze(1), None)
        return Tasks((parameters,), parameters, torch.as_tensor(numbers, dtype=torch.int64))

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        sizes = self.sizes(split)
        counts = {"horizon": self.horizon, "trajectories": sizes.shots, "query_trajectories": sizes.queries}
        return {"tasks": type(self).__name__, "split": split, **counts}


def named_numbers(named: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    """The numbers in the order of their names.

    Raises:
        ValueError: There are others, or one is no number.
    """
    if {*named} != {*names}:
        such = ",".join(f"{name}=0.3" for name in names)
        raise ValueError(f"task: has to say {', '.join(names)}, got {', '.join(named) or 'nothing'}; such as {such}")
    try:
        if any(isinstance(value, bool) for value in named.values()):
            raise TypeError("true and false are no numbers")
        found = [float(named[name]) for name in names]
    except (TypeError, ValueError) as error:
        raise ValueError(f"task: has to be numbers, got {dict(named)}") from error
    if not all(map(math.isfinite, found)):
        raise ValueError(f"task: has to be finite numbers, got {dict(named)}")
    return found
