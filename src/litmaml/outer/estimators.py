"""Outer gradients by differences: of gradients along the vector, of gradients and of losses along random directions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, final

import torch
from torch import Tensor

from litmaml.outer.gradient import PathGradient, Point
from litmaml.randomness import Streams, normal_directions
from litmaml.weights import (
    Params,
    Weights,
    added,
    gradient_of,
    inner_product,
    leaves,
    moved,
    norm,
    precision,
    scaled,
    split,
    zeros,
)


@final
class FiniteDifference(PathGradient):
    """HF-MAML, Hessian-free (Fallah et al. 2020, arXiv 1908.10400), for any number of inner steps:

        Hop(theta, D, v) = |v| [grad l(theta + r v/|v|; D) - grad l(theta - r v/|v|; D)] / (2 r),   Hop(theta, D, 0) = 0

    with |.| the Euclidean norm over all fast weights of a task and both gradients on the same batch D. Two more
    gradients a step, no variance. The error is of order r^2 where the Hessian is Lipschitz; across the kinks of ReLU
    and max-pooling it does not vanish with r. Not usable with half-precision weights or with random layers.

    Args:
        radius: The probe length r, in units of the weights. By default 0.2 eps^(1/3) (1 + |theta|), eps the
            precision of the weights: it balances truncation and rounding. (1/(6 rho alpha), as printed in the
            paper, leaves a floor.)

    Raises:
        ValueError: The radius is not positive.

    Example:
        Of l(theta) = 3 theta^2 the Hessian is 6, at any probe length:

        >>> import torch
        >>> theta, v = {"w": torch.ones(1, 1).double()}, {"w": torch.full((1, 1), 2.0).double()}
        >>> at = Point(lambda fast, slow, batch: 3 * fast["w"].square().sum(1), theta, {}, None)
        >>> round(FiniteDifference(radius=0.5).hop(at, v).fast["w"].item(), 6)
        12.0
    """

    probes = True

    def __init__(self, radius: float | None = None) -> None:
        self.radius = _positive("radius", radius)

    def takes_features(self, trained: bool, batches: int) -> bool:
        return True

    def hop(self, at: Point, vector: Params) -> Weights:
        length = norm(vector)
        radius = probe_length(at.fast, at.slow) if self.radius is None else torch.full_like(length, self.radius)
        unit = scaled(vector, torch.where(length > 0, 1 / length, 0.0))
        weights = length / (2 * radius)
        ahead = _weighted(at, moved(at.fast, unit, radius), weights)
        behind = _weighted(at, moved(at.fast, unit, -radius), weights)
        return split([a - b for a, b in zip(ahead, behind, strict=True)], at.fast, at.slow)


@final
class GaussianSmoothing(PathGradient):
    """GGS-MAML (Ji et al. 2020, arXiv 2002.07836v1): gradients at Gaussian neighbours u_q ~ N(0, I), q = 1..Q,

        Hop(theta, D, v) = 1/Q sum_q [grad l(theta + mu u_q; D) - grad l(theta; D)] / mu  <u_q, v>

    Bias at most rho mu sqrt(d); variance (|v|^2 |H|_F^2 + |H v|^2)/Q, that is (d + 1)/Q of |H v|^2 for d fast weights
    and isotropic v: right for small models, noise for a convolutional network. Q more gradients a step. Where gradients
    are to be had FiniteDifference dominates it.

    Args:
        samples: Q, the number of directions.
        smoothing: mu, in units of the weights. By default 0.3 sqrt(eps), eps the precision of the weights.

    Raises:
        ValueError: samples or smoothing is not positive.

    Example:
        Along the directions 1 and -1 the Hessian 6 of l(theta) = 3 theta^2 is found exactly:

        >>> import torch
        >>> theta, both = {"w": torch.ones(1, 1).double()}, {"w": torch.tensor([[[1.0], [-1.0]]]).double()}
        >>> at = Point(lambda fast, slow, batch: 3 * fast["w"].square().sum(1), theta, {}, None, directions=both)
        >>> round(GaussianSmoothing(samples=2).hop(at, {"w": torch.ones(1, 1).double()}).fast["w"].item(), 5)
        6.0
    """

    probes = True
    sampled = True

    def __init__(self, samples: int = 10, smoothing: float | None = None) -> None:
        self.samples = _at_least_one("samples", samples)
        self.smoothing = _positive("smoothing", smoothing)

    def takes_features(self, trained: bool, batches: int) -> bool:
        return True

    def directions(self, weights: Weights, streams: Streams, steps: int) -> tuple[Params, ...]:
        return normal_directions(weights.fast, self.samples, streams, steps)

    def hop(self, at: Point, vector: Params) -> Weights:
        mu = 0.3 * precision(at.fast, at.slow) ** 0.5 if self.smoothing is None else self.smoothing
        total = [torch.zeros_like(weight) for weight in (*at.fast.values(), *at.slow.values())]
        weight_sum = torch.zeros_like(norm(vector))
        for direction in _each(at.directions):
            weights = inner_product(direction, vector) / (mu * self.samples)
            probe = _weighted(at, moved(at.fast, direction, torch.full_like(weights, mu)), weights)
            if at.gradient is not None and not at.slow:
                probe = [p - g for p, g in zip(probe, scaled(at.gradient, weights).values(), strict=True)]
            weight_sum = weight_sum + weights
            total = [t + p for t, p in zip(total, probe, strict=True)]
        if at.gradient is None or at.slow:  # the centre's gradient, for all directions at once
            centre = _weighted(at, at.fast, weight_sum)
            total = [t - c for t, c in zip(total, centre, strict=True)]
        return split(total, at.fast, at.slow)


@final
class ZerothOrder(PathGradient):
    """ZO-MAML: the Hessian from loss values alone (Ji et al. 2020, arXiv 2002.07836v1; Song et al. 2020, ES-MAML,
    arXiv 1910.01215), with u_q ~ N(0, I), q = 1..Q, and

        c_q = [l(theta + mu u_q; D) + l(theta - mu u_q; D) - 2 l(theta; D)] / (2 mu^2)
        Hop(theta, D, v) = 1/Q sum_q c_q u_q <u_q, v>                  ji     (bias tr(H) v / 2)
                           1/Q sum_q c_q (u_q <u_q, v> - v)            stein  (no bias but smoothing's)
                           1/Q sum_q (c_q - mean c) u_q <u_q, v>       mean   (bias of order 1/Q)

    Relative variance of order d^2/Q for d weights: for small models, and for losses without a second
    derivative. 2Q + 1 losses a step.

    Args:
        samples: Q, the number of directions.
        smoothing: mu, in units of the weights. By default eps^(1/4) / 2, eps the precision of the weights.
        baseline: What is taken off the estimate: ji (nothing, as in that paper), stein or mean.

    Raises:
        ValueError: samples or smoothing is not positive, or the baseline is unknown.

    Example:
        Along one direction u the Hessian H of l(theta) = H theta^2 / 2 is found as H u^4 / 2, whose mean is 3 H / 2:

        >>> import torch
        >>> theta, u = {"w": torch.ones(1, 1).double()}, {"w": torch.full((1, 1, 1), 2.0).double()}
        >>> at = Point(lambda fast, slow, batch: 3 * fast["w"].square().sum(1), theta, {}, None, directions=u)
        >>> estimate = ZerothOrder(samples=1, baseline="ji").hop(at, {"w": torch.ones(1, 1).double()})
        >>> round(estimate.fast["w"].item(), 5)
        48.0
    """

    probes = True
    sampled = True

    def __init__(
        self,
        samples: int = 10,
        smoothing: float | None = None,
        baseline: Literal["ji", "stein", "mean"] = "mean",
    ) -> None:
        self.samples = _at_least_one("samples", samples)
        self.smoothing = _positive("smoothing", smoothing)
        if baseline not in ("ji", "stein", "mean"):
            raise ValueError(f"baseline: got {baseline!r}; one of ji, stein, mean")
        self.baseline = baseline

    def takes_features(self, trained: bool, batches: int) -> bool:
        return not trained  # it moves the trained weights themselves

    def directions(self, weights: Weights, streams: Streams, steps: int) -> tuple[Params, ...]:
        # Every task moves in its own direction also along the weights that tasks share.
        return normal_directions({**weights.fast, **weights.slow}, self.samples, streams, steps)

    def hop(self, at: Point, vector: Params) -> Weights:
        mu = 0.5 * precision(at.fast, at.slow) ** 0.25 if self.smoothing is None else self.smoothing
        tasks = len(norm(vector))
        weights = {**at.fast, **{name: weight.expand(tasks, *weight.shape) for name, weight in at.slow.items()}}
        with torch.no_grad():
            here = at.losses(weights, {}, at.batch)
            total, plain, curvatures = zeros(weights), zeros(weights), torch.zeros_like(here)
            for direction in _each(at.directions):
                step = torch.full_like(here, mu)
                there = at.losses(moved(weights, direction, step), {}, at.batch)
                there = there + at.losses(moved(weights, direction, -step), {}, at.batch)
                curvature = (there - 2 * here) / (2 * mu**2 * self.samples)
                along = inner_product({name: direction[name] for name in at.fast}, vector)
                total = added(total, scaled(direction, curvature * along))
                if self.baseline == "mean":
                    plain = added(plain, scaled(direction, along))
                curvatures = curvatures + curvature
            if self.baseline == "mean":  # curvatures is the mean of the c_q, each c_q having been divided by Q
                total = added(total, scaled(plain, -curvatures / self.samples))
            rows = {name: total[name] for name in at.fast}
            if self.baseline == "stein":
                rows = added(rows, scaled(vector, -curvatures))
        return Weights(rows, {name: total[name].sum(0) for name in at.slow})


def probe_length(theta: Params, slow: Params | None = None) -> Tensor:
    """r = 0.2 eps^(1/3) (1 + |theta|) of each task (T,), for stacked weights theta.

    eps is the precision of the coarsest of all weights, also of the slow ones.
    """
    length: Tensor = 0.2 * precision(theta, slow or {}) ** (1 / 3) * (1 + norm(theta))
    return length


def _weighted(at: Point, fast: Params, weights: Tensor) -> list[Tensor]:
    """The gradient of sum_t weights_t l_t at other fast weights by all weights: fast rows come out task by task."""
    at_leaves, slow = leaves(fast), leaves(at.slow)
    loss = at.losses(at_leaves, slow, at.batch)
    return list(gradient_of((weights.detach() * loss).sum(), {**at_leaves, **slow}).values())


def _each(directions: Params | None) -> Iterator[Params]:
    """The Q directions, each by name (T, ...)."""
    assert directions is not None  # what solves a sampled outer gradient draws them
    count = next(iter(directions.values())).shape[1]
    return ({name: all_of[:, q] for name, all_of in directions.items()} for q in range(count))


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"{name}: has to be a positive number or left out for the default, got {value}")
    return value


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}: has to be at least 1, got {value}")
    return value
