"""Estimated quantities: a value, its 95% interval, and a word where it cannot be told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from litmaml.statistics.interval import student_quantile


@dataclass(frozen=True)
class Estimate:
    """A quantity and its 95% interval; ``value`` is None where the data cannot tell it.

    ``note`` says what the numbers rest on, or why there is none.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return "cannot be told"
        if self.low is None or self.high is None:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def map_sqrt(self, note: str = "") -> Estimate:
        """The square root of a square, with its interval; below zero the interval begins at zero."""
        if self.value is None:
            return self
        roots = [None if x is None else math.sqrt(max(x, 0.0)) for x in (self.value, self.low, self.high)]
        return Estimate(roots[0], roots[1], roots[2], note or self.note)

    def scaled(self, factor: float, note: str = "") -> Estimate:
        """The estimate times a positive number."""
        numbers = [None if x is None else factor * x for x in (self.value, self.low, self.high)]
        return Estimate(numbers[0], numbers[1], numbers[2], note or self.note)


def mean_estimate(values: Tensor) -> Estimate:
    """The mean of positive numbers, one a task (T,), T >= 2.

    Squared norms are skewed, their logarithm hardly: the interval is mean * exp(+- t s / (mean sqrt(T))).
    """
    values = values.double()
    mean = float(values.mean())
    if mean <= 0:
        return Estimate(0.0, 0.0, 0.0)
    error = float(values.std()) / len(values) ** 0.5
    factor = math.exp(student_quantile(len(values) - 1) * error / mean)
    return Estimate(mean, mean / factor, mean * factor)


def difference_estimate(first: Estimate, second: Estimate) -> Estimate:
    """first - second for independent estimates, its interval recovered from theirs (Zou and Donner 2008)."""
    (a, low_a, high_a), (b, low_b, high_b) = _numbers(first), _numbers(second)
    low = a - b - math.hypot(a - low_a, high_b - b)
    high = a - b + math.hypot(high_a - a, b - low_b)
    return Estimate(a - b, low, high)


def _numbers(estimate: Estimate) -> tuple[float, float, float]:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        raise ValueError("only estimates with an interval have a difference")
    return estimate.value, estimate.low, estimate.high
