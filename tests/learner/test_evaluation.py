"""Means over tasks and their intervals, against scipy and against how often they hold the truth."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import t

from litmaml.statistics.interval import curve, interval, student_quantile


def test_students_quantile_is_scipys() -> None:
    for freedom in (*range(1, 450), 1000, 5000, 10**5, 10**7):
        assert student_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-12)
    with pytest.raises(ValueError, match="freedom: has to be at least 1, got 0"):
        student_quantile(0)


def test_an_interval_is_students() -> None:
    values = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
    found = interval(values)
    low, high = t.interval(0.95, 7, 4.5, float(values.double().std()) / 8**0.5)
    assert (found.mean, found.low, found.high) == pytest.approx((4.5, low, high), rel=1e-12)
    assert found.half_width == pytest.approx(2.0479, abs=1e-4)  # with 1.96 it would be 1.6974


def test_intervals_of_few_tasks_hold_the_truth_in_95_of_100_draws() -> None:
    draw = torch.Generator().manual_seed(0)
    for tasks in (2, 3, 8):
        values = torch.randn(tasks, 4000, generator=draw)
        held = sum(found.low <= 0 <= found.high for found in curve(values)) / 4000
        assert held == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors; by 1.96 0.70, 0.81 and 0.91


def test_one_task_and_none_have_no_finite_interval() -> None:
    assert interval(torch.tensor([3.0])) == (3.0, math.inf)
    assert math.isnan(interval(torch.empty(0)).mean)
    assert interval(torch.empty(0)).half_width == math.inf
