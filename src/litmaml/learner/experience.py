"""Where a task's data come from while it adapts, where not from what the data module serves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterGradient, OuterLoss
from litmaml.tasks import MetaBatch, Split, Tasks


class Collected(NamedTuple):
    """Tasks with the data of all inner steps, and what was measured at theta_0, ..., theta_N (T, N + 1), by name."""

    tasks: MetaBatch
    measured: dict[str, Tensor]


class Drawing(NamedTuple):
    """A picture of a few tasks before and after adaptation, its name, and a film of one of them, as a GIF, if any."""

    name: str
    figure: Figure
    film: bytes | None = None


class Experience(nn.Module, ABC):
    """Makes the batches of all inner steps from tasks that have none yet, by the weights as they adapt.

    Once they are recorded, tasks are as any others: each outer gradient and inner optimizer takes them.
    """

    @abstractmethod
    def connect(self, model: nn.Module, source: object, seed: int, processes: int) -> None:
        """Take the distribution that a run's tasks are of, its seed, and the number of the run's processes.

        Raises:
            ValueError: There is nothing to be made from these tasks, or not by this model.
        """

    @abstractmethod
    def collect(self, inner_loop: InnerLoop, tasks: MetaBatch, steps: int, split: Split) -> Collected:
        """Tasks with the data of N = ``steps`` inner steps; the same again for further outer steps on one batch."""

    def end_batch(self) -> None:
        """Let go of what was kept for further outer steps on this batch."""

    def help_gradient(self, outer_gradient: OuterGradient) -> None:
        """Give an outer gradient that makes data of its own what it needs."""

    def help_step(
        self, optimizer: torch.optim.Optimizer, inner_loop: InnerLoop, outer_loss: OuterLoss, batches: int
    ) -> None:
        """Give an outer optimizer that looks at the data itself what it needs, for steps on so many batches.

        Raises:
            ValueError: These cannot be taken together.
        """

    def draw(self, inner_loop: InnerLoop, tasks: Tasks, steps: int, split: Split) -> Drawing | None:
        """A picture of what a few tasks are like before and after adaptation; None if there is none."""
        return None

    def goals(self) -> Mapping[str, bool]:
        """Whether more is better, of what is measured, by name."""
        return {}

    def counts(self) -> Mapping[str, float]:
        """What is logged beside the losses, by name; every process asks once after each gradient."""
        return {}
