"""What gymnasium's spaces of observations and actions are in numbers."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Spaces:
    """The sizes of an environment's observations and actions, and the way from one form to the other.

    Observations of a Box become vectors, those of a Discrete one-hot. Actions of a Box are real numbers, which are kept
    within its bounds; those of a Discrete are indices.

    Args:
        environment: One of the family.

    Raises:
        ImportError: There is no gymnasium.
        ValueError: A space is of another kind; its name and what to do.

    Attributes:
        observations: o, the numbers of an observation.
        actions: The numbers of an action, or of choices.
        discrete: Whether an action is one of some choices.
    """

    def __init__(self, environment: Any) -> None:
        kinds = gymnasium().spaces
        seen, taken = environment.observation_space, environment.action_space
        self._seen, self._taken = seen, taken
        self._one_hot, self.discrete = isinstance(seen, kinds.Discrete), isinstance(taken, kinds.Discrete)
        if not self._one_hot and not isinstance(seen, kinds.Box):
            raise ValueError(
                f"make_env: observations have to be of a Box or a Discrete, got the space {seen}; make them vectors by "
                "gymnasium.wrappers.FlattenObservation(env)"
            )
        if not self.discrete and not (isinstance(taken, kinds.Box) and np.issubdtype(taken.dtype, np.floating)):
            raise ValueError(
                f"make_env: actions have to be of a Box of real numbers or a Discrete, got the space {taken}; make "
                "them such by a gymnasium.ActionWrapper"
            )
        self.observations = int(seen.n) if self._one_hot else int(np.prod(seen.shape))
        self.actions = int(taken.n) if self.discrete else int(np.prod(taken.shape))
        if not self.observations or not self.actions:
            raise ValueError(f"make_env: its spaces hold no number, got observations {seen} and actions {taken}")

    def check_same(self, environment: Any, parameters: str) -> None:
        """Refuse an environment of other spaces than the rest of the family has, by what one policy takes.

        Raises:
            ValueError: Observations or actions are of another size or kind.
        """
        other = Spaces(environment)
        if (other.observations, other.actions, other.discrete) != (self.observations, self.actions, self.discrete):
            raise ValueError(
                f"make_env: all tasks have to have the same spaces, got {other._seen} and {other._taken} for "
                f"{parameters}, elsewhere {self._seen} and {self._taken}; pad them to one size"
            )

    def vector(self, observation: Any) -> Any:
        """The numbers (o) of an observation."""
        if not self._one_hot:
            if getattr(observation, "shape", None) == (self.observations,):
                return observation
            return np.reshape(observation, self.observations)
        found = np.zeros(self.observations)
        found[int(observation) - int(self._seen.start)] = 1
        return found

    def environments_actions(self, actions: Tensor) -> NDArray[Any] | list[list[int]]:
        """Actions as T x K environments take them, of real ones (T, K, a) or indices (T, K)."""
        if self.discrete:
            found: list[list[int]] = (actions + int(self._taken.start)).tolist()
            return found
        space = self._taken
        numbers = actions.cpu().double().numpy().reshape(*actions.shape[:2], *space.shape)
        clipped: NDArray[Any] = np.clip(numbers, space.low, space.high).astype(space.dtype)
        return clipped


def gymnasium() -> Any:
    """The package, which is an extra.

    Raises:
        ImportError: It is not there, with the remedy.
    """
    try:
        return importlib.import_module("gymnasium")
    except ImportError as error:
        raise ImportError(f"litmaml.rl.GymnasiumTasks needs gymnasium ({error}): pip install 'litmaml[rl]'") from error
