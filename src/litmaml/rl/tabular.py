"""Small problems of decision with tables for their chances and rewards, of which everything can be enumerated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from litmaml.rl.control_tasks import ControlTasks
from litmaml.rl.environments import Environments, Step
from litmaml.tasks import Split


class TabularMDP(ControlTasks):
    """Markov decision processes of S states and A actions, drawn anew for each task.

    From state s action a leads to s' with chance P(s'|s, a) ~ Dirichlet(1), and is paid r(s, a) ~ N(0, 1); the start
    is uniform. Observations are the states, one-hot (S); actions are indices. No trajectory ends before H steps. The
    splits differ in their random streams only.

    Args:
        states: S.
        choices: A.
        horizon: H, the steps of a trajectory.
        trajectories: K, of each inner step.
        query_trajectories: Of the adapted policy, for the outer step; by default as many.

    Raises:
        ValueError: A number is too small.
    """

    discrete = True

    def __init__(
        self,
        states: int = 5,
        choices: int = 3,
        horizon: int = 10,
        trajectories: int = 20,
        query_trajectories: int | None = None,
    ) -> None:
        super().__init__(horizon, trajectories, query_trajectories)
        for name, value, least in (("states", states, 1), ("choices", choices, 2)):
            if value < least:
                raise ValueError(f"{name}: has to be at least {least}, got {value}")
        self.states, self.choices = self.observations, self.actions = states, choices

    def draw(self, split: Split, number: int, stream: np.random.Generator) -> Sequence[float]:
        chances = stream.dirichlet(np.ones(self.states), size=(self.states, self.choices))
        rewards = stream.standard_normal((self.states, self.choices))
        return [*chances.ravel().tolist(), *rewards.ravel().tolist()]

    def tables(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """P (T, S, A, S) and r (T, S, A) of the numbers of T tasks."""
        pairs = self.states * self.choices
        chances, rewards = parameters.split([pairs * self.states, pairs], dim=1)  # type: ignore[no-untyped-call]  # of torch
        return (
            chances.reshape(-1, self.states, self.choices, self.states),
            rewards.reshape(-1, self.states, self.choices),
        )

    def environments(self, parameters: Tensor) -> Environments:
        return _Tables(*self.tables(parameters))


class _Tables(Environments):
    def __init__(self, chances: Tensor, rewards: Tensor) -> None:
        self._up_to, self._rewards = chances.cumsum(-1), rewards

    def start(self, seeds: Tensor) -> Tensor:
        self._states = seeds % self._rewards.shape[1]
        return self._seen()

    def step(self, actions: Tensor, chance: Tensor, going: Tensor) -> Step:
        tasks = torch.arange(len(actions), device=actions.device).unsqueeze(1)
        paid = self._rewards[tasks, self._states, actions].to(torch.get_default_dtype())
        up_to = self._up_to[tasks, self._states, actions][..., :-1]
        self._states = (up_to <= chance.unsqueeze(-1)).sum(-1)
        return Step(self._seen(), paid, torch.zeros_like(going))

    def _seen(self) -> Tensor:
        return functional.one_hot(self._states, self._rewards.shape[1]).to(torch.get_default_dtype())
