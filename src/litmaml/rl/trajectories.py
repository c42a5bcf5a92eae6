"""Trajectories: what a policy does in the environments of tasks, and what they draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmaml.randomness import task_streams
from litmaml.rl.control_tasks import ControlTasks
from litmaml.rl.distributions import act
from litmaml.rl.environments import Environments
from litmaml.rl.policy_checks import check_outputs
from litmaml.tasks import Split, Tasks


class Trajectories(NamedTuple):
    """K trajectories of at most H steps in each of T tasks.

    observations: (T, K, H, o). actions: (T, K, H, a), or (T, K, H) indices. parameters: (T, K, H, ...) of the policy
    that acted. rewards: (T, K, H), zero after the end. mask: (T, K, H), 1 until the end. success: (T, K), whether the
    aim was reached in any step, or None. frames: Pictures of the first trajectory of the first task, where they were
    asked for and the environment renders.
    """

    observations: Tensor
    actions: Tensor
    parameters: Tensor
    rewards: Tensor
    mask: Tensor
    success: Tensor | None
    frames: Sequence[NDArray[np.uint8]] = ()

    @property
    def returns(self) -> Tensor:
        """The sum of the rewards of a trajectory, as a mean for each task (T,)."""
        return self.rewards.sum(-1).mean(-1)


class Chance(NamedTuple):
    """What is drawn for the trajectories of T tasks.

    seeds: (T, K) of the environments. noise: (T, K, H, a) normal for real actions, (T, K, H) uniform for indices.
    chance: (T, K, H) uniform.
    """

    seeds: Tensor
    noise: Tensor
    chance: Tensor


def drawn_for(source: ControlTasks, tasks: Tasks, split: Split, seed: int, step: int, copies: int) -> Chance:
    """What trajectories of an inner step draw: a function of seed, split, task number and step alone."""
    shape, device, dtype = (copies, source.horizon), tasks.query.device, torch.get_default_dtype()
    seeds, noise, chance = [], [], []
    for stream in task_streams(seed, split, tasks.numbers.tolist(), "rollouts", block=step):
        seeds.append(stream.integers(2**31, size=copies))
        noise.append(stream.random(shape) if source.discrete else stream.standard_normal((*shape, source.actions)))
        chance.append(stream.random(shape))
    as_tensors = [torch.from_numpy(np.stack(each)).to(device) for each in (seeds, noise, chance)]
    return Chance(as_tensors[0], as_tensors[1] if source.discrete else as_tensors[1].to(dtype), as_tensors[2])


def roll_out(
    policy: Callable[[Tensor], Tensor], environments: Environments, drawn: Chance, film: bool = False
) -> Trajectories:
    """The trajectories of a policy that maps observations (T, K, o) to parameters (T, K, ...)."""
    frames: list[NDArray[np.uint8]] = []
    seen, taken, told, paid, kept = [], [], [], [], []
    observations = environments.start(drawn.seeds)
    going = torch.ones_like(drawn.seeds, dtype=torch.bool)
    success: Tensor | None = None
    for t in range(drawn.chance.shape[2]):
        if film and going[0, 0] and (picture := environments.picture()) is not None:
            frames.append(picture)
        # Whatever an environment gives after its end, not a number included, is recorded nowhere.
        observations = torch.where(going.unsqueeze(-1), observations, 0.0)
        parameters = policy(observations)
        actions = act(parameters, drawn.noise[:, :, t])
        seen.append(observations)
        taken.append(actions)
        told.append(parameters)
        kept.append(going)
        observations, rewards, ended, reached = environments.step(actions, drawn.chance[:, :, t], going)
        paid.append(torch.where(going, rewards, 0.0))
        if reached is not None:
            success = reached & going if success is None else success | (reached & going)
        going = going & ~ended
    found = [torch.stack(each, dim=2) for each in (seen, taken, told, paid, kept)]
    return Trajectories(found[0], found[1], found[2], found[3], found[4].to(found[3].dtype), success, frames)


class Actor:
    """Lets policies act in the environments of tasks, one after another along the path of inner steps.

    Attributes:
        found: The trajectories so far.
        steps: Taken in all environments by now, also on earlier paths.
        film: Whether the first trajectories and the last are filmed.
    """

    def __init__(self, source: ControlTasks, environments: Environments, tasks: Tasks, split: Split, seed: int) -> None:
        self._source, self._environments, self._tasks = source, environments, tasks
        self._split, self._seed = split, seed
        self.film = False
        self.found: list[Trajectories] = []
        self.steps = 0

    def __call__(self, policy: Callable[[Tensor], Tensor], last: bool = False) -> Trajectories:
        """The trajectories of a policy, observations (T, K, o) to parameters; ``last``: of the adapted one."""
        source, sizes = self._source, self._source.sizes(self._split)

        def checked(observations: Tensor) -> Tensor:
            parameters = policy(observations)
            check_outputs(parameters, observations, source)
            return parameters

        copies = sizes.queries if last else sizes.shots
        drawn = drawn_for(source, self._tasks, self._split, self._seed, len(self.found), copies)
        with torch.no_grad():
            film = self.film and (last or not self.found)
            self.found.append(roll_out(checked, self._environments, drawn, film))
        self.steps += int(self.found[-1].mask.sum(dtype=torch.float64))
        return self.found[-1]

    def restart(self) -> None:
        """Begin the path anew: the same noise comes again."""
        self.found = []
