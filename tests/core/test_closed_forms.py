"""Tasks with quadratic losses, for which everything has a closed form (theory of MAML on quadratics).

f_i(w) = (w - c_i)' A_i (w - c_i) / 2. As a model: a linear one without bias, on inputs A_i^(1/2) with targets
A_i^(1/2) c_i and half the sum of squares as the loss. Whole-number weights p_i are copies of a task.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from cases import EXACT, OUTER, made
from litmaml.inner import SGD, InnerOptimizer
from litmaml.inner.loop import InnerLoop
from litmaml.outer import (
    FiniteDifference,
    OuterGradient,
    SecondOrder,
)
from litmaml.outer.meta_gradient import MetaGradient, MetaGradientOf
from litmaml.tasks import Batch, Tasks

D = 6
COPIES = [1, 3, 2, 2]
P = torch.tensor(COPIES, dtype=torch.float64) / sum(COPIES)
ALPHA = 0.6 / 3.0  # 0.6 / L


class HalfSquares(nn.Module):
    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().sum() / 2


class Quadratics(NamedTuple):
    """Curvatures (n, d, d) with eigenvalues in [0.2, 3], centres (n, d), and the same as stacked tasks."""

    a: Tensor
    c: Tensor
    tasks: Tasks


def quadratics(copies: list[int]) -> Quadratics:
    n = len(copies)
    basis = torch.linalg.qr(torch.randn(n, D, D)).Q
    eigenvalues = 0.2 + 2.8 * torch.rand(n, D)
    eigenvalues[:, 0] = 3.0
    a = basis @ torch.diag_embed(eigenvalues) @ basis.mT
    root = basis @ torch.diag_embed(eigenvalues.sqrt()) @ basis.mT
    c = torch.randn(n, D)
    repeated = torch.repeat_interleave(torch.arange(n), torch.tensor(copies))
    batch = Batch(root[repeated], (root @ c.unsqueeze(-1))[repeated])
    return Quadratics(a, c, Tasks((batch,), batch, torch.arange(len(repeated))))


@pytest.fixture
def problem() -> Quadratics:
    return quadratics(COPIES)


def meta_gradient(
    w: Tensor, tasks: Tasks, steps: int, method: OuterGradient, optimizer: InnerOptimizer | None = None
) -> MetaGradient:
    """What the system gives at w."""
    model = nn.Linear(len(w), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(w.unsqueeze(0))
    loop = InnerLoop(model, HalfSquares(), optimizer or SGD(ALPHA), ["*"], steps)
    return MetaGradientOf(loop, method, steps)(tasks)


def gradient(w: Tensor, tasks: Tasks, steps: int, method: OuterGradient) -> Tensor:
    return meta_gradient(w, tasks, steps, method).gradients["model.weight"].squeeze(0)


def fixed_point(tasks: Tasks, steps: int, method: OuterGradient) -> Tensor:
    """Where the system's gradient, which is affine in w, vanishes: from its values at 0 and at the unit vectors."""
    at_zero = gradient(torch.zeros(D), tasks, steps, method)
    columns = [gradient(e, tasks, steps, method) - at_zero for e in torch.eye(D)]
    zero: Tensor = torch.linalg.solve(torch.stack(columns, 1), -at_zero)
    return zero


def weighted(m: Tensor, c: Tensor, p: Tensor = P) -> Tensor:
    """(sum p M)^-1 sum p M c."""
    mean, of_c = (p[:, None, None] * m).sum(0), (p[:, None, None] * m @ c.unsqueeze(-1)).sum(0)
    solved: Tensor = torch.linalg.solve(mean, of_c)
    return solved.squeeze()


def power(m: Tensor, k: int) -> Tensor:
    raised: Tensor = torch.linalg.matrix_power(m, k)
    return raised


def attenuated(a: Tensor, steps: int) -> Tensor:
    """A (I - alpha A)^(2 K)."""
    return a @ power(torch.eye(D) - ALPHA * a, 2 * steps)


def zeroth(a: Tensor, steps: int) -> Tensor:
    """A ((1 - alpha tr A / 2) I - alpha A)^K (I - alpha A)^K: what the constant error of ji does."""
    eye = torch.eye(D)
    traces = a.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    return a @ power((1 - ALPHA * traces / 2) * eye - ALPHA * a, steps) @ power(eye - ALPHA * a, steps)


def first(a: Tensor, steps: int) -> Tensor:
    """A (I - alpha A)^K."""
    return a @ power(torch.eye(D) - ALPHA * a, steps)


# Of what is not the exact gradient in the mean. Differences of gradients of quadratics are exact, however long.
CURVATURE = {"FirstOrder": first, "ZerothOrder ji": zeroth}
LENGTH = 0.5


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", [*OUTER, "FiniteDifference of long probes"])
def test_fixed_point(name: str, steps: int, problem: Quadratics, monkeypatch: pytest.MonkeyPatch) -> None:
    method = OUTER[name].expected(D, monkeypatch, LENGTH) if name in OUTER else FiniteDifference(radius=LENGTH)
    assert (name in CURVATURE) == (name in OUTER and OUTER[name].hop is not None)
    found = fixed_point(problem.tasks, steps, method)
    true = weighted(CURVATURE.get(name, attenuated)(problem.a, steps), problem.c)
    assert float((found - true).norm()) < 1e-7
    joint = weighted(problem.a, problem.c)  # where joint training would end: not here
    assert float((true - joint).norm()) > 1e-2


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gradient_and_objective(steps: int, problem: Quadratics) -> None:
    w = torch.randn(D)
    away = (w - problem.c).unsqueeze(-1)
    found = meta_gradient(w, problem.tasks, steps, SecondOrder())
    m = attenuated(problem.a, steps)
    torch.testing.assert_close(
        found.gradients["model.weight"].squeeze(0), (P[:, None, None] * m @ away).sum(0).squeeze()
    )
    torch.testing.assert_close(found.loss, (P * (away.mT @ m @ away).flatten() / 2).sum())


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_minimum_of_the_objective(steps: int, problem: Quadratics) -> None:
    best = fixed_point(problem.tasks, steps, SecondOrder())
    m = attenuated(problem.a, steps)
    c = problem.c.unsqueeze(-1)
    b = (P[:, None, None] * m @ c).sum(0)
    lowest = (P * (c.mT @ m @ c).flatten()).sum() / 2
    lowest = lowest - (b.T @ torch.linalg.solve((P[:, None, None] * m).sum(0), b)).squeeze() / 2
    found = meta_gradient(best, problem.tasks, steps, SecondOrder()).loss
    assert abs(float(found - lowest)) < 1e-7


def test_adapted_weights(problem: Quadratics) -> None:
    w = torch.randn(D)
    model = nn.Linear(D, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(w.unsqueeze(0))
    loop = InnerLoop(model, HalfSquares(), SGD(ALPHA), ["*"], 5)
    path = list(loop.path(problem.tasks, 5))
    assert len(path) == 6
    which = torch.repeat_interleave(torch.arange(len(COPIES)), torch.tensor(COPIES))
    for j, fast in enumerate(path):
        away = power(torch.eye(D) - ALPHA * problem.a, j) @ (w - problem.c).unsqueeze(-1)
        torch.testing.assert_close(fast["weight"].squeeze(1), (problem.c + away.squeeze(-1))[which])


@pytest.mark.parametrize("method", made(EXACT))
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_derivative_by_the_rate(steps: int, method: OuterGradient, problem: Quadratics) -> None:
    """dF/dalpha = -K sum p (w - c)' A^2 (I - alpha A)^(2 K - 1) (w - c)."""
    w = torch.randn(D)
    away = (w - problem.c).unsqueeze(-1)
    shrunk = power(torch.eye(D) - ALPHA * problem.a, 2 * steps - 1)
    true = -steps * (P * (away.mT @ power(problem.a, 2) @ shrunk @ away).flatten()).sum()
    found = meta_gradient(w, problem.tasks, steps, method, SGD(ALPHA, learn="one"))
    torch.testing.assert_close(found.gradients["learnt.rate"], true, rtol=1e-8, atol=0)


def test_rates_of_their_own_for_each_step(problem: Quadratics) -> None:
    """Ã = A prod_j (I - alpha_j A)^2."""
    rates = torch.tensor([0.05, 0.2, 0.1])
    w = torch.randn(D)
    model = nn.Linear(D, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(w.unsqueeze(0))
    loop = InnerLoop(model, HalfSquares(), SGD(0.1, learn="one", per_step=True), ["*"], 3)
    with torch.no_grad():
        next(loop.learnt.parameters()).copy_(rates)
    m = problem.a
    for rate in rates:
        m = m @ power(torch.eye(D) - rate * problem.a, 2)
    found = MetaGradientOf(loop, SecondOrder(), 3)(problem.tasks).gradients["model.weight"].squeeze(0)
    away = (w - problem.c).unsqueeze(-1)
    torch.testing.assert_close(found, (P[:, None, None] * m @ away).sum(0).squeeze())


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_two_tasks_beat_their_midpoint(steps: int) -> None:
    """L(w*) is half a parallel sum, and L(midpoint) - L(w*) = (a-b)' (Ã-B̃)(Ã+B̃)^-1(Ã-B̃) (a-b) / 8."""
    two = quadratics([1, 1])
    (a, b), gap = attenuated(two.a, steps), (two.c[0] - two.c[1]).unsqueeze(-1)

    def summed(w: Tensor) -> Tensor:
        return 2 * meta_gradient(w, two.tasks, steps, SecondOrder()).loss

    best = fixed_point(two.tasks, steps, SecondOrder())
    parallel = torch.linalg.inv(torch.linalg.inv(a) + torch.linalg.inv(b))
    torch.testing.assert_close(summed(best), (gap.T @ parallel @ gap).squeeze() / 2)
    midpoint = two.c.mean(0)
    torch.testing.assert_close(summed(midpoint), (gap.T @ (a + b) @ gap).squeeze() / 8)
    excess = (gap.T @ (a - b) @ torch.linalg.inv(a + b) @ (a - b) @ gap).squeeze() / 8
    torch.testing.assert_close(summed(midpoint) - summed(best), excess)
    assert excess > 0
