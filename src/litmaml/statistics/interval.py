"""Results over many tasks: a mean and its 95% interval for every metric after every inner step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

NORMAL = 1.959963984540054
"""The normal distribution at 97.5%."""


class Interval(NamedTuple):
    """A mean over independent tasks and the half-width of its 95% confidence interval, t s / sqrt(n).

    s is the standard deviation between tasks, n their number, t Student's 97.5% quantile with n - 1 degrees of
    freedom: 12.7 for two tasks, 2.36 for eight, 1.96 for thousands. The half-width of a single task is infinite.
    """

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.half_width:.4f}"

    def __repr__(self) -> str:
        return str(self)

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half_width


def interval(values: Tensor) -> Interval:
    """Of one value per task, (n,)."""
    n, values = len(values), values.double()
    if n == 0:
        return Interval(math.nan, math.inf)
    if n == 1:
        return Interval(float(values), math.inf)
    return Interval(float(values.mean()), student_quantile(n - 1) * float(values.std()) / n**0.5)


def curve(values: Tensor) -> list[Interval]:
    """Of the values of n tasks after 0, 1, ... N inner steps, (n, N + 1): one interval a step."""
    return [interval(column) for column in torch.unbind(values, dim=1)]


def in_order(results: Iterable[str]) -> list[str]:
    """The names of results as they are shown: the loss last."""
    return sorted(results, key=lambda name: name == "loss")


def cell(name: str, result: Interval) -> str:
    """A result of that name as a table shows it: an accuracy in percent."""
    if name == "accuracy":
        return f"{100 * result.mean:.2f} ± {100 * result.half_width:.2f} %"
    return str(result)


@lru_cache
def student_quantile(freedom: int) -> float:
    """Student's t at 97.5%: what the middle 95% reach to with so many degrees of freedom.

    Up to 400 by Newton's method on P(|T| < t), which is a finite sum in theta = arctan(t / sqrt(freedom)), beyond by
    Cornish and Fisher's expansion (Abramowitz and Stegun 26.7.3, 26.7.4 and 26.7.5); both to 1e-11 or better.
    """
    if freedom < 1:
        raise ValueError(f"freedom: has to be at least 1, got {freedom}")
    n, z = float(freedom), NORMAL
    if n > 400:
        terms = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
            (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
        )
        return z + sum(term / n ** (k + 1) for k, term in enumerate(terms))
    density = 2 * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)) / math.sqrt(n * math.pi)
    t = z
    for _ in range(20):  # the sum is concave in t and the start too small, so that no step goes too far
        t += (0.95 - _within(t, freedom)) / (density * (1 + t * t / n) ** (-(n + 1) / 2))
    return t


def _within(t: float, freedom: int) -> float:
    """P(|T| < t) for Student's T."""
    theta = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    total = term = math.cos(theta) if odd else 1.0
    for k in range(2 + odd, freedom, 2):
        term *= math.cos(theta) ** 2 * (k - 1) / k
        total += term
    if not odd:
        return math.sin(theta) * total
    return 2 / math.pi * (theta + (math.sin(theta) * total if freedom > 1 else 0.0))
