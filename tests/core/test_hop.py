"""The Hessian-vector products by themselves: bias, variance, rates of convergence, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from oracles import Tiny, assert_close, dense_hessian, flat, random_tasks
from torch import Tensor, nn
from torch.func import functional_call

from cases import OUTER, made
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import MLP
from litmaml.outer import (
    FiniteDifference,
    GaussianSmoothing,
    PathGradient,
    ZerothOrder,
)
from litmaml.outer.estimators import probe_length
from litmaml.outer.gradient import Point
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.randomness import task_streams
from litmaml.tasks import Batch
from litmaml.weights import Params, Weights

# torch itself scripts what torch.func.hessian differentiates forwards with.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

LOSS = nn.MSELoss()
EVERY = made({name: row for name, row in OUTER.items() if issubclass(row.kind, PathGradient)}, samples=4)


class Case:
    """A model with a batch, as many tasks of the same weights as there are to be independent draws."""

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.float64, tasks: int = 1) -> None:
        self.model, self.tasks = model.to(dtype), tasks
        x = torch.randn(8, 1)
        self.x, self.y = x.to(dtype), (torch.sin(2 * x) + 0.3).to(dtype)
        self.loop = InnerLoop(self.model, LOSS, SGD(), ["*"], 1)
        self.vector = {n: torch.randn(w.shape).to(dtype) for n, w in self.model.named_parameters()}

    def hop(self, method: PathGradient, vector: Params | None = None) -> Params:
        """Each task's product with the vector."""
        fast, slow = self.loop.shared_start(self.tasks)
        leaves = {name: weight.detach().clone().requires_grad_() for name, weight in fast.items()}
        batch = Batch(self.x.expand(self.tasks, *self.x.shape), self.y.expand(self.tasks, *self.y.shape))
        stacked = {n: v.expand(self.tasks, *v.shape) for n, v in (vector or self.vector).items()}
        streams = task_streams(0, "train", range(self.tasks), "directions")
        drawn = method.directions(Weights({n: w.detach()[0] for n, w in fast.items()}, {}), streams, 1) or (None,)
        at = Point(self.loop.losses, leaves, slow, batch, directions=drawn[0])
        rows, mixed = method.hop(at, stacked)
        assert not mixed
        return {name: row.detach() for name, row in rows.items()}

    def errors(self, method: PathGradient) -> Tensor:
        """Hop(v) - H v of each task (T, d)."""
        found = torch.cat([row.flatten(1) for row in self.hop(method).values()], 1)
        return found.double() - self.hessian @ flat(self.vector).double()

    @property
    def hessian(self) -> Tensor:
        weights = {name: weight.double() for name, weight in self.model.named_parameters()}
        return dense_hessian(
            weights, lambda w: LOSS(functional_call(self.model, w, (self.x.double(),)), self.y.double())
        )

    def relative_error(self, method: PathGradient) -> float:
        return float(self.errors(method).norm() / (self.hessian @ flat(self.vector).double()).norm())


def test_finite_difference_converges_with_the_square_of_the_radius() -> None:
    case = Case(MLP(hidden=(8, 8)))
    coarse, middle, fine = (case.relative_error(FiniteDifference(r)) for r in (0.1, 0.05, 0.025))
    assert coarse / middle == pytest.approx(4, rel=0.05)
    assert middle / fine == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 3e-4)])
def test_default_probe_length_suits_the_precision(dtype: torch.dtype, bound: float) -> None:
    case = Case(MLP(hidden=(16, 16)), dtype)
    error = case.relative_error(FiniteDifference())
    assert error < bound
    theta = {name: weight.detach().unsqueeze(0) for name, weight in case.model.named_parameters()}
    length = float(probe_length(theta))
    assert length == pytest.approx(0.2 * torch.finfo(dtype).eps ** (1 / 3) * (1 + float(flat(theta).norm())))
    # A hundredth of it drowns in rounding, a hundred times as much is truncated.
    assert case.relative_error(FiniteDifference(length / 100)) > 3 * error
    assert case.relative_error(FiniteDifference(length * 100)) > 3 * error


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_a_product_scales_with_its_vector(method: PathGradient, scale: float) -> None:
    case = Case(MLP(hidden=(8,)))
    once = case.hop(method)
    scaled = case.hop(method, {name: scale * v for name, v in case.vector.items()})
    # Estimates by differences have the rounding of the losses over the square of their probes.
    assert_close({name: row / scale for name, row in scaled.items()}, once, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", EVERY)
def test_the_product_with_zero_is_zero(method: PathGradient) -> None:
    case = Case(MLP(hidden=(8,)))
    rows = case.hop(method, {name: torch.zeros_like(v) for name, v in case.vector.items()})
    assert not flat(rows).any()


def test_variance_of_gaussian_smoothing() -> None:
    """E |Hop(v) - H v|^2 / |H v|^2 = (|H|_F^2 |v|^2 / |H v|^2 + 1) / Q, and no bias."""
    tasks, samples = 4000, 5
    case = Case(MLP(hidden=(6,)), tasks=tasks)
    errors = case.errors(GaussianSmoothing(samples, 1e-6))
    exact = case.hessian @ flat(case.vector)
    found = errors.square().sum(1).mean() / exact.square().sum()
    square = flat(case.vector).square().sum()
    predicted = (case.hessian.square().sum() * square / exact.square().sum() + 1) / samples
    assert float(found) == pytest.approx(float(predicted), rel=0.1)
    assert float(errors.mean(0).norm() / exact.norm()) < 3 * math.sqrt(float(predicted) / tasks)


@pytest.mark.parametrize("baseline", ["ji", "stein", "mean"])
def test_bias_of_zeroth_order(baseline: Any) -> None:
    """ji is off by tr(H) v / 2, stein by nothing, mean by a part of 1/Q of what stands in its formula."""
    tasks, samples = 4000, 20
    case = Case(Tiny(), tasks=tasks)
    errors = case.errors(ZerothOrder(samples, 1e-3, baseline))
    v, half_trace = flat(case.vector), float(case.hessian.trace()) / 2
    exact = case.hessian @ v
    # E of (c_q - mean c) u_q <u_q, v> is (1 - 1/Q) of the covariance of c and u u' v.
    bias = {"ji": half_trace * v, "stein": torch.zeros_like(v), "mean": -exact / samples}[baseline]
    noise = float((errors - bias).square().sum(1).mean().sqrt()) / math.sqrt(tasks)
    assert float((errors.mean(0) - bias).norm()) < 3 * noise
    assert 6 * noise < half_trace * float(v.norm())


def test_smoothing_converges() -> None:
    """The bias of GGS falls with mu, that of ZO with mu^2 (on the same directions)."""

    def error(method: PathGradient, exact: PathGradient) -> float:
        found = flat(case.hop(method))
        return float((found - flat(case.hop(exact))).norm())

    case = Case(MLP(hidden=(8,)))
    one_sided = [error(GaussianSmoothing(4, mu), GaussianSmoothing(4, 1e-6)) for mu in (4e-3, 2e-3)]
    assert one_sided[0] / one_sided[1] == pytest.approx(2, rel=0.05)
    losses = [error(ZerothOrder(4, mu), ZerothOrder(4, 1e-3)) for mu in (4e-2, 2e-2)]
    assert losses[0] / losses[1] == pytest.approx(4, rel=0.05)


class Linear(nn.Module):
    """A loss without curvature, where the linear model's prediction is it."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions * targets).mean()


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("size", [1, 3])
def test_no_curvature(method: PathGradient, size: int) -> None:
    """All are first order then; ZO only but for the rounding that its smoothing divides by."""
    tasks = random_tasks(size)
    loop = InnerLoop(nn.Linear(1, 1), Linear(), SGD(0.1), ["*"], 2)
    gradients = MetaGradientOf(loop, method, 2)(tasks).gradients
    found = [size * gradient for gradient in gradients.values()]
    x, y = tasks.query.inputs, tasks.query.targets
    torch.testing.assert_close(found[0], (x * y).mean(1).sum(0, keepdim=True), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1], y.mean(1).sum(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FiniteDifference(radius=0.0), "radius: has to be a positive number or left out .* got 0.0"),
        (lambda: FiniteDifference(radius=-1e-3), "radius: has to be a positive number .* got -0.001"),
        (lambda: FiniteDifference(radius=math.nan), "radius: has to be a positive number .* got nan"),
        (lambda: GaussianSmoothing(samples=0), "samples: has to be at least 1, got 0"),
        (lambda: GaussianSmoothing(smoothing=math.inf), "smoothing: has to be a positive number .* got inf"),
        (lambda: ZerothOrder(samples=-1), "samples: has to be at least 1, got -1"),
        (lambda: ZerothOrder(smoothing=-1.0), "smoothing: has to be a positive number .* got -1.0"),
        (lambda: ZerothOrder(baseline="none"), "baseline: got 'none'; one of ji, stein, mean"),  # type: ignore[arg-type]
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
