"""Linear regressions of known curvature: the quadratics and log-cosh tasks of convergence theory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmaml.data.episode import AS_IN_TRAINING, LEAST_WITHOUT_CLASSES, Episode
from litmaml.problems.pool import TaskPool
from litmaml.randomness import task_stream
from litmaml.tasks import Batch, Split, Tasks

_WHOLE = Episode(shots=0, queries=0, support_batches=1, hessian_batches=0)


class LinearRegression(TaskPool):
    """d exact measurements ``y_k = <x_k, c>`` of a task's optimum c, along orthogonal directions x_k.

    With X the rows x_k, X'X / d = A has the eigenvalues lambda_k. So a bias-free linear model has the loss

        1/2 (w - c)' A (w - c)           by HalfSquaredLoss (Golmant 2018, "MAML on quadratics")
        mean_k log cosh <x_k, w - c>     by LogCoshLoss: L = max lambda, rho = 4/(3 sqrt 3) sqrt(d) max lambda^(3/2)

    Task i has A_i = (1 - h) A_0 + h Q_i diag(lambda_i) Q_i', with lambda_i ~ U[low, high], Q_i a random rotation,
    A_0 = diag(low, ..., high), and c_i ~ N(0, spread^2 I). Inputs are (T, n, d), targets (T, n, 1).

    Args:
        size: d, the number of weights.
        curvature: low and high, the range of the eigenvalues.
        spread: Standard deviation of the optima's coordinates.
        heterogeneity: h in [0, 1]: 0 gives every task the Hessian A_0.
        pool: Number of tasks that there are: task number i is number i modulo pool. By default without end.
        train: The numbers of measurements and batches of a task in training. With 0 ``shots`` a support batch (D_in)
            or Hessian batch (D_h) holds all d measurements, else so many that are drawn with replacement; the same
            for the ``queries`` (D_o).
        test: Those in validation and test; as in training where they are left out.

    Raises:
        ValueError: A number is out of its range.
    """

    least: ClassVar[Episode] = replace(LEAST_WITHOUT_CLASSES, shots=0, queries=0)

    def __init__(
        self,
        size: int = 6,
        curvature: tuple[float, float] = (0.2, 3.0),
        spread: float = 1.0,
        heterogeneity: float = 1.0,
        pool: int | None = None,
        train: Episode = _WHOLE,
        test: Episode = AS_IN_TRAINING,
    ) -> None:
        super().__init__(size, pool, train.over(_WHOLE), test)
        if not 0 <= curvature[0] <= curvature[1]:
            raise ValueError(f"curvature must be 0 <= low <= high, got {list(curvature)}")
        if not 0 <= heterogeneity <= 1:
            raise ValueError(f"heterogeneity must be in [0, 1], got {heterogeneity}")
        if not spread >= 0:
            raise ValueError(f"spread must not be negative, got {spread}")
        self.curvature, self.spread, self.heterogeneity = (curvature[0], curvature[1]), spread, heterogeneity

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        drawn = [self._task(split, self._member(number), seed) for number in numbers]
        inputs = np.stack([x for x, _ in drawn])
        targets = np.einsum("tkd,td->tk", inputs, np.stack([c for _, c in drawn]))
        sizes = self.sizes(split).batches
        rows = np.empty((len(numbers), sum(size or self.size for size in sizes)), dtype=np.int64)
        for row, number in zip(rows, numbers, strict=True):
            stream = self._batch_stream(seed, split, number) if any(sizes) else None
            picked = [
                stream.integers(self.size, size=size) if stream and size else np.arange(self.size) for size in sizes
            ]
            row[:] = np.concatenate(picked)
        bounds = np.cumsum([size or self.size for size in sizes])[:-1]
        batches = [
            Batch(
                torch.from_numpy(np.take_along_axis(inputs, part[..., None], 1)),
                torch.from_numpy(np.take_along_axis(targets, part, 1)).unsqueeze(-1),
            )
            for part in np.split(rows, bounds, axis=1)
        ]
        return self._arrange(split, batches, numbers)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {
            "curvature": str(list(self.curvature)),
            "spread": self.spread,
            "heterogeneity": self.heterogeneity,
        }

    def _task(self, split: Split, member: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        make = _pooled if self.pool else _draw
        return make(split, member, seed, self.size, self.curvature, self.spread, self.heterogeneity)


def linear_tasks(curvatures: Tensor, optima: Tensor) -> Tasks:
    """Linear regressions with these Hessians A (T, d, d) and optima c (T, d); support and query are the same."""
    eigenvalues, axes = torch.linalg.eigh(curvatures)
    inputs = (eigenvalues.clamp(min=0) * len(axes[0])).sqrt().unsqueeze(-1) * axes.mT
    batch = Batch(inputs, inputs @ optima.unsqueeze(-1))
    return Tasks((batch,), batch, torch.arange(len(optima)))


def _draw(
    split: Split,
    member: int,
    seed: int,
    size: int,
    curvature: tuple[float, float],
    spread: float,
    heterogeneity: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """X (d, d) and c (d,) of a task."""
    stream = task_stream(seed, split, member)
    optimum = spread * stream.normal(size=size)
    eigenvalues = stream.uniform(*curvature, size=size)
    axes, triangle = np.linalg.qr(stream.normal(size=(size, size)))
    axes = axes * np.sign(np.diag(triangle))  # uniform over rotations and reflections
    if heterogeneity < 1:
        own = (axes * eigenvalues) @ axes.T
        shared = np.diag(np.linspace(*curvature, size))
        eigenvalues, axes = np.linalg.eigh((1 - heterogeneity) * shared + heterogeneity * own)
    return np.sqrt(size * eigenvalues.clip(min=0))[:, None] * axes.T, optimum


_pooled = lru_cache(maxsize=4096)(_draw)
