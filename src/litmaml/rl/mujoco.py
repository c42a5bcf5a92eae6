"""The families of MuJoCo that MAML was shown on (Finn et al. 2017, section 5.3), by gymnasium's environments."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from litmaml.rl.spaces import gymnasium

_Step = tuple[Any, float, bool, bool, dict[str, Any]]


class _Rewarded:
    """An environment of gymnasium with another reward."""

    def __init__(self, name: str, render_mode: str | None = None, **options: Any) -> None:
        with _quietly():
            self._env = gymnasium().make(name, render_mode=render_mode, disable_env_checker=True, **options).unwrapped
        self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
        self.render_mode, self.metadata = render_mode, self._env.metadata

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        found: tuple[Any, dict[str, Any]] = self._env.reset(seed=seed)
        return found

    def render(self) -> Any:
        return self._env.render()

    def close(self) -> None:
        self._env.close()


class HalfCheetahDirection(_Rewarded):
    """A cheetah that is paid for running forwards, or backwards: direction * v - 0.05 |a|^2, with v its velocity.

    The reward and the 17 observations are those of Rothfuss et al. 2019 (jonasrothfuss/ProMP,
    half_cheetah_rand_direc.py). Finn et al. 2017 (cbfinn/maml_rl, half_cheetah_env_rand_direc.py) have the same reward
    by the velocity of the torso's centre of mass, whose place are three more observations.

    Args:
        direction: 1 forwards, -1 backwards.
        render_mode: Of gymnasium, such as rgb_array.
    """

    def __init__(self, direction: float = 1.0, render_mode: Literal["rgb_array"] | None = None) -> None:
        super().__init__("HalfCheetah-v5", render_mode, ctrl_cost_weight=0.05)
        self.direction = direction

    def set_task(self, parameters: Mapping[str, Any]) -> None:
        """Take another direction."""
        self.direction = float(parameters["direction"])

    def step(self, action: Any) -> _Step:
        seen, _, terminated, truncated, info = self._env.step(action)
        return seen, self.direction * info["x_velocity"] + info["reward_ctrl"], terminated, truncated, info


class HalfCheetahVelocity(_Rewarded):
    """A cheetah that is paid for running at a velocity: -|v - velocity| - 0.05 |a|^2.

    As in the code of Finn et al. 2017 (cbfinn/maml_rl, half_cheetah_env_rand.py) but for v and the observations; see
    ``HalfCheetahDirection``. That velocities are from U[0, 2], as in tristandeleu/pytorch-maml-rl, is the
    configuration's; a version of the former's code draws them from U[0.1, 0.8].

    Args:
        velocity: What it is to run at.
        render_mode: Of gymnasium, such as rgb_array.
    """

    def __init__(self, velocity: float = 1.0, render_mode: Literal["rgb_array"] | None = None) -> None:
        super().__init__("HalfCheetah-v5", render_mode, ctrl_cost_weight=0.05)
        self.velocity = velocity

    def set_task(self, parameters: Mapping[str, Any]) -> None:
        """Take another velocity."""
        self.velocity = float(parameters["velocity"])

    def step(self, action: Any) -> _Step:
        seen, _, terminated, truncated, info = self._env.step(action)
        paid = -abs(info["x_velocity"] - self.velocity) + info["reward_ctrl"]
        return seen, paid, terminated, truncated, info


class AntDirection(_Rewarded):
    """An ant that is paid for walking forwards, or backwards: direction * v - 0.005 |a|^2 - c + 0.05, with c what
    contacts cost; it ends where the ant falls over.

    As in tristandeleu/pytorch-maml-rl (ant.py), with c = 0.0005 |forces|^2 of forces clipped to [-1, 1], on Ant-v5,
    whose observations are 105. Finn et al. 2017 (cbfinn/maml_rl, ant_env_rand_direc.py) have the same by the velocity
    of the torso's centre of mass, and other observations.

    Args:
        direction: 1 forwards, -1 backwards.
        render_mode: Of gymnasium, such as rgb_array.
    """

    def __init__(self, direction: float = 1.0, render_mode: Literal["rgb_array"] | None = None) -> None:
        super().__init__("Ant-v5", render_mode, ctrl_cost_weight=0.005)
        self.direction = direction

    def set_task(self, parameters: Mapping[str, Any]) -> None:
        """Take another direction."""
        self.direction = float(parameters["direction"])

    def step(self, action: Any) -> _Step:
        seen, _, terminated, truncated, info = self._env.step(action)
        paid = self.direction * info["x_velocity"] + info["reward_contact"] + info["reward_ctrl"] + 0.05
        return seen, paid, terminated, truncated, info


@contextmanager
def _quietly() -> Iterator[None]:
    """Have MuJoCo say once, and to the program's own warnings, what it would write into a file and to the terminal for
    each copy; but not that a model of gymnasium's is written in an older way."""
    try:
        mujoco = importlib.import_module("mujoco")
    except ImportError as error:
        raise ImportError(f"litmaml.rl.mujoco needs mujoco ({error}): pip install 'litmaml[rl]'") from error
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_warn)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _warn(message: str) -> None:
    if "settotalmass" not in message:
        rank_zero_warn(f"mujoco: {message}")
