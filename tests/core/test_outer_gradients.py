"""Every outer gradient with every inner optimizer, against unrolling task by task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hops import Hop, nothing, with_half_trace
from inner_cases import INNER
from oracles import Directions, Tiny, dense_hessian, fourth_moments, random_tasks, relative, second_moments
from torch import nn
from unrolling import unrolled

from litmaml.inner.loop import InnerLoop
from litmaml.outer import (
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    OuterGradient,
    SecondOrder,
    ZerothOrder,
    estimators,
)
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks
from litmaml.weights import Params

# torch itself scripts what torch.func.hessian differentiates forwards with.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")

STEPS = 2

HOPS: dict[str, Hop | None] = {
    "exact": None,
    "none": nothing,
    "ji": with_half_trace(lambda theta, loss: dense_hessian(theta, loss).trace()),
}


class Outer(NamedTuple):
    """An outer gradient for so many fast weights, its directions, what it ought to give and how exactly."""

    make: Callable[[int], OuterGradient]
    hop: str = "exact"
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


def inner_loop_of(inner: str, fast: str) -> InnerLoop:
    """Always the same weights, and learnt rates that all differ."""
    torch.manual_seed(0)
    loop = InnerLoop(Tiny(), nn.MSELoss(), INNER[inner][0](), [fast], STEPS)
    with torch.no_grad():
        for rate in loop.learnt.parameters():
            rate.mul_(torch.rand_like(rate) + 0.5)
    return loop


@functools.cache
def tasks() -> Tasks:
    torch.manual_seed(1)
    return random_tasks(targets=lambda x: 2 * torch.sin(2 * x) + 1)


@functools.cache
def oracle(inner: str, fast: str, hop: str) -> Params:
    loop = inner_loop_of(inner, fast)
    return unrolled(loop, tasks(), STEPS, FAST[fast], INNER[inner][1], HOPS[hop]).gradients


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
        monkeypatch.setattr(estimators, "normal_directions", Directions(points(fast_count)))
    loop = inner_loop_of(inner, fast)
    found = MetaGradientOf(loop, make(fast_count), STEPS, tasks_per_chunk=chunk)(tasks())
    assert bool(found.finite.all())
    true = oracle(inner, fast, hop)
    assert found.gradients.keys() == true.keys()
    for part in ("model.", "learnt."):  # the learnt rates' by themselves
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
