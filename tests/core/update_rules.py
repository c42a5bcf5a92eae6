"""Update rules of torch.optim, a tensor at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from unrolling import Rule, State


def sgd(momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        g = g + weight_decay * theta
        state["m"] = momentum * state["m"] + g if "m" in state else g
        return theta - lr * (g + momentum * state["m"] if nesterov else state["m"])

    return rule


def _root(v: Tensor) -> Tensor:
    """The square root, whose derivative at zero is taken to be zero."""
    return torch.where(v > 0, torch.where(v > 0, v, 1.0).sqrt(), 0.0)


def adam(eps: float, beta1: float = 0.9, beta2: float = 0.999) -> Rule:
    """As higher has it: eps is added before the second moment's bias is corrected."""

    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        t = state["t"] = state.get("t", 0) + 1
        m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
        v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
        return theta - lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t) * m / (_root(v) + eps)

    return rule


def adam_of_torch(
    eps: float, beta1: float = 0.9, beta2: float = 0.999, weight_decay: float = 0.0, decoupled: bool = False
) -> Rule:
    """As torch has Adam, and AdamW if the decay is decoupled: both moments without bias before eps is added."""

    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        t = state["t"] = state.get("t", 0) + 1
        if decoupled:
            theta = theta - lr * weight_decay * theta
        else:
            g = g + weight_decay * theta
        m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
        v = state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
        return theta - lr * (m / (1 - beta1**t)) / (_root(v / (1 - beta2**t)) + eps)

    return rule


def rmsprop(eps: float, alpha: float = 0.99, momentum: float = 0.0) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        v = state["v"] = alpha * state.get("v", 0.0) + (1 - alpha) * g**2
        b = state["b"] = momentum * state.get("b", 0.0) + g / (_root(v) + eps)
        return theta - lr * b

    return rule


def adagrad(eps: float, start: float) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        v = state["v"] = state.get("v", start) + g**2
        return theta - lr * g / (_root(v) + eps)

    return rule


def adadelta(eps: float, rho: float = 0.9) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        v = state["v"] = rho * state.get("v", 0.0) + (1 - rho) * g**2
        step = ((state.get("d", torch.zeros(())) + eps) / (v + eps)).sqrt() * g
        state["d"] = rho * state.get("d", 0.0) + (1 - rho) * step**2
        return theta - lr * step

    return rule


def adamax(eps: float, beta1: float = 0.9, beta2: float = 0.999) -> Rule:
    def rule(state: State, theta: Tensor, g: Tensor, lr: Any) -> Tensor:
        t = state["t"] = state.get("t", 0) + 1
        m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
        u = state["u"] = torch.maximum(beta2 * state.get("u", torch.zeros(())), g.abs() + eps)
        return theta - lr / (1 - beta1**t) * m / u

    return rule
