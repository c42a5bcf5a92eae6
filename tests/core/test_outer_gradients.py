"""Every outer gradient with every inner optimizer, against unrolling task by task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from oracles import (
    Directions,
    Hop,
    Rule,
    Tiny,
    adadelta,
    adagrad,
    adam,
    adamax,
    fourth_moments,
    gradient_of_unrolling,
    random_tasks,
    relative,
    rmsprop,
    second_moments,
    sgd,
)
from torch import nn

from litmaml import outer_gradient
from litmaml.inner_loop import InnerLoop
from litmaml.inner_optimizer import SGD, HigherOptimizer, InnerOptimizer
from litmaml.meta_gradient import MetaGradientOf
from litmaml.outer_gradient import (
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    OuterGradient,
    SecondOrder,
    ZerothOrder,
)
from litmaml.types import Params, Tasks

# torch itself scripts what torch.func.hessian differentiates forwards with.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

STEPS = 2

# The eps are large, or the first steps would hardly depend on the gradient's length.
INNER: dict[str, tuple[Callable[[], InnerOptimizer], Rule]] = {
    "SGD": (lambda: SGD(0.1), sgd()),
    "momentum": (lambda: SGD(0.1, momentum=0.9), sgd(0.9)),
    "Nesterov": (lambda: SGD(0.1, momentum=0.9, nesterov=True), sgd(0.9, True)),
    "weight decay": (lambda: SGD(0.1, weight_decay=0.5), sgd(weight_decay=0.5)),
    "one rate": (lambda: SGD(0.1, learn="one"), sgd()),
    "one rate a tensor": (lambda: SGD(0.1, learn="tensor"), sgd()),
    "one rate a parameter": (lambda: SGD(0.1, learn="parameter"), sgd()),
    "one rate a step": (lambda: SGD(0.1, learn="one", per_step=True), sgd()),
    "one rate a tensor and step": (lambda: SGD(0.1, learn="tensor", per_step=True), sgd()),
    "one rate a parameter and step": (
        lambda: SGD(0.1, 0.5, True, 0.1, learn="parameter", per_step=True),
        sgd(0.5, True, 0.1),
    ),
    "higher SGD": (
        lambda: HigherOptimizer("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9}),
        sgd(0.9),
    ),
    "higher Adam": (lambda: HigherOptimizer("torch.optim.Adam", {"lr": 0.1, "eps": 0.1}), adam(0.1)),
    "higher RMSprop": (
        lambda: HigherOptimizer("torch.optim.RMSprop", {"lr": 0.02, "eps": 0.1, "momentum": 0.5}),
        rmsprop(0.1, momentum=0.5),
    ),
    "higher Adagrad": (
        lambda: HigherOptimizer("torch.optim.Adagrad", {"lr": 0.1, "eps": 0.1, "initial_accumulator_value": 0.2}),
        adagrad(0.1, 0.2),
    ),
    "higher Adadelta": (
        lambda: HigherOptimizer("torch.optim.Adadelta", {"lr": 0.3, "eps": 0.1}, learn="one"),
        adadelta(0.1),
    ),
    "higher Adamax": (
        lambda: HigherOptimizer("torch.optim.Adamax", {"lr": 0.1, "eps": 0.1}, learn="one", per_step=True),
        adamax(0.1),
    ),
}


class Outer(NamedTuple):
    """An outer gradient for so many fast weights, its directions, what it ought to give and how exactly."""

    make: Callable[[int], OuterGradient]
    hop: Hop = "exact"
    tolerance: float = 1e-10
    points: Callable[[int], torch.Tensor] | None = None


def zeroth_order(baseline: str) -> Callable[[int], OuterGradient]:
    return lambda d: ZerothOrder(samples=48, smoothing=1e-3, baseline=baseline)  # type: ignore[arg-type]


# Over directions with a Gaussian's moments the two sampled ones are their expectation, but for smoothing's mu^2.
OUTER: dict[str, Outer] = {
    "SecondOrder": Outer(lambda d: SecondOrder()),
    "SecondOrder recompute": Outer(lambda d: SecondOrder(recompute=True)),
    "FirstOrder": Outer(lambda d: FirstOrder(), "none"),
    "FiniteDifference": Outer(lambda d: FiniteDifference(), tolerance=1e-7),
    "GaussianSmoothing": Outer(lambda d: GaussianSmoothing(2 * d, 1e-4), "exact", 1e-6, second_moments),
    "ZerothOrder ji": Outer(zeroth_order("ji"), "ji", 1e-4, lambda d: fourth_moments()),
    "ZerothOrder stein": Outer(zeroth_order("stein"), "exact", 1e-4, lambda d: fourth_moments()),
    "ZerothOrder mean": Outer(zeroth_order("mean"), "exact", 1e-4, lambda d: fourth_moments()),
}

FAST = {"*": ["body.0.weight", "body.0.bias", "head.weight"], "head.*": ["head.weight"]}


def inner_loop_of(inner: str, outer_gradient: OuterGradient, fast: str) -> InnerLoop:
    """Always the same weights, and learnt rates that all differ."""
    torch.manual_seed(0)
    loop = InnerLoop(Tiny(), nn.MSELoss(), INNER[inner][0](), outer_gradient, [fast], STEPS)
    with torch.no_grad():
        for rate in loop.optimizer.parameters():
            rate.mul_(torch.rand_like(rate) + 0.5)
    return loop


@functools.cache
def tasks() -> Tasks:
    torch.manual_seed(1)
    return random_tasks(targets=lambda x: 2 * torch.sin(2 * x) + 1)


@functools.cache
def oracle(inner: str, fast: str, hop: Hop) -> Params:
    loop = inner_loop_of(inner, SecondOrder(), fast)
    return gradient_of_unrolling(loop, tasks(), STEPS, FAST[fast], INNER[inner][1], hop)


@pytest.mark.parametrize("fast", FAST, ids=["all", "head"])
@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(
    ("outer", "chunk"),
    [
        pytest.param(outer, chunk, id=f"{outer}-{'looped' if chunk else 'batched'}")
        for outer in OUTER
        for chunk in (None, 1)
        if not (chunk and outer in ("ZerothOrder stein", "ZerothOrder mean"))  # slow; ji is looped
    ],
)
def test_every_outer_gradient_with_every_inner_optimizer(
    outer: str, inner: str, fast: str, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, hop, tolerance, points = OUTER[outer]
    fast_count = 6 if fast == "*" else 2
    if points is not None:
        monkeypatch.setattr(outer_gradient, "_normal", Directions(points(fast_count)))
    loop = inner_loop_of(inner, make(fast_count), fast)
    found = MetaGradientOf(loop, STEPS, tasks_per_chunk=chunk)(tasks())
    assert bool(found.finite.all())
    true = oracle(inner, fast, hop)
    assert found.gradients.keys() == true.keys()
    for part in ("model.", "optimizer.rates."):  # the learnt rates' by themselves
        names = [name for name in true if name.startswith(part)]
        if names:
            of_part = ({name: gradients[name] for name in names} for gradients in (found.gradients, true))
            assert relative(*of_part) < tolerance


@pytest.mark.parametrize("fast", FAST, ids=["all", "head"])
@pytest.mark.parametrize("inner", INNER)
def test_cells_can_tell_hops_apart(inner: str, fast: str) -> None:
    """What the tolerances above are small against."""
    exact = oracle(inner, fast, "exact")
    assert relative(oracle(inner, fast, "none"), exact) > 1e-2
    assert relative(oracle(inner, fast, "ji"), exact) > 1e-2
