"""Small environments of gymnasium, for what can go right and wrong with one's own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

Seen = tuple[Any, dict[str, Any]]
Stepped = tuple[Any, Any, Any, Any, dict[str, Any]]


class Reach(gymnasium.Env[Any, Any]):
    """A point on a line that has to come to a goal; it ends there, and its actions are bounded."""

    observation_space: gymnasium.Space[Any] = Box(-10.0, 10.0, (1, 2), np.float64)
    action_space: gymnasium.Space[Any] = Box(-0.5, 0.5, (1,), np.float32)
    made = 0

    def __init__(self, goal: float = 1.0, near: float = 0.2) -> None:
        type(self).made += 1
        self.goal, self.near, self.closed = goal, near, False
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Seen:
        super().reset(seed=seed)
        self.place = self.np_random.normal(0.0, 0.1)
        return self._seen(), {}

    def step(self, action: Any) -> Stepped:
        assert self.action_space.contains(action)
        self.taken.append(action)
        self.place += float(action[0]) + self.np_random.normal(0.0, 0.01)
        apart = abs(self.place - self.goal)
        return self._seen(), np.float32(-apart), np.bool_(apart < self.near), False, {"success": apart < self.near}

    def _seen(self) -> Any:
        return np.array([[self.place, 1.0]])

    def close(self) -> None:
        self.closed = True


class Settable(Reach):
    """The same, which can be set to another goal."""

    def set_task(self, parameters: dict[str, Any]) -> None:
        self.goal = parameters["goal"]


class Bandit(gymnasium.Env[Any, Any]):
    """Arms that are numbered from 1, one of which pays; it sees the arm it took last."""

    observation_space = Discrete(4)
    action_space = Discrete(3, start=1)

    def __init__(self, arm: int, pays: str = "well") -> None:
        assert type(arm) is int
        self.arm, self.pay = arm, {"well": 1.0, "little": 0.1}[pays]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Seen:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Stepped:
        assert self.action_space.contains(action)
        return int(action), self.pay * (action == self.arm), False, False, {}


class Raises(Reach):
    """It raises in its third step where the goal is beyond 0."""

    def step(self, action: Any) -> Stepped:
        if self.goal > 0 and len(self.taken) == 2:
            raise ZeroDivisionError("the point\nis lost")
        return super().step(action)


class NotFinite(Reach):
    """It pays infinitely in its second step."""

    def step(self, action: Any) -> Stepped:
        seen, paid, terminated, truncated, info = super().step(action)
        return seen, np.inf if len(self.taken) == 2 else paid, terminated, truncated, info


class TwoParts(Reach):
    observation_space = Dict({"place": Box(-1.0, 1.0, (1,)), "goal": Box(-1.0, 1.0, (1,))})


class TwoLevers(Reach):
    action_space = MultiDiscrete([2, 3])


class Growing(Reach):
    """Its observations have as many numbers as the parameter says."""

    def __init__(self, joints: int) -> None:
        super().__init__()
        self.observation_space = Box(-1.0, 1.0, (joints,))

    def _seen(self) -> Any:
        return np.zeros(self.observation_space.shape)


class Pictured(Reach):
    """It renders: a white column where the point is, of a picture as wide as it was told."""

    render_mode = "rgb_array"

    def __init__(self, goal: float = 1.0, near: float = 0.2, wide: int = 40) -> None:
        super().__init__(goal, near)
        self.wide = wide

    def render(self) -> Any:
        if self.wide < 0:
            raise RuntimeError("no display")
        picture = np.zeros((30, self.wide, 3), np.uint8)
        picture[:, int(np.clip(self.wide / 2 + 10 * self.place, 0, self.wide - 1))] = 255
        return picture
