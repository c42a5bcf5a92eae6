"""Rank-one matrix factorisation, the test problem of Fallah et al. and of Ji et al."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from litmaml.data.task_distribution import TaskDistribution, check_at_least, in_run_precision
from litmaml.randomness import task_stream
from litmaml.tasks import Batch, Split, Tasks

_BATCHES = 2**63  # Where the streams of batches begin: the tasks' own streams have the numbers below.


class RankOne(TaskDistribution):
    """Find w with w w' near M_i = g_i g_i': f_i(w) = 1/4 |w w' - M_i|^2, by ``Vector`` and ``RankOneLoss``.

    g_i = centre e_1 + s_i xi_i, xi_i ~ N(0, I) and s_i ~ U[low, high] = ``spread``: the spread of the tasks (Fallah,
    Mokhtari and Ozdaglar 2020, arXiv 1908.10400; Ji, Yang and Liang 2020, arXiv 2002.07836v1, with centre 0).

    A sample theta of task i adds <b, w> + w' E w / 2 to f_i, b with coordinates N(0, gradient_noise^2) and E
    symmetric with entries N(0, hessian_noise^2): noise in gradient and Hessian. Only the means of b and E over a
    batch count, so they are what is drawn: each batch is one example with inputs (T, 1, 1), zero, and targets
    (T, 1, d, d + 1), M_i - E beside b.

    Args:
        size: d, the number of weights.
        centre: The part of g_i that the tasks share.
        spread: low and high, the range of s_i.
        gradient_noise: Standard deviation of each coordinate of b for one sample.
        hessian_noise: Standard deviation of each entry of E for one sample.
        pool: Number of tasks that there are: task number i is number i modulo pool. By default without end.
        shots: Samples of a support batch (D_in) or a Hessian batch (D_h); without noise all numbers are alike.
        queries: Samples of the query (D_o).
        support_batches: 1: every inner step uses the same support batch. N: a fresh one for each of N inner
            steps.
        hessian_batches: 0: Hessian products use each step's own support batch. N: N fresh batches.

    Raises:
        ValueError: A number is out of its range.
    """

    shares_examples: ClassVar[bool] = True

    def __init__(
        self,
        size: int = 10,
        centre: float = 1.0,
        spread: tuple[float, float] = (0.3, 0.3),
        gradient_noise: float = 0.0,
        hessian_noise: float = 0.0,
        pool: int | None = None,
        shots: int = 1,
        queries: int = 1,
        support_batches: int = 1,
        hessian_batches: int = 0,
    ) -> None:
        super().__init__(shots, queries, support_batches=support_batches, hessian_batches=hessian_batches)
        check_at_least(1, size=size, pool=pool)
        if not 0 <= spread[0] <= spread[1]:
            raise ValueError(f"spread must be 0 <= low <= high, got {list(spread)}")
        for name, noise in (("gradient_noise", gradient_noise), ("hessian_noise", hessian_noise)):
            if not noise >= 0:
                raise ValueError(f"{name} must not be negative, got {noise}")
        self.size, self.centre, self.spread = size, centre, (spread[0], spread[1])
        self.gradient_noise, self.hessian_noise, self.pool = gradient_noise, hessian_noise, pool

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        d = self.size
        factors = np.empty((len(numbers), d))
        for row, number in zip(factors, numbers, strict=True):
            stream = task_stream(seed, split, number % self.pool if self.pool else number)
            row[:] = stream.uniform(*self.spread) * stream.normal(size=d)
            row[0] += self.centre
        matrices = factors[:, :, None] * factors[:, None, :]
        sizes = [self.shots] * (self.support_batches + self.hessian_batches) + [self.queries]
        targets = np.zeros((len(numbers), len(sizes), d, d + 1))
        targets[..., :d] = matrices[:, None]
        if self.gradient_noise or self.hessian_noise:
            for target, number in zip(targets, numbers, strict=True):
                noise = task_stream(seed, split, _BATCHES + number).normal(size=target.shape)
                noise /= np.sqrt(sizes)[:, None, None]
                upper = np.triu(self.hessian_noise * noise[..., :d])
                target[..., :d] -= upper + np.triu(upper, 1).swapaxes(1, 2)
                target[..., d] = self.gradient_noise * noise[..., d]
        batches = [
            Batch(torch.zeros(len(numbers), 1, 1, dtype=torch.float64), torch.from_numpy(targets[:, [k]]))
            for k in range(len(sizes))
        ]
        return self._arrange(batches, numbers)

    def render(self, tasks: Tasks) -> Tasks:
        """The tasks in torch's default dtype, that is, in the precision of the run."""
        return in_run_precision(tasks)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return {
            "tasks": "RankOne",
            "split": split,
            "size": self.size,
            "centre": self.centre,
            "spread": str(list(self.spread)),
            "shots": self.shots,
            "queries": self.queries,
            "support_batches": self.support_batches,
            "hessian_batches": self.hessian_batches,
            "gradient_noise": self.gradient_noise,
            "hessian_noise": self.hessian_noise,
            "pool": self.pool or "without end",
        }
