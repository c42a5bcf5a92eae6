"""The test problems are the functions that their formulas say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from litmaml.data import Episode
from litmaml.models import Vector
from litmaml.problems import HalfSquaredLoss, LinearRegression, LogCoshLoss, RankOne, RankOneLoss
from litmaml.problems.linear_regression import linear_tasks
from litmaml.tasks import Tasks


def hessians_of(tasks: Tasks) -> torch.Tensor:
    inputs = tasks.query.inputs
    return inputs.mT @ inputs / inputs.shape[1]


def test_half_squared_loss_on_linear_tasks_is_the_quadratic() -> None:
    tasks = LinearRegression(4, (0.2, 3.0)).sample("train", range(5), 0)
    w = torch.randn(4, dtype=torch.float64)
    optima = torch.linalg.solve(tasks.query.inputs, tasks.query.targets).squeeze(-1)
    for k, a in enumerate(hessians_of(tasks)):
        value = HalfSquaredLoss()(tasks.query.inputs[k] @ w.unsqueeze(1), tasks.query.targets[k])
        torch.testing.assert_close(value, 0.5 * (w - optima[k]) @ a @ (w - optima[k]))
        eigenvalues = torch.linalg.eigvalsh(a)
        assert eigenvalues.min() >= 0.2
        assert eigenvalues.max() <= 3.0
    assert torch.equal(tasks.query.inputs, tasks.support[0].inputs)


def test_given_curvatures_and_optima_come_back() -> None:
    root = torch.randn(3, 4, 4, dtype=torch.float64)
    a, c = root @ root.mT, torch.randn(3, 4, dtype=torch.float64)
    tasks = linear_tasks(a, c)
    torch.testing.assert_close(hessians_of(tasks), a)
    torch.testing.assert_close(tasks.query.inputs @ c.unsqueeze(-1), tasks.query.targets)


def test_heterogeneity_0_gives_all_tasks_one_hessian_and_1_none() -> None:
    same = hessians_of(LinearRegression(4, (0.2, 3.0), heterogeneity=0.0).sample("train", range(5), 0))
    torch.testing.assert_close(same, torch.diag(torch.linspace(0.2, 3.0, 4).double()).expand(5, 4, 4))
    half = hessians_of(LinearRegression(4, (0.2, 3.0), heterogeneity=0.5).sample("train", range(5), 0))
    full = hessians_of(LinearRegression(4, (0.2, 3.0)).sample("train", range(5), 0))
    torch.testing.assert_close(half, (same + full) / 2)


def test_drawn_measurements_average_to_the_whole_task() -> None:
    whole = LinearRegression(3, pool=2).sample("train", range(2), 0)
    drawn = LinearRegression(3, pool=2, train=Episode(shots=4000, queries=7, hessian_batches=1)).sample(
        "train", range(2, 4), 0
    )
    assert drawn.query.inputs.shape == (2, 7, 3)
    assert drawn.hessian is not None
    assert not torch.equal(drawn.hessian[0].inputs, drawn.support[0].inputs)
    inputs = drawn.support[0].inputs
    torch.testing.assert_close(inputs.mT @ inputs / 4000, hessians_of(whole), rtol=0, atol=0.3)
    optima = torch.linalg.solve(whole.query.inputs, whole.query.targets)
    torch.testing.assert_close(inputs @ optima, drawn.support[0].targets)


def test_log_cosh_keeps_its_bounds_and_does_not_overflow() -> None:
    x = torch.linspace(-60, 60, 4801, dtype=torch.float64, requires_grad=True)
    loss = LogCoshLoss()
    value = torch.stack([loss(e, torch.zeros_like(e)) for e in x])
    torch.testing.assert_close(value, x.detach().abs() + torch.log1p(torch.exp(-2 * x.detach().abs())) - math.log(2))
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), x)
    torch.testing.assert_close(first, x.detach().tanh())
    assert second.max() <= 1 + 1e-12
    assert abs(float(third.abs().max()) - LogCoshLoss.THIRD) < 1e-3


def test_rank_one_loss_has_the_gradient_and_hessian_of_its_formula() -> None:
    tasks = RankOne(5, 1.0, (0.3, 0.3), gradient_noise=0.5, hessian_noise=0.2).sample("train", range(3), 0)
    targets = tasks.query.targets
    model = Vector(5).double()
    w = model.weight.detach().clone().requires_grad_()
    clean = RankOne(5, 1.0, (0.3, 0.3)).sample("train", range(3), 0).query.targets[..., :-1]
    for task in range(3):
        m, b = clean[task, 0], targets[task, 0, :, -1]
        e = m - targets[task, 0, :, :-1]
        torch.testing.assert_close(e, e.mT)

        def loss(w: torch.Tensor, task: int = task) -> torch.Tensor:
            value: torch.Tensor = RankOneLoss()(w.expand(1, 5), targets[task])
            return value

        expected = (w @ w) * w - m @ w + b + e @ w
        torch.testing.assert_close(torch.autograd.functional.jacobian(loss, w), expected.detach())
        hessian = (w @ w) * torch.eye(5).double() + 2 * torch.outer(w, w) - m + e
        torch.testing.assert_close(torch.autograd.functional.hessian(loss, w), hessian.detach())
    assert torch.linalg.matrix_rank(clean).tolist() == [[1], [1], [1]]


def test_rank_one_noise_has_its_deviation_and_shrinks_with_samples() -> None:
    for shots in (1, 25):
        noisy = RankOne(6, gradient_noise=0.5, hessian_noise=0.2, pool=2, train=Episode(shots=shots))
        targets = noisy.sample("train", range(3000), 0).support[0].targets[:, 0]
        clean = RankOne(6, pool=2).sample("train", range(3000), 0).support[0].targets[:, 0]
        noise = targets - clean
        assert abs(float(noise[..., -1].std()) * shots**0.5 - 0.5) < 0.01
        assert abs(float(noise[..., :-1].std()) * shots**0.5 - 0.2) < 0.005


@pytest.mark.parametrize(
    "distribution", [LinearRegression(4, pool=3, train=Episode(queries=3)), RankOne(4, pool=3, gradient_noise=1.0)]
)
def test_a_pool_comes_round_with_fresh_batches(distribution: Any) -> None:
    first, again = distribution.sample("train", [0, 1, 2], 0), distribution.sample("train", [3, 4, 5], 0)
    repeated = distribution.sample("train", [5, 0], 0)
    assert torch.equal(repeated.query.targets[0], again.query.targets[2])
    assert torch.equal(repeated.query.targets[1], first.query.targets[0])
    assert not torch.equal(first.query.targets, again.query.targets)
    other = distribution.sample("train", [0, 1, 2], 1)
    assert not torch.equal(first.query.targets, other.query.targets)
    assert not torch.equal(first.query.targets, distribution.sample("val", [0, 1, 2], 0).query.targets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRegression(curvature=(2.0, 1.0)), r"curvature must be 0 <= low <= high, got \[2.0, 1.0\]"),
        (lambda: LinearRegression(heterogeneity=1.5), r"heterogeneity must be in \[0, 1\], got 1.5"),
        (lambda: LinearRegression(spread=-1.0), "spread must not be negative"),
        (lambda: LinearRegression(train=Episode(shots=-1)), r"train\.shots: must be at least 0, got -1"),
        (lambda: LinearRegression(pool=0), "pool must be at least 1"),
        (lambda: RankOne(spread=(0.5, 0.1)), r"spread must be 0 <= low <= high, got \[0.5, 0.1\]"),
        (lambda: RankOne(hessian_noise=-0.1), "hessian_noise must not be negative, got -0.1"),
        (lambda: RankOne(size=0), "size must be at least 1"),
        (lambda: Vector(0), "size: has to be at least 1, got 0"),
    ],
)
def test_bad_numbers_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
