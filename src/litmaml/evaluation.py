"""Results over many tasks: a mean and its 95% interval for every metric after every inner step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A mean over independent tasks and the half-width of its 95% confidence interval, 1.96 s / sqrt(n).

    s is the standard deviation between tasks, n their number; the half-width of a single task is infinite.
    """

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.half_width:.4f}"


def interval(values: Tensor) -> Interval:
    """Of one value a task, (n,)."""
    if len(values) == 0:
        return Interval(float("nan"), float("inf"))
    spread = float(values.double().std()) if len(values) > 1 else float("inf")
    return Interval(float(values.double().mean()), 1.96 * spread / len(values) ** 0.5)


def curve(values: Tensor) -> list[Interval]:
    """Of the values of n tasks after 0, 1, ... N inner steps, (n, N + 1): one interval a step."""
    return [interval(column) for column in torch.unbind(values, dim=1)]
