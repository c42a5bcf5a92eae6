"""Copies of gymnasium's environments: made, set to a task, reset and stepped one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from litmaml.rl.environments import Environments, Step
from litmaml.rl.spaces import Spaces
from litmaml.rl.task_parameters import Value

Parameters = Mapping[str, Value]


class Makes:
    """Makes environments, and keeps those that can be set to another task by ``set_task(parameters)``.

    Args:
        make_env: Makes one, from the parameters of a task by name.
    """

    def __init__(self, make_env: Callable[..., Any]) -> None:
        self._make_env = make_env
        self._kept: list[Any] = []

    def take(self, parameters: Parameters) -> Any:
        """An environment of these parameters.

        Raises:
            ValueError: It cannot be made; which one, and why.
        """
        try:
            if not self._kept:
                return self._make_env(**parameters)
            environment = self._kept.pop()
            _set_task(environment)(dict(parameters))  # type: ignore[misc]  # only such are kept
            return environment
        except Exception as error:  # whatever the user's code raises
            raise ValueError(
                f"make_env: cannot make an environment of {told(parameters)} ({_said(error)}); mend it, or parameters"
            ) from error

    def give_back(self, environments: Sequence[Any]) -> None:
        """Keep environments for later, or close them."""
        for environment in environments:
            if _set_task(environment) is not None:
                self._kept.append(environment)
            else:
                environment.close()

    def close(self) -> None:
        while self._kept:
            self._kept.pop().close()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": []}  # another process makes its own


class Copies(Environments):
    """K copies of the environment of each of T tasks.

    Those that have ended are not stepped. Both of gymnasium's ends, terminated and truncated, end a trajectory; an
    ``info["success"]`` is its success.

    Args:
        makes: Where they come from.
        tasks: The parameters of each task.
        spaces: Of the family.
    """

    def __init__(self, makes: Makes, tasks: Sequence[Parameters], spaces: Spaces) -> None:
        self._makes, self._tasks, self._spaces = makes, tasks, spaces
        self._copies: list[list[Any]] = [[] for _ in tasks]
        self._broken = self._dark = False

    def start(self, seeds: Tensor) -> Tensor:
        self._seeds: list[list[int]] = seeds.tolist()
        self._steps, self._device = 0, seeds.device
        observations = self._blank()
        for t, (task, copies) in enumerate(zip(self._tasks, self._copies, strict=True)):
            while len(copies) < seeds.shape[1]:
                copies.append(self._makes.take(task))
                self._spaces.check_same(copies[-1], told(task))
            for k, (seed, environment) in enumerate(zip(self._seeds[t], copies, strict=False)):
                try:
                    observations[t, k] = self._spaces.vector(environment.reset(seed=seed)[0])
                except Exception as error:  # whatever the user's code raises
                    self._refuse(t, k, f"raised {_said(error)}", error)
        self._check_finite(observations, "an observation")
        return self._tensor(observations)

    def step(self, actions: Tensor, chance: Tensor, going: Tensor) -> Step:
        self._steps += 1
        taken, spaces = self._spaces.environments_actions(actions), self._spaces
        observations, rewards = self._blank(), np.zeros(going.shape)
        ended, success, aims = np.zeros(going.shape, bool), np.zeros(going.shape, bool), False
        for t, k in going.nonzero().tolist():
            try:
                seen, rewards[t, k], terminated, truncated, info = self._copies[t][k].step(taken[t][k])
                if terminated or truncated:
                    ended[t, k] = True  # and what is seen there is of no more use
                else:
                    observations[t, k] = spaces.vector(seen)
                if "success" in info:
                    success[t, k], aims = bool(info["success"]), True
            except Exception as error:  # whatever the user's code raises
                self._refuse(t, k, f"raised {_said(error)}", error)
        self._check_finite(observations, "an observation")
        self._check_finite(rewards, "a reward")
        reached = torch.tensor(success, device=self._device) if aims else None
        over = torch.tensor(ended, device=self._device)
        return Step(self._tensor(observations), self._tensor(rewards), over, reached)

    def close(self) -> None:
        every = [environment for copies in self._copies for environment in copies]
        if self._broken:  # in the middle of who knows what
            for environment in every:
                environment.close()
        else:
            self._makes.give_back(every)
        self._copies = [[] for _ in self._tasks]

    def picture(self) -> NDArray[np.uint8] | None:
        first = self._copies[0][0]
        if self._dark or getattr(first, "render_mode", None) != "rgb_array":
            return None
        try:
            return np.asarray(first.render(), dtype=np.uint8)
        except Exception as error:  # whatever there is to draw with
            self._dark = True
            rank_zero_warn(
                f"make_env: no film is made, since the environment of {told(self._tasks[0])} cannot be rendered "
                f"({_said(error)}); MuJoCo takes MUJOCO_GL=egl, or MUJOCO_GL=osmesa where there is no GPU"
            )
            return None

    def _blank(self) -> NDArray[Any]:
        return np.zeros((len(self._seeds), len(self._seeds[0]), self._spaces.observations))

    def _tensor(self, numbers: NDArray[Any]) -> Tensor:
        return torch.from_numpy(numbers).to(self._device, torch.get_default_dtype())

    def _check_finite(self, numbers: NDArray[Any], what: str) -> None:
        if not np.isfinite(numbers).all():
            t, k, *_ = np.argwhere(~np.isfinite(numbers))[0].tolist()
            self._refuse(t, k, f"gave {what} that is not finite")

    def _refuse(self, t: int, k: int, what: str, error: Exception | None = None) -> NoReturn:
        """Say what an environment did, and how to see it again."""
        self._broken = True
        place = f"step {self._steps}" if self._steps else "reset"
        raise ValueError(
            f"make_env: the environment of {told(self._tasks[t])} {what} in {place}, after "
            f"reset(seed={self._seeds[t][k]}); mend it there"
        ) from error


def told(parameters: Parameters) -> str:
    """Parameters as they are given to a function, such as velocity=1.5."""
    return ", ".join(f"{name}={value!r}" for name, value in parameters.items())


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _set_task(environment: Any) -> Callable[[dict[str, Value]], object] | None:
    """What sets an environment to a task, also within gymnasium's wrappers; None if nothing does."""
    inner = getattr(environment, "unwrapped", environment)
    return getattr(environment, "set_task", None) or getattr(inner, "set_task", None)
