"""Linear regressions of known curvature: the quadratics and log-cosh tasks of convergence theory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmaml.data.task_distribution import TaskDistribution, check_at_least, in_run_precision
from litmaml.randomness import task_stream
from litmaml.tasks import Batch, Split, Tasks

_BATCHES = 2**63  # Where the streams of batches begin: the tasks' own streams have the numbers below.


class LinearRegression(TaskDistribution):
    """d exact measurements y_k = <x_k, c> of a task's optimum c, along orthogonal directions x_k.

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
        shots: 0: each batch holds all d measurements, and nothing is random but the task. Else the measurements of
            a support batch (D_in) or Hessian batch (D_h), drawn with replacement.
        queries: The same for the query (D_o).
        support_batches: 1: every inner step uses the same support batch. N: a fresh one for each of N inner
            steps.
        hessian_batches: 0: Hessian products use each step's own support batch. N: N fresh batches.

    Raises:
        ValueError: A number is out of its range.
    """

    shares_examples: ClassVar[bool] = True

    def __init__(
        self,
        size: int = 6,
        curvature: tuple[float, float] = (0.2, 3.0),
        spread: float = 1.0,
        heterogeneity: float = 1.0,
        pool: int | None = None,
        shots: int = 0,
        queries: int = 0,
        support_batches: int = 1,
        hessian_batches: int = 0,
    ) -> None:
        check_at_least(1, size=size, pool=pool)
        check_at_least(0, shots=shots, queries=queries)
        if not 0 <= curvature[0] <= curvature[1]:
            raise ValueError(f"curvature must be 0 <= low <= high, got {list(curvature)}")
        if not 0 <= heterogeneity <= 1:
            raise ValueError(f"heterogeneity must be in [0, 1], got {heterogeneity}")
        if not spread >= 0:
            raise ValueError(f"spread must not be negative, got {spread}")
        super().__init__(
            shots or size,
            queries or size,
            support_batches=support_batches,
            hessian_batches=hessian_batches,
        )
        # 0 stays what was asked for: a batch of d draws is not the d measurements.
        self.shots, self.queries = shots, queries
        self.size, self.curvature, self.spread = size, (curvature[0], curvature[1]), spread
        self.heterogeneity, self.pool = heterogeneity, pool

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        members = [number % self.pool if self.pool else number for number in numbers]
        drawn = [self._task(split, member, seed) for member in members]
        inputs = np.stack([x for x, _ in drawn])
        targets = np.einsum("tkd,td->tk", inputs, np.stack([c for _, c in drawn]))
        sizes = [self.shots] * (self.support_batches + self.hessian_batches) + [self.queries]
        rows = np.empty((len(numbers), sum(size or self.size for size in sizes)), dtype=np.int64)
        for row, number in zip(rows, numbers, strict=True):
            stream = task_stream(seed, split, _BATCHES + number) if any(sizes) else None
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
        return self._arrange(batches, numbers)

    def render(self, tasks: Tasks) -> Tasks:
        """The tasks in torch's default dtype, that is, in the precision of the run."""
        return in_run_precision(tasks)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return {
            "tasks": "LinearRegression",
            "split": split,
            "size": self.size,
            "curvature": str(list(self.curvature)),
            "spread": self.spread,
            "heterogeneity": self.heterogeneity,
            "pool": self.pool or "without end",
            "shots": self.shots,
            "queries": self.queries,
            "support_batches": self.support_batches,
            "hessian_batches": self.hessian_batches,
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
