"""Every method, once: outer gradients, inner optimizers and outer losses, with what tests hold them to.

A new method is one row here, and every test that runs over methods sees it. What a single file needs of each method
beside that, it looks up by name or class, so that a row it does not know fails there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from hops import Hop, central_difference, gaussian_smoothing, nothing, with_half_trace, zeroth_order
from oracles import Directions, dense_hessian, fourth_moments, second_moments
from solvers import Solved, Transformed, along_the_path, evolution, first_order, implicit, reptile, unchanged
from torch import Tensor, nn
from unrolling import Rule
from update_rules import adadelta, adagrad, adam, adam_of_torch, adamax, rmsprop, sgd

from litmaml.inner import SGD, Adam, AdamW, HigherOptimizer, InnerOptimizer, MetaCurvature, Proximal
from litmaml.outer import (
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    Implicit,
    MeanLoss,
    MultiStepLoss,
    OuterGradient,
    OuterLoss,
    PathGradient,
    Reptile,
    SecondOrder,
    WorstCaseLoss,
    ZerothOrder,
    estimators,
)

Smoothing = Mapping[type[OuterGradient], float]


@dataclass(frozen=True)
class Outer:
    """An outer gradient.

    kind, arguments: What it is made of.
    hop: What it has for H v, in the mean where it samples; None is H v itself.
    computed: The formula that it computes for that over points u_q (Q, d) and with a smoothing, if it is another.
    tolerance: How far it may be from hop, in parts of the gradient; a sampled one's expectation.
    rounding, single: How far two ways to compute it may be apart, and single from double precision.
    repeats: It takes an inner step more than once, so that nothing may draw in one.
    points, smoothing: For d fast weights, those over which a sampled one is its expectation but for smoothing's error.
    everywhere: Its directions run along the slow weights too.
    """

    kind: type[OuterGradient]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    hop: Hop | None = None
    computed: Callable[[Tensor, float], Hop] | None = None
    tolerance: float = 1e-10
    rounding: float = 1e-12
    single: float = 1e-5
    repeats: bool = False
    points: Callable[[int], Tensor] | None = None
    smoothing: float | None = None
    everywhere: bool = False

    def make(self, samples: int | None = None, smoothing: Smoothing | None = None) -> OuterGradient:
        """It; if it samples, by so many directions and with the smoothing of its class."""
        given = dict(self.arguments)
        if samples and self.kind.sampled:
            given["samples"] = samples
        if smoothing and self.kind.sampled:
            given["smoothing"] = smoothing[self.kind]
        return self.kind(**given)

    def expected(self, count: int, patch: pytest.MonkeyPatch, smoothing: float | None = None) -> OuterGradient:
        """It; if it samples, over the directions that make it its expectation for so many fast weights."""
        if self.points is None:
            return self.make()
        points, length = self.points(count), smoothing or self.smoothing
        assert length is not None
        patch.setattr(estimators, "normal_directions", Directions(points))
        return self.make(len(points), {self.kind: length})


def _zeroth(baseline: str, hop: Hop | None = None) -> Outer:
    return Outer(
        ZerothOrder,
        {"baseline": baseline},
        hop,
        computed=lambda points, mu: zeroth_order(points, mu, baseline),
        tolerance=1e-4,
        rounding=1e-5,
        single=1e-2,
        repeats=True,
        points=lambda d: fourth_moments(),
        smoothing=1e-3,
        everywhere=True,
    )


OUTER: dict[str, Outer] = {
    "SecondOrder": Outer(SecondOrder),
    "SecondOrder recompute": Outer(SecondOrder, {"recompute": True}, repeats=True),
    "FirstOrder": Outer(FirstOrder, hop=nothing),
    "FiniteDifference": Outer(
        FiniteDifference,
        computed=lambda points, mu: central_difference,
        tolerance=1e-7,
        rounding=1e-7,
        single=1e-4,
        repeats=True,
    ),
    "GaussianSmoothing": Outer(
        GaussianSmoothing,
        computed=gaussian_smoothing,
        tolerance=1e-6,
        rounding=1e-5,
        single=1e-3,
        repeats=True,
        points=second_moments,
        smoothing=1e-4,
    ),
    "ZerothOrder ji": _zeroth("ji", with_half_trace(lambda theta, loss: dense_hessian(theta, loss).trace())),
    "ZerothOrder stein": _zeroth("stein"),
    "ZerothOrder mean": _zeroth("mean"),
}

PROBING = {name: row for name, row in OUTER.items() if row.kind.probes}
UNPROBED = {name: row for name, row in OUTER.items() if not row.kind.probes}
SAMPLED = {name: row for name, row in OUTER.items() if row.kind.sampled}
UNSAMPLED = {name: row for name, row in OUTER.items() if not row.kind.sampled}
EXACT = {name: row for name, row in UNSAMPLED.items() if row.hop is None}
REPEATING = {name: row for name, row in OUTER.items() if row.repeats}
ONCE = {name: row for name, row in OUTER.items() if not row.repeats}
TWICE = {name: row for name, row in OUTER.items() if issubclass(row.kind, PathGradient) and row.make().twice}


def made(rows: Mapping[str, Outer], samples: int | None = None, smoothing: Smoothing | None = None) -> list[Any]:
    """The outer gradients of these rows, for ``pytest.mark.parametrize``."""
    return [pytest.param(row.make(samples, smoothing), id=name) for name, row in rows.items()]


class Inner(NamedTuple):
    """An inner optimizer, and the rule that the oracle moves a tensor by."""

    make: Callable[[], InnerOptimizer]
    rule: Rule


# The eps are large, or the first steps would hardly depend on the gradient's length.
INNER: dict[str, Inner] = {
    "SGD": Inner(lambda: SGD(0.1), sgd()),
    "momentum": Inner(lambda: SGD(0.1, momentum=0.9), sgd(0.9)),
    "Nesterov": Inner(lambda: SGD(0.1, momentum=0.9, nesterov=True), sgd(0.9, True)),
    "weight decay": Inner(lambda: SGD(0.1, weight_decay=0.5), sgd(weight_decay=0.5)),
    "one rate": Inner(lambda: SGD(0.1, learn="one"), sgd()),
    "one rate a tensor": Inner(lambda: SGD(0.1, learn="tensor"), sgd()),
    "one rate a parameter": Inner(lambda: SGD(0.1, learn="parameter"), sgd()),
    "one rate a step": Inner(lambda: SGD(0.1, learn="one", per_step=True), sgd()),
    "one rate a tensor and step": Inner(lambda: SGD(0.1, learn="tensor", per_step=True), sgd()),
    "one rate a parameter and step": Inner(
        lambda: SGD(0.1, 0.5, True, 0.1, learn="parameter", per_step=True),
        sgd(0.5, True, 0.1),
    ),
    "Adam": Inner(lambda: Adam(0.1, eps=0.1), adam_of_torch(0.1)),
    "Adam, one rate a tensor and step": Inner(
        lambda: Adam(0.1, (0.5, 0.7), 0.1, 0.2, learn="tensor", per_step=True),
        adam_of_torch(0.1, 0.5, 0.7, 0.2),
    ),
    "AdamW": Inner(
        lambda: AdamW(0.1, (0.5, 0.7), 0.1, 0.5),
        adam_of_torch(0.1, 0.5, 0.7, 0.5, decoupled=True),
    ),
    "AdamW, one rate a parameter": Inner(
        lambda: AdamW(0.1, (0.5, 0.7), 0.1, 0.5, learn="parameter"),
        adam_of_torch(0.1, 0.5, 0.7, 0.5, decoupled=True),
    ),
    "higher SGD": Inner(
        lambda: HigherOptimizer("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9}),
        sgd(0.9),
    ),
    "higher Adam": Inner(lambda: HigherOptimizer("torch.optim.Adam", {"lr": 0.1, "eps": 0.1}), adam(0.1)),
    "higher RMSprop": Inner(
        lambda: HigherOptimizer("torch.optim.RMSprop", {"lr": 0.02, "eps": 0.1, "momentum": 0.5}),
        rmsprop(0.1, momentum=0.5),
    ),
    "higher Adagrad": Inner(
        lambda: HigherOptimizer("torch.optim.Adagrad", {"lr": 0.1, "eps": 0.1, "initial_accumulator_value": 0.2}),
        adagrad(0.1, 0.2),
    ),
    "higher Adadelta": Inner(
        lambda: HigherOptimizer("torch.optim.Adadelta", {"lr": 0.3, "eps": 0.1}, learn="one"),
        adadelta(0.1),
    ),
    "higher Adamax": Inner(
        lambda: HigherOptimizer("torch.optim.Adamax", {"lr": 0.1, "eps": 0.1}, learn="one", per_step=True),
        adamax(0.1),
    ),
}


class Solver(NamedTuple):
    """An outer gradient beside the oracle of a whole task; ``OUTER`` has the Hops of those along the path."""

    make: Callable[[], OuterGradient]
    true: Solved
    tolerance: float = 1e-10


SOLVERS: dict[str, Solver] = {
    "SecondOrder": Solver(SecondOrder, along_the_path),
    "SecondOrder recompute": Solver(lambda: SecondOrder(recompute=True), along_the_path),
    "FirstOrder": Solver(FirstOrder, first_order),
    "FiniteDifference": Solver(FiniteDifference, along_the_path, 1e-7),
    "Implicit": Solver(lambda: Implicit(8), implicit),
    "Implicit by differences": Solver(lambda: Implicit(8, FiniteDifference()), implicit, 1e-6),
    "Reptile": Solver(Reptile, reptile),
    "EvolutionStrategies": Solver(lambda: EvolutionStrategies(3, 0.1), evolution(0.1)),
}


class Wrapper(NamedTuple):
    """A way to wrap an inner optimizer, and the gradient that it hands on.

    learns: Whether the outer loop trains something of it. curvature: Whether it has matrices.
    """

    make: Callable[[InnerOptimizer], InnerOptimizer]
    transformed: Transformed
    learns: bool = False
    curvature: bool = False


STRENGTH = 2.0


def _held(theta: Any, g: Any, first: Any, learnt: Any) -> Any:
    return {name: g[name] + learnt.get("strength", STRENGTH) * (theta[name] - first[name]) for name in g}


def _curved(theta: Any, g: Any, first: Any, learnt: Any) -> Any:
    def one(name: str) -> Tensor:
        key, part = "curvature/" + name.replace(".", "/"), g[name]
        if part.dim() < 2:
            return learnt[key] * part
        window = part.reshape(*part.shape[:2], -1)
        found = torch.einsum("xa,abw,by->xyw", learnt[f"{key}/0"], window, learnt[f"{key}/1"])
        if part.dim() > 2:
            found = torch.einsum("zw,xyw->xyz", learnt[f"{key}/2"], found)
        return found.reshape(part.shape)

    return {name: one(name) for name in g}


WRAPPERS: dict[str, Wrapper] = {
    "none": Wrapper(lambda inner: inner, unchanged),
    "Proximal": Wrapper(lambda inner: Proximal(inner, STRENGTH), _held),
    "Proximal, learnt": Wrapper(lambda inner: Proximal(inner, STRENGTH, learn=True), _held, learns=True),
    "MetaCurvature": Wrapper(MetaCurvature, _curved, learns=True, curvature=True),
    "MetaCurvature around Proximal": Wrapper(
        lambda inner: MetaCurvature(Proximal(inner, STRENGTH, learn=True)),
        lambda theta, g, first, learnt: _held(theta, _curved(theta, g, first, learnt), first, learnt),
        learns=True,
        curvature=True,
    ),
    "Proximal around MetaCurvature": Wrapper(
        lambda inner: Proximal(MetaCurvature(inner), STRENGTH),
        lambda theta, g, first, learnt: _curved(theta, _held(theta, g, first, learnt), first, learnt),
        learns=True,
        curvature=True,
    ),
}

LOSSES: dict[str, Callable[[], OuterLoss]] = {
    "MeanLoss": MeanLoss,
    "MeanLoss of its own for the query": lambda: MeanLoss(nn.SmoothL1Loss()),
    "MultiStepLoss": lambda: MultiStepLoss(epochs=4),
    "WorstCaseLoss": lambda: WorstCaseLoss(tasks=2, rate=0.1),
}
