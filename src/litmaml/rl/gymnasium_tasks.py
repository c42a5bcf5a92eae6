"""Families of gymnasium's environments."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from litmaml.rl.control_tasks import ControlTasks
from litmaml.rl.environments import Environments
from litmaml.rl.gymnasium_copies import Copies, Makes
from litmaml.rl.spaces import Spaces, gymnasium
from litmaml.rl.task_parameters import Spec, TaskParameters
from litmaml.tasks import Split


@runtime_checkable
class Env(Protocol):
    """An environment as ``gymnasium.Env`` has it, with ``observation_space`` and ``action_space``."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        """The first observation, and an info."""

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """The next observation, the reward, whether it has terminated or is truncated, and an info."""


class GymnasiumTasks(ControlTasks):
    """Any family of environments that follow gymnasium's interface: one environment per task, told by its parameters.

    Sizes come from the spaces: of observations a Box, as vectors, or a Discrete, one-hot; of actions a Box for a
    ``GaussianPolicy``, or a Discrete for a ``CategoricalPolicy``. Actions beyond a Box's bounds are taken at these;
    their probability stays that of what was drawn. Each copy is started by ``reset(seed=...)``, and has to draw by this
    seed alone. One with ``set_task(parameters)``, which takes them as a dict, is kept and set to other tasks; others
    are made anew for each batch.

    Args:
        make_env: A class of environments, or a function that says that it makes one (-> gymnasium.Env); is called with
            the parameters by name. In YAML its import path, also of a module of one's own beside the file.
        parameters: What distinguishes tasks, by name: a range [low, high], drawn from uniformly, or {choices: [...]};
            or a list of tasks, of which task i is that at place i mod its length.
        horizon: H, the most steps of a trajectory.
        trajectories: K, of each inner step.
        query_trajectories: Of the adapted policy, for the outer step; by default as many.
        test_parameters: Those of validation and test, such as a range beyond training's; by default the same.

    Raises:
        ImportError: There is no gymnasium.
        ValueError: An argument is out of its range, no environment can be made, or its spaces are of another kind.
    """

    def __init__(
        self,
        make_env: Callable[..., Env],
        parameters: Spec,
        horizon: int,
        trajectories: int = 20,
        query_trajectories: int | None = None,
        test_parameters: Spec | None = None,
    ) -> None:
        super().__init__(horizon, trajectories, query_trajectories)
        gymnasium()
        self.make_env, self.parameters, self.test_parameters = make_env, parameters, test_parameters
        self._known = TaskParameters(parameters, test_parameters)
        self._makes = Makes(make_env)
        weakref.finalize(self, self._makes.close)
        first = self._makes.take(self._known.named(self._known.draw(0, np.random.default_rng(0), test=False)))
        self._spaces, self._name = Spaces(first), type(getattr(first, "unwrapped", first)).__name__
        self._makes.give_back([first])
        self.observations, self.actions = self._spaces.observations, self._spaces.actions
        self.discrete = self._spaces.discrete

    def draw(self, split: Split, number: int, stream: np.random.Generator) -> Sequence[float]:
        return self._known.draw(number, stream, test=split != "train")

    def numbers_of(self, named: Mapping[str, Any]) -> Sequence[float]:
        return self._known.numbers_of(named)

    def environments(self, parameters: Tensor) -> Environments:
        return Copies(self._makes, [self._known.named(row) for row in parameters.tolist()], self._spaces)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {"environment": self._name}
