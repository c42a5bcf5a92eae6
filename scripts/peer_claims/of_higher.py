"""higher 0.2.1."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from peer_claims.claim import Figures, Peer
from peer_claims.problem import line

HIGHER = Peer("higher", "0.2.1", "higher", "pip install higher==0.2.1")
Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
STEPS = 3


def _unrolled(model: nn.Module, make: Make, x: Tensor, y: Tensor, **how: Any) -> Tensor:
    """The loss after a few steps by higher."""
    import higher

    with higher.innerloop_ctx(model, make(model.parameters()), **how) as (fast, optimizer):
        for _ in range(STEPS):
            optimizer.step(mse_loss(fast(x), y))
        return mse_loss(fast(x), y)


def _by_torch(model: nn.Module, make: Make, x: Tensor, y: Tensor) -> float:
    """The loss after as many steps by torch.optim itself."""
    model = copy.deepcopy(model)
    optimizer = make(model.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad()
        mse_loss(model(x), y).backward()
        optimizer.step()
    return float(mse_loss(model(x), y))


@HIGHER.claim(lambda f: abs(f["by beta2"] - f["by beta2, differences"]) > 10 * abs(f["by beta2, differences"]))
def higher_adam_beta2() -> Figures:
    """The derivative of Adam's steps by beta2 is wrong; that by beta1 is right."""
    model, x, y = line()

    def loss(*betas: Any) -> Tensor:
        make: Make = partial(torch.optim.Adam, lr=0.1)
        return _unrolled(model, make, x, y, override={"betas": [betas]})

    betas, h = [torch.tensor(0.9, requires_grad=True), torch.tensor(0.99, requires_grad=True)], 1e-5
    found = torch.autograd.grad(loss(*betas), betas)
    at = [beta.detach() for beta in betas]
    true = [
        (loss(at[0] + h, at[1]) - loss(at[0] - h, at[1])) / (2 * h),
        (loss(at[0], at[1] + h) - loss(at[0], at[1] - h)) / (2 * h),
    ]
    names = ("by beta1", "by beta2")
    return {
        **{name: float(part) for name, part in zip(names, found, strict=True)},
        **{f"{name}, differences": float(part) for name, part in zip(names, true, strict=True)},
    }


@HIGHER.claim(lambda f: f["SGD, higher"] < f["before"] < f["SGD, torch"] and f["Adam, higher"] < f["before"])
def higher_maximize() -> Figures:
    """``maximize=True`` is ignored: the loss is minimised."""
    model, x, y = line()
    found = {"before": float(mse_loss(model(x), y))}
    for name in ("SGD", "Adam"):
        make: Make = partial(getattr(torch.optim, name), lr=0.1, maximize=True)
        found[f"{name}, higher"] = float(_unrolled(model, make, x, y))
        found[f"{name}, torch"] = _by_torch(model, make, x, y)
    return found


@HIGHER.claim(
    lambda f: (
        abs(f["decoupled, higher"] - f["coupled, torch"]) < 1e-5 < abs(f["decoupled, torch"] - f["coupled, torch"])
    )
)
def higher_decoupled_decay() -> Figures:
    """Adam's ``decoupled_weight_decay=True`` is ignored: the decay goes into the gradient."""
    model, x, y = line()
    coupled: Make = partial(torch.optim.Adam, lr=0.1, weight_decay=0.5)
    decoupled: Make = partial(torch.optim.Adam, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True)
    return {
        "decoupled, higher": float(_unrolled(model, decoupled, x, y)),
        "decoupled, torch": _by_torch(model, decoupled, x, y),
        "coupled, torch": _by_torch(model, coupled, x, y),
    }


@HIGHER.claim(lambda f: abs(f["higher"] - f["torch"]) > 0.01)
def higher_adam_eps() -> Figures:
    """Adam adds eps before the bias correction, so that its first steps are others than torch's.

    The loss after three steps with eps = 0.1.
    """
    model, x, y = line()
    make: Make = partial(torch.optim.Adam, lr=0.1, eps=0.1)
    return {"higher": float(_unrolled(model, make, x, y)), "torch": _by_torch(model, make, x, y)}


@HIGHER.claim(lambda f: f["frozen weights move, untracked"] > 1e-4 and f["frozen weights move, tracked"] == 0)
def higher_frozen_weights() -> Figures:
    """With ``track_higher_grads=False``, as at test time, frozen weights are trained from the second step on."""
    import higher

    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    x, y = torch.randn(8, 2), torch.randn(8, 1)
    found = {}
    for name, track in (("tracked", True), ("untracked", False)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with higher.innerloop_ctx(model, optimizer, track_higher_grads=track) as (fast, steps):
            for _ in range(STEPS):
                steps.step(mse_loss(fast(x), y))
            moved = next(iter(fast.parameters())) - next(iter(model.parameters()))
        found[f"frozen weights move, {name}"] = float(moved.detach().abs().max())
    return found


@HIGHER.claim(
    lambda f: (
        f["calls of the hook, model"] == 1 and f["calls of the hook, higher"] == 0 and f["outputs differ by"] > 0.01
    )
)
def higher_hooks() -> Figures:
    """Forward hooks of the model are dropped, also those that change what a layer gives."""
    import higher

    model, x, _ = line()
    calls: list[int] = []

    def halve(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        calls.append(1)
        return output / 2

    model.register_forward_hook(halve)
    own, of_model = model(x), len(calls)
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=0.1)) as (fast, _):
        copied = fast(x)
    return {
        "calls of the hook, model": of_model,
        "calls of the hook, higher": len(calls) - of_model,
        "outputs differ by": float((own - copied).detach().abs().max()),
    }


@HIGHER.claim(lambda f: f["weights with a gradient, by default"] == 0 and f["with copy_initial_weights=False"] == 2)
def higher_copied_weights() -> Figures:
    """By default the model's weights get no gradient: what is unrolled begins at a copy of them."""
    model, x, y = line()
    found = {}
    for name, copied in (
        ("weights with a gradient, by default", {}),
        ("with copy_initial_weights=False", {"copy_initial_weights": False}),
    ):
        model.zero_grad()
        _unrolled(model, partial(torch.optim.SGD, lr=0.1), x, y, **copied).backward()
        found[name] = float(sum(weight.grad is not None for weight in model.parameters()))
    return found
