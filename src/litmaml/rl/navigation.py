"""A point that has to find a goal in the plane (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from litmaml.rl.control_tasks import ControlTasks, named_numbers
from litmaml.rl.environments import Environments, Step
from litmaml.tasks import Split


class Navigation(ControlTasks):
    """A point starts at the origin and is paid minus its distance from a goal that it does not see.

    s_0 = 0, s_{t+1} = s_t + reach * clip(a_t, -1, 1), reward -|s_{t+1} - goal|, goal (x, y) ~ U[-extent, extent]^2; it
    ends within ``near`` of the goal in both coordinates. Observations are s (2), actions real (2). The splits differ in
    their random streams only.

    Args:
        horizon: H, the steps of a trajectory.
        trajectories: K, of each inner step.
        query_trajectories: Of the adapted policy, for the outer step; by default as many.
        reach: The furthest that a step goes in a coordinate.
        extent: The furthest that a goal lies from the origin in a coordinate.
        near: How near to the goal in each coordinate a trajectory ends.

    Raises:
        ValueError: A number is not positive.
    """

    discrete = False
    observations = 2
    actions = 2

    def __init__(
        self,
        horizon: int = 100,
        trajectories: int = 20,
        query_trajectories: int | None = None,
        reach: float = 0.1,
        extent: float = 0.5,
        near: float = 0.01,
    ) -> None:
        super().__init__(horizon, trajectories, query_trajectories)
        for name, value in (("reach", reach), ("extent", extent), ("near", near)):
            if not 0 < value < float("inf"):
                raise ValueError(f"{name}: has to be a positive number, got {value}")
        self.reach, self.extent, self.near = reach, extent, near

    def draw(self, split: Split, number: int, stream: np.random.Generator) -> Sequence[float]:
        goal: list[float] = stream.uniform(-self.extent, self.extent, size=2).tolist()
        return goal

    def numbers_of(self, named: Mapping[str, Any]) -> Sequence[float]:
        return named_numbers(named, ("x", "y"))

    @property
    def axes(self) -> tuple[str, str]:
        return "x", "y"

    def goals(self, parameters: Tensor) -> Tensor:
        return parameters

    def environments(self, parameters: Tensor) -> Environments:
        return _Points(parameters.to(torch.get_default_dtype()).unsqueeze(1), self.reach, self.near)


class _Points(Environments):
    def __init__(self, goals: Tensor, reach: float, near: float) -> None:
        self._goals, self._reach, self._near = goals, reach, near

    def start(self, seeds: Tensor) -> Tensor:
        self._places = self._goals.new_zeros(*seeds.shape, 2)
        return self._places

    def step(self, actions: Tensor, chance: Tensor, going: Tensor) -> Step:
        self._places = self._places + self._reach * actions.clamp(-1, 1)
        apart = self._places - self._goals
        return Step(self._places, -apart.norm(dim=-1), (apart.abs() < self._near).all(-1))
