"""What tasks of control are to the rest: K copies of the environment of each of T tasks, stepped together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Step(NamedTuple):
    """What a step of T x K environments gives.

    observations: (T, K, o). rewards: (T, K). ended: (T, K), whether a copy has come to its end by itself, before the
    horizon. success: (T, K) whether it has reached its aim in this step, or None where it has none to reach.
    """

    observations: Tensor
    rewards: Tensor
    ended: Tensor
    success: Tensor | None = None


class Environments(ABC):
    """T x K copies, each of which starts anew by a seed of its own. One that has ended is not looked at any more."""

    @abstractmethod
    def start(self, seeds: Tensor) -> Tensor:
        """The first observations (T, K, o), by one seed below 2^31 per copy (T, K)."""

    @abstractmethod
    def step(self, actions: Tensor, chance: Tensor, going: Tensor) -> Step:
        """Take an action in each copy.

        Args:
            actions: Real ones (T, K, a), of any size, or indices (T, K).
            chance: (T, K), uniform in [0, 1), for environments that draw.
            going: (T, K) whether a copy has not ended; of the others nothing is used.
        """

    def picture(self) -> NDArray[np.uint8] | None:
        """The first copy of the first task as it is now (height, width, 3); None where there is no picture."""
        return None

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what they hold outside of Python."""
