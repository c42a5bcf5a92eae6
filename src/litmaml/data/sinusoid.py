"""Sinusoid regression (Finn et al. 2017, section 5.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from litmaml.data.episode import AS_IN_TRAINING, LEAST_WITHOUT_CLASSES, Episode
from litmaml.data.task_distribution import TaskDistribution, in_run_precision
from litmaml.randomness import task_streams
from litmaml.tasks import Batch, Split, Tasks

_TEN_POINTS = Episode(shots=10, queries=10, support_batches=1, hessian_batches=0)


class Sinusoid(TaskDistribution):
    """Regression of y = A sin(x - phase) + noise * e, one amplitude A and phase a task.

    A ~ U[0.1, 5], phase ~ U[0, pi], x ~ U[-5, 5], e ~ N(0, 1) (Finn, Abbeel and Levine, ICML 2017). There are
    endlessly many tasks: the splits differ in their random streams only. Inputs and targets are (T, n, 1).

    Args:
        train: The numbers of points and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.
        noise: Standard deviation of the noise on the targets, those of the query too.

    Raises:
        ValueError: if a count is too small or the noise negative.
    """

    least: ClassVar[Episode] = LEAST_WITHOUT_CLASSES
    AMPLITUDE = (0.1, 5.0)
    PHASE = (0.0, math.pi)
    DOMAIN = (-5.0, 5.0)

    def __init__(
        self,
        train: Episode = _TEN_POINTS,
        test: Episode = AS_IN_TRAINING,
        noise: float = 0.0,
    ) -> None:
        super().__init__(train.over(_TEN_POINTS), test)
        if not noise >= 0:
            raise ValueError(f"noise must not be negative, got {noise}")
        self.noise = noise

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        sizes = self.sizes(split).batches
        points = sum(sizes)
        curves = np.empty((len(numbers), 2))
        x = np.empty((len(numbers), points))
        noise = np.zeros((len(numbers), points))
        for row, stream in enumerate(task_streams(seed, split, numbers)):
            curves[row] = stream.uniform(*self.AMPLITUDE), stream.uniform(*self.PHASE)
            x[row] = stream.uniform(*self.DOMAIN, size=points)
            if self.noise:
                noise[row] = stream.normal(0.0, self.noise, size=points)
        y = curves[:, :1] * np.sin(x - curves[:, 1:]) + noise

        bounds = np.cumsum(sizes)[:-1]
        batches = [
            Batch(_column(inputs), _column(targets))
            for inputs, targets in zip(np.split(x, bounds, 1), np.split(y, bounds, 1), strict=True)
        ]
        return self._arrange(split, batches, numbers)

    def render(self, tasks: Tasks) -> Tasks:
        """The tasks in torch's default dtype, that is, in the precision of the run."""
        return in_run_precision(tasks)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {"noise": self.noise}


def _column(values: NDArray[np.float64]) -> torch.Tensor:
    """(T, n) numbers as a (T, n, 1) float32 tensor."""
    return torch.from_numpy(values.astype(np.float32)).unsqueeze(-1)
