"""Rank-one matrix factorisation, the test problem of Fallah et al. and of Ji et al."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from litmaml.data.episode import AS_IN_TRAINING, LEAST_WITHOUT_CLASSES, Episode
from litmaml.problems.pool import TaskPool
from litmaml.randomness import task_stream
from litmaml.tasks import Batch, Split, Tasks

_ONE_SAMPLE = Episode(shots=1, queries=1, support_batches=1, hessian_batches=0)


class RankOne(TaskPool):
    """Find w with w w' near M_i = g_i g_i': f_i(w) = 1/4 |w w' - M_i|^2, by ``Vector`` and ``RankOneLoss``.

    g_i = centre e_1 + s_i xi_i, xi_i ~ N(0, I) and s_i ~ U[low, high] = ``spread``: the spread of the tasks (Fallah,
    Mokhtari and Ozdaglar 2020, arXiv 1908.10400; Ji, Yang and Liang 2020, arXiv 2002.07836v1, with centre 0).

    A sample theta of task i adds ``<b, w> + w' E w / 2`` to f_i, b with coordinates N(0, gradient_noise^2) and E
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
        train: The numbers of samples and batches of a task in training: ``shots`` of a support batch (D_in) or a
            Hessian batch (D_h), ``queries`` of the query (D_o). Without noise all numbers are alike.
        test: Those in validation and test; as in training where they are left out.

    Raises:
        ValueError: A number is out of its range.
    """

    least: ClassVar[Episode] = LEAST_WITHOUT_CLASSES

    def __init__(
        self,
        size: int = 10,
        centre: float = 1.0,
        spread: tuple[float, float] = (0.3, 0.3),
        gradient_noise: float = 0.0,
        hessian_noise: float = 0.0,
        pool: int | None = None,
        train: Episode = _ONE_SAMPLE,
        test: Episode = AS_IN_TRAINING,
    ) -> None:
        super().__init__(size, pool, train.over(_ONE_SAMPLE), test)
        if not 0 <= spread[0] <= spread[1]:
            raise ValueError(f"spread must be 0 <= low <= high, got {list(spread)}")
        for name, noise in (("gradient_noise", gradient_noise), ("hessian_noise", hessian_noise)):
            if not noise >= 0:
                raise ValueError(f"{name} must not be negative, got {noise}")
        self.centre, self.spread = centre, (spread[0], spread[1])
        self.gradient_noise, self.hessian_noise = gradient_noise, hessian_noise

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        d = self.size
        factors = np.empty((len(numbers), d))
        for row, number in zip(factors, numbers, strict=True):
            stream = task_stream(seed, split, self._member(number))
            row[:] = stream.uniform(*self.spread) * stream.normal(size=d)
            row[0] += self.centre
        matrices = factors[:, :, None] * factors[:, None, :]
        sizes = self.sizes(split).batches
        targets = np.zeros((len(numbers), len(sizes), d, d + 1))
        targets[..., :d] = matrices[:, None]
        if self.gradient_noise or self.hessian_noise:
            for target, number in zip(targets, numbers, strict=True):
                noise = self._batch_stream(seed, split, number).normal(size=target.shape)
                noise /= np.sqrt(sizes)[:, None, None]
                upper = np.triu(self.hessian_noise * noise[..., :d])
                target[..., :d] -= upper + np.triu(upper, 1).swapaxes(1, 2)
                target[..., d] = self.gradient_noise * noise[..., d]
        batches = [
            Batch(torch.zeros(len(numbers), 1, 1, dtype=torch.float64), torch.from_numpy(targets[:, [k]]))
            for k in range(len(sizes))
        ]
        return self._arrange(split, batches, numbers)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {
            "centre": self.centre,
            "spread": str(list(self.spread)),
            "gradient_noise": self.gradient_noise,
            "hessian_noise": self.hessian_noise,
        }
