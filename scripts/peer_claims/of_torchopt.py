"""TorchOpt 0.7.3."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from litmaml.inner import Adam
from litmaml.inner.loop import InnerLoop
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from peer_claims.claim import Figures, Peer
from peer_claims.problem import largest, line

TORCHOPT = Peer("torchopt", "0.7.3", "torchopt", "pip install torchopt==0.7.3")


@TORCHOPT.claim(
    lambda f: (
        f["naive"] < 0.2 and f["antithetic"] < 0.2 and f["forward, one sample"] > 0.9 and f["forward, 20 samples"] > 0.9
    )
)
def torchopt_zero_order() -> Figures:
    """``zero_order(method="forward")`` multiplies by sigma where it has to divide: here 100 times too small.

    Relative errors of the mean estimate, with sigma = 0.1, of the gradient of a linear function, whose mean is exact
    for any sigma.
    """
    from torchopt.diff.zero_order import zero_order

    slope, found = torch.tensor([1.0, -2.0, 3.0]), {}
    for name, method, samples in (
        ("naive", "naive", 20),
        ("antithetic", "antithetic", 20),
        ("forward, one sample", "forward", 1),
        ("forward, 20 samples", "forward", 20),
    ):
        options: Any = (torch.distributions.Normal(0.0, 1.0), method, 0, samples, 0.1)
        value: Callable[[Tensor], Tensor] = zero_order(*options)(lambda w: w @ slope)
        total = torch.zeros(3)
        for _ in range(1000 // samples):
            w = torch.full((3,), 0.05, requires_grad=True)
            total += torch.autograd.grad(value(w), w)[0] / (1000 // samples)
        found[name] = float((total - slope).norm() / slope.norm())
    return found


@TORCHOPT.claim(
    lambda f: abs(f["first task"] - f["torch"]) < 1e-10 and abs(f["second task, the same"] - f["torch"]) > 1e-3
)
def torchopt_dampening() -> Figures:
    """With dampening the first task is adapted otherwise than all later ones.

    The loss after three steps of ``MetaSGD(momentum=0.9, dampening=0.5)`` on one task, twice, with the states put back
    between: that there was a first step is remembered outside of them.
    """
    import torchopt

    model, x, y = line()
    how: Any = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    inner = torchopt.MetaSGD(model, **how)
    weights, state = torchopt.extract_state_dict(model), torchopt.extract_state_dict(inner)
    found = {}
    for task in ("first task", "second task, the same"):
        for _ in range(3):
            inner.step(mse_loss(model(x), y))
        found[task] = float(mse_loss(model(x), y))
        torchopt.recover_state_dict(model, weights)
        torchopt.recover_state_dict(inner, state)
    own = nn.Linear(2, 1)
    own.load_state_dict({name: weight.detach() for name, weight in model.state_dict().items()})
    optimizer = torch.optim.SGD(own.parameters(), **how)
    for _ in range(3):
        optimizer.zero_grad()
        mse_loss(own(x), y).backward()
        optimizer.step()
    return {**found, "torch": float(mse_loss(own(x), y))}


@TORCHOPT.claim(lambda f: f["running mean moved, by default"] > 0.01 and f["with detach_buffers"] == 0)
def torchopt_running_statistics() -> Figures:
    """By default ``recover_state_dict`` does not put running statistics of batch norm back: tasks share them.

    What the README's example does, two tasks; ``detach_buffers=True``, which it does not have, is right.
    """
    import torchopt

    found = {}
    for name, detach in (("running mean moved, by default", False), ("with detach_buffers", True)):
        norm = nn.BatchNorm1d(2)
        model = nn.Sequential(norm, nn.Linear(2, 1))
        inner = torchopt.MetaSGD(model, lr=0.1)
        for _ in range(2):
            weights = torchopt.extract_state_dict(model, detach_buffers=detach)
            state = torchopt.extract_state_dict(inner)
            inner.step(model(torch.randn(8, 2) + 1).square().mean())
            torchopt.recover_state_dict(model, weights)
            torchopt.recover_state_dict(inner, state)
        found[name] = largest(norm.running_mean)
    return found


@TORCHOPT.claim(lambda f: f["entries that are NaN, TorchOpt"] > 0 and f["litmaml"] == 0)
def torchopt_adam_dead_units() -> Figures:
    """A weight whose gradient is exactly zero, as of a ReLU that is off, makes MetaAdam's outer gradient NaN.

    With the default ``eps_root=0``: the square root has no derivative at zero. Of 13 entries; two inner steps.
    """
    import torchopt

    first = nn.Linear(2, 3)
    with torch.no_grad():
        first.bias[0] = -100.0
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(3, 1))
    _, x, y = line()
    loop = InnerLoop(copy.deepcopy(model), nn.MSELoss(), Adam(lr=0.01), ["*"], 2)
    batch = Batch(x[None], y[None])
    ours = MetaGradientOf(loop, SecondOrder(), 2)(Tasks((batch,), batch, torch.arange(1))).gradients
    start = [*model.parameters()]
    inner = torchopt.MetaAdam(model, lr=0.01)
    for _ in range(2):
        inner.step(mse_loss(model(x), y))
    found = torch.autograd.grad(mse_loss(model(x), y), start)
    return {
        "entries that are NaN, TorchOpt": float(sum(part.isnan().sum() for part in found)),
        "litmaml": float(sum(part.isnan().sum() for part in ours.values())),
    }
