"""Every method on tasks with quadratic losses, program against closed form: its gradient, and where it ends.

f_i(w) = (w - c_i)' A_i (w - c_i) / 2, B = A + lambda I. A method whose gradient is M_i (w - c_i) ends at
(sum M_i)^-1 sum M_i c_i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from litmaml.inner import SGD, InnerOptimizer, MetaCurvature, Proximal
from litmaml.inner.loop import InnerLoop
from litmaml.outer import (
    FiniteDifference,
    FirstOrder,
    Implicit,
    MultiStepLoss,
    OuterGradient,
    OuterLoss,
    Reptile,
    SecondOrder,
    WorstCaseLoss,
)
from litmaml.outer.losses import nearest_distribution
from litmaml.outer.meta_gradient import MetaGradient, MetaGradientOf
from litmaml.tasks import Batch, Tasks

D, COUNT = 5, 4
ALPHA = 0.6 / 3.0  # 0.6 / L
EYE = torch.eye(D, dtype=torch.float64)


class Away(nn.Module):
    """w - c."""

    def __init__(self, d: int = D) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d))

    def forward(self, centres: Tensor) -> Tensor:
        return self.weight - centres


class Quadratic(nn.Module):
    """(w - c)' A (w - c) / 2."""

    def forward(self, away: Tensor, curvature: Tensor) -> Tensor:
        return torch.einsum("nd,nde,ne->", away, curvature, away) / 2


class Problem(NamedTuple):
    a: Tensor
    c: Tensor

    @property
    def tasks(self) -> Tasks:
        batch = Batch(self.c[:, None], self.a[:, None])
        return Tasks((batch,), batch, torch.arange(len(self.c)))

    def loop(self, inner: InnerOptimizer, steps: int) -> InnerLoop:
        return InnerLoop(Away(self.c.shape[1]), Quadratic(), inner, ["*"], steps)


def problem_of(count: int = COUNT) -> Problem:
    """Eigenvalues in [0.2, 3]."""
    basis = torch.linalg.qr(torch.randn(count, D, D)).Q
    eigenvalues = torch.cat(
        [torch.full((count, 1), 0.2), 0.2 + 2.8 * torch.rand(count, D - 2), torch.full((count, 1), 3)], 1
    )
    return Problem(basis @ torch.diag_embed(eigenvalues) @ basis.mT, torch.randn(count, D))


@pytest.fixture
def problem() -> Problem:
    return problem_of()


def found_at(gradient_of: MetaGradientOf, w: Tensor, tasks: Tasks) -> MetaGradient:
    with torch.no_grad():
        gradient_of.inner_loop.model.get_parameter("weight").copy_(w)
    return gradient_of(tasks)


def gradient_at(gradient_of: MetaGradientOf, w: Tensor, tasks: Tasks) -> Tensor:
    return found_at(gradient_of, w, tasks).gradients["model.weight"]


def power(m: Tensor, k: int) -> Tensor:
    raised: Tensor = torch.linalg.matrix_power(m, k)
    return raised


def shrunk(a: Tensor, strength: float, steps: int) -> Tensor:
    """(I - alpha B)^N."""
    return power(EYE - ALPHA * (a + strength * EYE), steps)


def moved(a: Tensor, strength: float, steps: int) -> Tensor:
    """J = d theta_N / dw = (lambda I + (I - alpha B)^N A) B^-1."""
    return (strength * EYE + shrunk(a, strength, steps) @ a) @ torch.linalg.inv(a + strength * EYE)


def multi_step(a: Tensor, weights: list[float]) -> Tensor:
    """sum_j w_j A (I - alpha A)^(2 j)."""
    return torch.stack([w * a @ power(EYE - ALPHA * a, 2 * j) for j, w in enumerate(weights)]).sum(0)


CONVERGED = 120
"""Steps of ``solving`` after which the inner problem is solved to rounding."""


class Case(NamedTuple):
    outer: Callable[[], OuterGradient]
    inner: Callable[[], InnerOptimizer]
    steps: int
    m: Callable[[Tensor], Tensor]
    loss: Callable[[], OuterLoss] = OuterLoss


def held(strength: float) -> InnerOptimizer:
    return Proximal(SGD(ALPHA), strength)


def solving(strength: float, learn: bool = False) -> InnerOptimizer:
    """By the best rate, 2 / (mu + L + 2 lambda)."""
    return Proximal(SGD(2 / (3.2 + 2 * strength)), strength, learn)


def solved(a: Tensor, strength: float, k: int) -> Tensor:
    """A (I + A/lambda)^-k."""
    return a @ power(torch.linalg.inv(EYE + a / strength), k)


def reptile(steps: int) -> Case:
    return Case(Reptile, lambda: SGD(ALPHA), steps, lambda a: EYE - shrunk(a, 0, steps))


def minibatch_prox(strength: float) -> Case:
    return Case(Reptile, lambda: solving(strength), CONVERGED, lambda a: solved(a, strength, 1) / strength)


def imaml(strength: float) -> Case:
    return Case(lambda: Implicit(D), lambda: solving(strength), CONVERGED, lambda a: solved(a, strength, 2))


CASES: dict[str, Case] = {
    **{f"Reptile, {n} steps": reptile(n) for n in (1, 2, 5)},
    **{f"Meta-MinibatchProx, {s}": minibatch_prox(s) for s in (0.3, 2.0)},
    **{f"iMAML, {s}": imaml(s) for s in (0.3, 2.0)},
    "Reptile of 3 proximal steps": Case(
        Reptile, lambda: held(2.0), 3, lambda a: (EYE - shrunk(a, 2.0, 3)) @ torch.linalg.inv(a + 2 * EYE) @ a
    ),
    "MAML of 3 proximal steps": Case(SecondOrder, lambda: held(2.0), 3, lambda a: a @ power(moved(a, 2.0, 3), 2)),
    "FO-MAML of 3 proximal steps": Case(
        FirstOrder,
        lambda: held(2.0),
        3,
        # Without curvature the derivative of theta_N by w is 1: a step passes on 1 - alpha lambda, and w alpha lambda.
        lambda a: a @ moved(a, 2.0, 3),
    ),
    "iMAML of 3 steps": Case(lambda: Implicit(D), lambda: held(2.0), 3, lambda a: solved(a, 2.0, 1) @ moved(a, 2.0, 3)),
    "iMAML by differences": Case(
        lambda: Implicit(D, FiniteDifference(radius=0.5)),
        lambda: held(2.0),
        3,
        lambda a: solved(a, 2.0, 1) @ moved(a, 2.0, 3),
    ),
    "MAML++": Case(
        SecondOrder,
        lambda: SGD(ALPHA),
        4,
        lambda a: multi_step(a, [0.0, 0.125, 0.125, 0.125, 0.625]),  # in epoch 2 of 4
        lambda: MultiStepLoss(epochs=4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_and_fixed_point(name: str, problem: Problem) -> None:
    case, tasks = CASES[name], problem.tasks
    gradient_of = MetaGradientOf(
        problem.loop(case.inner(), case.steps), case.outer(), case.steps, outer_loss=case.loss()
    )
    gradient_of.epoch = 2
    m, w = case.m(problem.a), torch.randn(D)
    found = gradient_at(gradient_of, w, tasks)
    true = (m @ (w - problem.c).unsqueeze(-1)).mean(0).squeeze()
    assert float((found - true).norm() / true.norm()) < 1e-12
    if case.steps == CONVERGED:
        return  # long paths; where M is this, so is the fixed point
    at_zero = gradient_at(gradient_of, torch.zeros(D), tasks)
    columns = [gradient_at(gradient_of, e, tasks) - at_zero for e in EYE]
    end = torch.linalg.solve(torch.stack(columns, 1), -at_zero)
    wanted = torch.linalg.solve(m.sum(0), (m @ problem.c.unsqueeze(-1)).sum(0)).squeeze()
    assert float((end - wanted).norm()) < 1e-9


@pytest.mark.parametrize("strength", [1e2, 1e4, 1e6])
def test_the_stronger_the_nearer_implicit_ends_to_joint_training(strength: float, problem: Problem) -> None:
    """In proportion to 1/lambda."""
    m = solved(problem.a, strength, 2)
    loop = problem.loop(Proximal(SGD(1 / (3 + strength)), strength), CONVERGED)
    gradient_of, w = MetaGradientOf(loop, Implicit(D), CONVERGED), torch.randn(D)
    true = (m @ (w - problem.c).unsqueeze(-1)).mean(0).squeeze()
    found = gradient_at(gradient_of, w, problem.tasks)
    assert float((found - true).norm() / true.norm()) < 1e-9
    joint = (problem.a @ (w - problem.c).unsqueeze(-1)).mean(0).squeeze()
    assert 0.1 < float((found - joint).norm() / joint.norm()) * strength < 30


def test_a_weak_hold_forgets_the_start(problem: Problem) -> None:
    """G / lambda^2 -> A^-1 (w - c)."""
    strength = 1e-6
    loop = problem.loop(held(strength), 800)
    w = torch.randn(D)
    found = gradient_at(MetaGradientOf(loop, Implicit(20), 800), w, problem.tasks) / strength**2
    true = torch.linalg.solve(problem.a, (w - problem.c).unsqueeze(-1)).mean(0).squeeze()
    assert float((found - true).norm() / true.norm()) < 1e-4


def test_the_unrolled_gradient_goes_to_the_implicit_one_as_fast_as_the_steps_do(problem: Problem) -> None:
    """As max |1 - alpha (mu + lambda)|^N."""
    strength, w = 2.0, torch.randn(D)
    true = (solved(problem.a, strength, 2) @ (w - problem.c).unsqueeze(-1)).mean(0).squeeze()
    errors = []
    for n in (10, 20, 40):
        found = gradient_at(MetaGradientOf(problem.loop(held(strength), n), SecondOrder(), n), w, problem.tasks)
        errors.append(float((found - true).norm()))
    predicted = torch.tensor(max(abs(1 - ALPHA * (0.2 + strength)), abs(1 - ALPHA * (3 + strength)))).log()
    slope = torch.tensor(errors[2] / errors[1]).log() / 20
    assert float(slope) == pytest.approx(float(predicted), rel=0.02)
    assert errors[0] > errors[1] > errors[2]


def test_conjugate_gradients_keep_their_bound(problem: Problem) -> None:
    """2 ((sqrt(k) - 1) / (sqrt(k) + 1))^n in the norm of the system, k its condition; and done after d steps."""
    strength, w = 0.3, torch.randn(D)
    one = Problem(problem.a[:1], problem.c[:1])
    system = EYE + one.a[0] / strength
    true = torch.linalg.inv(system) @ solved(one.a[0], strength, 1) @ (w - one.c[0])
    root = ((1 + 3 / strength) / (1 + 0.2 / strength)) ** 0.5
    for n in range(1, D + 1):
        loop = one.loop(solving(strength), CONVERGED)
        off = gradient_at(MetaGradientOf(loop, Implicit(n), CONVERGED), w, one.tasks) - true
        share = float((off @ system @ off) ** 0.5 / (true @ system @ true) ** 0.5)
        assert share < 2 * ((root - 1) / (root + 1)) ** n
        assert (share < 1e-9) == (n == D)


def test_derivative_by_the_strength(problem: Problem) -> None:
    """Against a central difference of the outer loss."""
    strength, w, length = 2.0, torch.randn(D), 1e-4
    learnt = problem.loop(solving(strength, learn=True), CONVERGED)
    found = found_at(MetaGradientOf(learnt, Implicit(D), CONVERGED), w, problem.tasks).gradients["learnt.strength"]
    either = [
        found_at(MetaGradientOf(problem.loop(solving(s), CONVERGED), SecondOrder(), CONVERGED), w, problem.tasks).loss
        for s in (strength + length, strength - length)
    ]
    assert float(found) == pytest.approx(float(either[0] - either[1]) / (2 * length), rel=1e-7)
    unrolled = found_at(MetaGradientOf(learnt, SecondOrder(), CONVERGED), w, problem.tasks).gradients["learnt.strength"]
    assert float(found) == pytest.approx(float(unrolled), rel=1e-10)
    assert float(found) > 0  # stronger is worse


def test_a_task_of_negative_curvature_is_not_finite_and_no_other_feels_it(problem: Problem) -> None:
    saddle = problem.a.clone()
    saddle[1] -= 3 * EYE  # eigenvalues down to -2.8
    tasks = Problem(saddle, problem.c).tasks
    w = torch.randn(D)

    def found(strength: float, of: Tasks) -> MetaGradient:
        return found_at(MetaGradientOf(problem.loop(held(strength), 3), Implicit(D), 3), w, of)

    assert found(2.0, tasks).finite.tolist() == [True, False, True, True]
    assert found(3.0, tasks).finite.all()
    others = Problem(problem.a[[0, 2, 3]], problem.c[[0, 2, 3]]).tasks
    alone = found(2.0, others).gradients["model.weight"]
    torch.testing.assert_close(found(2.0, tasks).gradients["model.weight"], alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_conjugate_gradients_do_not_depend_on_the_scale_of_the_loss(scale: float, problem: Problem) -> None:
    class Scaled(nn.Module):
        def forward(self, away: Tensor, curvature: Tensor) -> Tensor:
            value: Tensor = scale * Quadratic()(away, curvature)
            return value

    w, loop = torch.randn(D), problem.loop(held(2.0), 3)
    found, true = (
        gradient_at(MetaGradientOf(loop, Implicit(D), 3, outer_loss=OuterLoss(loss)), w, problem.tasks)
        for loss in (Scaled(), None)
    )
    torch.testing.assert_close(found / scale, true, rtol=1e-10, atol=0)


def test_residuals(problem: Problem) -> None:
    """As written out: of theta_N, and of the system."""
    strength, w = 2.0, torch.randn(D)
    for steps, iterations in ((3, 2), (CONVERGED, D)):
        gradient_of = MetaGradientOf(problem.loop(held(strength), steps), Implicit(iterations), steps, 1)
        found_at(gradient_of, w, problem.tasks)
        found = gradient_of.residuals(problem.tasks)
        end = problem.c + (moved(problem.a, strength, steps) @ (w - problem.c).unsqueeze(-1)).squeeze(-1)
        back = strength * (end - w)
        rest = (problem.a @ (end - problem.c).unsqueeze(-1)).squeeze(-1) + back
        torch.testing.assert_close(found["stationarity"], rest.norm(dim=1) / back.norm(dim=1), rtol=1e-6, atol=1e-12)
        assert (found["solve"] < 1e-9).all() == (iterations == D)
    assert MetaGradientOf(problem.loop(SGD(ALPHA), 1), SecondOrder(), 1).residuals(problem.tasks) == {}


def test_the_residual_of_a_query_loss_of_its_own(problem: Problem) -> None:
    """|v - A G| / |v|, where v is the gradient of that loss."""

    class Fourth(nn.Module):
        def forward(self, away: Tensor, curvature: Tensor) -> Tensor:
            return away.pow(4).sum()

    strength, w, one = 2.0, torch.randn(D), Problem(problem.a[:1], problem.c[:1])
    gradient_of = MetaGradientOf(one.loop(held(strength), 3), Implicit(2), 3, outer_loss=OuterLoss(Fourth()))
    x = gradient_at(gradient_of, w, one.tasks)
    v = 4 * (moved(one.a, strength, 3)[0] @ (w - one.c[0])).pow(3)
    left = (v - x - one.a[0] @ x / strength).norm() / v.norm()
    torch.testing.assert_close(gradient_of.residuals(one.tasks)["solve"], left[None], rtol=1e-8, atol=0)


# Preconditioned steps.


def test_meta_curvature_can_solve_a_task_in_one_step() -> None:
    """For W (o, i) and the loss |W X - Y|^2 / 2, M_i = (X X')^-1 / alpha does; and by hand dF/dM."""
    x, y = torch.randn(1, 6, 3), torch.randn(1, 6, 2)

    class Half(nn.Module):
        def forward(self, found: Tensor, true: Tensor) -> Tensor:
            return (found - true).square().sum() / 2

    loop = InnerLoop(nn.Linear(3, 2, bias=False), Half(), MetaCurvature(SGD(ALPHA)), ["*"], 1)
    batch = Batch(x, y)
    tasks, w = Tasks((batch,), batch, torch.zeros(1).long()), loop.model.get_parameter("weight").detach()
    g = (w @ x[0].T - y[0].T) @ x[0]
    theta = w - ALPHA * g
    v = (theta @ x[0].T - y[0].T) @ x[0]
    found = MetaGradientOf(loop, SecondOrder(), 1)(tasks).gradients
    torch.testing.assert_close(found["learnt.curvature/weight/0"], -ALPHA * v @ g.T, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found["learnt.curvature/weight/1"], -ALPHA * g.T @ v, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        loop.learnt["curvature.weight.1"].copy_(torch.linalg.inv(x[0].T @ x[0]) / ALPHA)
    *_, end = loop.path(tasks, 1)
    torch.testing.assert_close(end["weight"][0].T, torch.linalg.lstsq(x[0], y[0]).solution, rtol=1e-9, atol=1e-9)


def test_kernels_have_three_matrices() -> None:
    conv = nn.Conv2d(2, 3, 2)
    assert conv.bias is not None
    loop = InnerLoop(conv, nn.MSELoss(), MetaCurvature(SGD(1.0)), ["*"], 1)
    with torch.no_grad():
        for matrix in loop.learnt.parameters():
            matrix.add_(torch.randn_like(matrix))
    learnt = loop.learnt.values()
    batch = Batch(torch.randn(2, 4, 2, 5, 5), torch.randn(2, 4, 3, 4, 4))
    tasks = Tasks((batch,), batch, torch.arange(2))
    *_, end = loop.path(tasks, 1)
    for task in range(2):
        weight, bias = torch.autograd.grad(
            nn.MSELoss()(conv(batch.inputs[task]), batch.targets[task]), [conv.weight, conv.bias]
        )
        o, i, f = (learnt[f"curvature.weight.{dim}"] for dim in range(3))
        way = torch.einsum("ab,bcd,ce,fd->aef", o, weight.reshape(3, 2, 4), i, f).reshape(conv.weight.shape)
        torch.testing.assert_close(end["weight"][task], conv.weight - way)
        torch.testing.assert_close(end["bias"][task], conv.bias - learnt["curvature.bias"] * bias)


# The worst case.


def test_two_tasks_end_where_their_losses_are_one() -> None:
    """In one dimension, with a~ = a (1 - alpha a)^(2 N): w* = (sqrt(a1) c1 + sqrt(a2) c2) / (sqrt(a1) + sqrt(a2))."""
    a, c, steps = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 2.0]), 2
    two = Problem(a[:, None, None], c[:, None])
    worst = WorstCaseLoss(tasks=2, rate=0.05)
    gradient_of = MetaGradientOf(two.loop(SGD(ALPHA), steps), SecondOrder(), steps, outer_loss=worst)
    w = torch.zeros(1)
    curved = a * (1 - ALPHA * a) ** (2 * steps)
    r1, r2 = curved.sqrt()
    end, p = ((r1 * c[0] + r2 * c[1]) / (r1 + r2)).reshape(1), torch.stack([r2, r1]) / (r1 + r2)
    for _ in range(200):
        found = found_at(gradient_of, w, two.tasks)
        w = w - 0.3 * found.gradients["model.weight"]
        worst.update(two.tasks.numbers, found.losses)
    assert float((w - end).norm()) < 1e-3
    assert float((worst.p - p).norm()) < 1e-3
    # And there it stays.
    worst.p.copy_(p)
    found = found_at(gradient_of, end, two.tasks)
    assert abs(float(found.gradients["model.weight"])) < 1e-13
    value = curved.prod() * (c[0] - c[1]) ** 2 / 2 / (r1 + r2) ** 2
    torch.testing.assert_close(found.losses, value.expand(2), rtol=1e-12, atol=0)
    worst.update(two.tasks.numbers, found.losses)
    torch.testing.assert_close(worst.p, p, rtol=1e-12, atol=0)


def test_nearest_distribution() -> None:
    for n in (1, 2, 5, 40):
        values = 3 * torch.randn(n)
        p = nearest_distribution(values)
        assert float(p.sum()) == pytest.approx(1, abs=1e-14)
        assert (p >= 0).all()
        # The conditions of the minimum: values - p is one number where p > 0, and no larger elsewhere.
        rest = values - p
        level = rest[p > 0]
        assert float(level.max() - level.min()) < 1e-13
        assert (rest <= level.max() + 1e-13).all()
    assert nearest_distribution(torch.tensor([7.0])).tolist() == [1.0]


def test_half_a_batch_is_taken_for_all_and_numbers_go_round() -> None:
    """The ascent is (n/B) times the losses, a task that comes twice twice."""
    worst = WorstCaseLoss(tasks=4, rate=0.01)
    worst.update(torch.tensor([1, 5]), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(worst.p, nearest_distribution(torch.tensor([0.25, 0.25 + 0.01 * 2 * 4.0, 0.25, 0.25])))
    weights: Any = worst.task_weights(torch.tensor([1, 4]))
    torch.testing.assert_close(weights, 4 * worst.p[[1, 0]])
