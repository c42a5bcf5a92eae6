"""Errors, counts and costs of outer gradients against closed forms."""

from __future__ import annotations

import pytest
import torch
from constructed_tasks import HalfSquare, hessians_of_quadratics, linear, loop, quadratics, tasks_of
from torch import nn

from cases import OUTER
from litmaml.measure.cost import costs
from litmaml.measure.estimator_errors import candidates, compare, estimator_errors, scan_probes, task_gradients
from litmaml.models import MLP
from litmaml.outer import FiniteDifference, FirstOrder, OuterGradient, SecondOrder
from litmaml.outer.memory import peak_of
from litmaml.tasks import Tasks


def _sines(tasks: int = 12) -> Tasks:
    stream = torch.Generator().manual_seed(0)
    x = 10 * torch.rand(tasks, 20, 1, generator=stream) - 5
    amplitude = 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=stream)
    return tasks_of(x, amplitude * (x - 3 * torch.rand(tasks, 1, 1, generator=stream)).sin(), 10)


def test_the_error_of_first_order_on_quadratics() -> None:
    tasks, rate, steps = quadratics(), 0.05, 3
    start = torch.ones(6).double()
    inner_loop = loop(linear(start), HalfSquare(), rate, steps)
    hessians = hessians_of_quadratics(tasks)
    rows, targets = tasks.support[0].inputs, tasks.support[0].targets
    centres = torch.linalg.lstsq(rows, targets).solution[..., 0]
    shrink = torch.linalg.matrix_power(torch.eye(6).double() - rate * hessians, steps)
    first = torch.einsum("tij,tjk,tk->ti", hessians, shrink, start - centres)
    exact = torch.einsum("tij,tj->ti", shrink, first)
    measured = task_gradients(inner_loop, SecondOrder(), tasks, steps)
    torch.testing.assert_close(measured, exact, rtol=1e-9, atol=1e-12)
    row = next(r for r in estimator_errors(inner_loop, tasks, steps, measured, [FirstOrder()]))
    assert row.error == pytest.approx(float((first - exact).norm() / exact.norm()))
    assert row.cosine == pytest.approx(float(torch.cosine_similarity(first.mean(0), exact.mean(0), dim=0)))
    assert row.worst == pytest.approx(float(((first - exact).norm(dim=1) / exact.norm(dim=1)).max()))
    assert row.time == row.memory == 1


def test_bias_and_deviation_are_told_apart() -> None:
    stream = torch.Generator().manual_seed(0)
    exact = 1 + torch.randn(400, 50, generator=stream)
    size = float(exact.mean(0).norm())
    shift, noise = 0.5, 2.0
    row = compare("", exact + shift + noise * torch.randn(400, 50, generator=stream), exact)
    assert row.bias == pytest.approx(shift * 50**0.5 / size, rel=0.05)
    assert row.deviation == pytest.approx(noise * 50**0.5 / size, rel=0.05)
    assert row.bias_below is not None
    assert row.bias_below > shift * 50**0.5 / size
    unbiased = compare("", exact + noise * torch.randn(400, 50, generator=stream), exact)
    assert unbiased.bias == pytest.approx(0, abs=0.08)


# Gradients, losses and Hessian products of three steps with five directions.
COUNTS = {
    "FirstOrder": (4, 0, 0),
    "SecondOrder": (4, 0, 3),
    "SecondOrder recompute": (7, 0, 3),
    "FiniteDifference": (10, 0, 0),
    "GaussianSmoothing": (19, 0, 0),
    **dict.fromkeys(("ZerothOrder ji", "ZerothOrder stein", "ZerothOrder mean"), (4, 33, 0)),
}


@pytest.mark.parametrize("name", OUTER)
def test_evaluations_are_counted(name: str) -> None:
    inner_loop = loop(MLP(hidden=[8]), nn.MSELoss(), 0.01, 3)
    (cost,) = costs(inner_loop, [OUTER[name].make(samples=5)], _sines(3), 3, repeat=1)
    assert (cost.gradients, cost.losses, cost.hessian_products) == COUNTS[name]


def test_the_peak_of_memory() -> None:
    start = torch.zeros(1000, 250)  # a megabyte

    def run() -> None:
        one = start + 1
        two = one * 2
        del one
        (two.view(250, 1000) + 1).sum()

    assert peak_of(run, torch.device("cpu")) / start.nbytes == pytest.approx(2, abs=0.01)


def test_memory_of_the_exact_gradient_grows_with_the_steps_unless_recomputed() -> None:
    x = torch.linspace(-5, 5, 2000).reshape(1, 1000, 2).mT.reshape(1, 2000, 1)  # activations outweigh weights
    tasks = tasks_of(x, x.sin(), 1000)

    def megabytes(outer_gradient: OuterGradient, steps: int) -> float:
        inner_loop = loop(MLP(hidden=[32, 32]), nn.MSELoss(), 0.01, steps)
        return costs(inner_loop, [outer_gradient], tasks, steps, repeat=1)[0].megabytes

    assert megabytes(SecondOrder(), 8) > 2.5 * megabytes(SecondOrder(), 2)
    assert megabytes(SecondOrder(recompute=True), 8) < 0.5 * megabytes(SecondOrder(), 8)


def test_finite_differences_of_a_smooth_network_are_true_in_float32() -> None:
    tasks = _sines()
    torch.manual_seed(0)
    inner_loop = loop(MLP(init="fan_in"), nn.MSELoss(), 0.01, 1)
    scan = scan_probes(inner_loop, tasks, 1, task_gradients(inner_loop, SecondOrder(), tasks, 1))
    assert scan.best_error < 1e-3
    assert scan.errors[scan.lengths.index(scan.default)] < 1e-3
    # Truncation on the one side, rounding on the other.
    assert scan.errors[0] > 10 * scan.best_error
    assert scan.errors[-1] > 100 * scan.best_error


def test_what_a_model_cannot_have_is_refused_with_the_reason() -> None:
    tasks = _sines(4)
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)).eval()
    inner_loop = loop(model, nn.MSELoss(), 0.01, 1)
    exact = task_gradients(inner_loop, SecondOrder(), tasks, 1)
    rows = estimator_errors(inner_loop, tasks, 1, exact, candidates(FirstOrder()), ["2 (Dropout)"])
    refused = {row.name: row.refused for row in rows if row.refused}
    assert set(refused) == {
        "SecondOrder(recompute=True)",
        "FiniteDifference()",
        "GaussianSmoothing(samples=10)",
        "ZerothOrder(samples=10, baseline=mean)",
    }
    assert all("Dropout" in reason for reason in refused.values())


def test_the_users_own_outer_gradient_is_among_the_candidates() -> None:
    assert len(candidates(FiniteDifference())) == len(candidates(FirstOrder())) == 6
    assert vars(candidates(FiniteDifference(radius=0.5))[-1]) == {"radius": 0.5}


def test_the_bound_of_a_bias_is_students() -> None:
    exact = torch.tensor([[2.0], [4.0]])
    row = compare("", exact + torch.tensor([[1.0], [-1.0]]), exact)
    assert row.bias == 0
    # The differences' standard deviation is sqrt(2), that of their mean 1, over a mean gradient of 3.
    assert row.bias_below == pytest.approx(12.7062 / 3, rel=1e-5)
