"""What the outer gradients put in the place of a Hessian product H v, as formulas of one task's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from litmaml.weights import Params

Loss = Callable[[Params], Tensor]
Hop = Callable[[Loss, Params, Params], Params]
"""(loss, all weights, v by the names of the fast ones) -> the rows that stand for H v, of all weights or a part."""


def value(loss: Loss, theta: Params) -> Tensor:
    """The loss as it is where a gradient is to be had."""
    return loss({name: weight.detach().requires_grad_() for name, weight in theta.items()}).detach()


def slope(loss: Loss, theta: Params) -> Params:
    """The gradient by all weights."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
    with torch.enable_grad():
        parts = torch.autograd.grad(loss(leaves), [*leaves.values()], materialize_grads=True)
    return dict(zip(theta, parts, strict=True))


# What stands for H v.


def nothing(loss: Loss, theta: Params, v: Params) -> Params:
    """First order."""
    return {}


def product(loss: Loss, theta: Params, v: Params) -> Params:
    """H v itself."""
    leaves = {name: weight.detach().requires_grad_() for name, weight in theta.items()}
    gradient = torch.autograd.grad(
        loss(leaves), [leaves[name] for name in v], create_graph=True, materialize_grads=True
    )
    along = inner(dict(zip(v, gradient, strict=True)), v)
    parts = torch.autograd.grad(along, [*leaves.values()], materialize_grads=True)
    return dict(zip(theta, parts, strict=True))


def with_half_trace(trace: Callable[[Params, Loss], Tensor]) -> Hop:
    """(H + tr(H)/2) v, what the estimate of Ji et al. is in the mean."""

    def hop(loss: Loss, theta: Params, v: Params) -> Params:
        half = trace(theta, loss) / 2
        return {name: row + half * v[name] if name in v else row for name, row in product(loss, theta, v).items()}

    return hop


def central_difference(loss: Loss, theta: Params, v: Params) -> Params:
    """|v| [grad l(theta + r v/|v|) - grad l(theta - r v/|v|)] / (2 r) with r = 0.2 eps^(1/3) (1 + |theta|)."""
    length = norm(v)
    if length == 0:
        return {}
    r = 0.2 * torch.finfo(torch.float64).eps ** (1 / 3) * (1 + norm({name: theta[name] for name in v}))
    unit = {name: part / length for name, part in v.items()}
    ahead, behind = (slope(loss, moved(theta, unit, step)) for step in (r, -r))
    return {name: length * (ahead[name] - behind[name]) / (2 * r) for name in theta}


def gaussian_smoothing(points: Tensor, mu: float) -> Hop:
    """1/Q sum_q [grad l(theta + mu u_q) - grad l(theta)] / mu <u_q, v> over the points u_q (Q, d) given."""

    def hop(loss: Loss, theta: Params, v: Params) -> Params:
        here, rows = slope(loss, theta), {name: torch.zeros_like(weight) for name, weight in theta.items()}
        for u in (shaped(point, {name: theta[name] for name in v}) for point in points):
            there = slope(loss, moved(theta, u, mu))
            for name, row in rows.items():
                row += (there[name] - here[name]) / mu * inner(u, v) / len(points)
        return rows

    return hop


def zeroth_order(points: Tensor, mu: float, baseline: str) -> Hop:
    """As ``ZerothOrder`` has it, over the points u_q (Q, d) of fast and slow weights given."""

    def hop(loss: Loss, theta: Params, v: Params) -> Params:
        ordered = {name: theta[name] for name in (*v, *(set_apart for set_apart in theta if set_apart not in v))}
        directions = [shaped(point, ordered) for point in points]
        here = value(loss, theta)
        second = [
            (value(loss, moved(theta, u, mu)) + value(loss, moved(theta, u, -mu)) - 2 * here) / (2 * mu**2)
            for u in directions
        ]
        base = sum(second) / len(second) if baseline == "mean" else 0.0
        rows = {name: torch.zeros_like(weight) for name, weight in theta.items()}
        for u, c in zip(directions, second, strict=True):
            for name, row in rows.items():
                row += (c - base) * u[name] * inner({key: u[key] for key in v}, v) / len(points)
                if baseline == "stein" and name in v:
                    row -= c * v[name] / len(points)
        return rows

    return hop


def moved(theta: Params, direction: Params, length: Any) -> Params:
    """theta + length * direction, where there is one."""
    return {name: weight + length * direction[name] if name in direction else weight for name, weight in theta.items()}


def inner(first: Params, second: Params) -> Tensor:
    """<first, second>."""
    return torch.stack([(part * second[name]).sum() for name, part in first.items()]).sum()


def norm(weights: Params) -> Tensor:
    """The Euclidean norm of all together."""
    return inner(weights, weights).sqrt()


def shaped(point: Tensor, like: Params) -> Params:
    """One vector as weights of these shapes, in their order."""
    parts = torch.split(point, [weight.numel() for weight in like.values()])
    return {name: part.reshape(weight.shape) for (name, weight), part in zip(like.items(), parts, strict=True)}
