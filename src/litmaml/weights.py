"""The algebra of weights: dicts of tensors by parameter name, most of them stacked for T tasks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

Params = dict[str, Tensor]
"""Tensors by parameter name. Fast weights carry one more leading dimension, the task."""


class Weights(NamedTuple):
    """The weights that tasks adapt, and those that they share."""

    fast: Params
    slow: Params


def named_weights(model: nn.Module) -> Params:
    """Parameters and buffers by name: a buffer may be a fast weight too."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def split(values: Sequence[Tensor], fast: Params, slow: Params) -> Weights:
    """Tensors in the order of fast and then slow weights, by their names."""
    count = len(fast)
    return Weights(dict(zip(fast, values[:count], strict=True)), dict(zip(slow, values[count:], strict=True)))


def leaves(weights: Params) -> Params:
    """The same values, to be differentiated by."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def constants(weights: Params) -> Params:
    """The same values, off the graph."""
    return {name: weight.detach() for name, weight in weights.items()}


def zeros(weights: Params) -> Params:
    """Zeros of the same shapes."""
    return {name: torch.zeros_like(weight) for name, weight in weights.items()}


def differentiate(
    of: Sequence[Tensor], by: Sequence[Tensor], vectors: Sequence[Tensor] | None = None, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """The gradient, zeros where there is none, each operation in the precision that its forward pass had.

    Under autocast the backward pass would be cast anew, and rounded, or refused by kernels of GPUs.
    """
    device = by[0].device.type
    plain = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
    with plain:
        return torch.autograd.grad(of, by, vectors, create_graph=create_graph, materialize_grads=True)


def gradient_of(loss: Tensor, weights: Params, create_graph: bool = False) -> Params:
    """The gradient of a scalar by each weight; zeros where it does not depend on one."""
    return dict(zip(weights, differentiate([loss], list(weights.values()), create_graph=create_graph), strict=True))


def per_task(scale: Tensor, like: Tensor) -> Tensor:
    """One number per task (T,), to be multiplied with a stacked tensor (T, ...)."""
    return scale.reshape(-1, *[1] * (like.dim() - 1)).to(like.dtype)


def scaled(weights: Params, scale: Tensor) -> Params:
    """Each task's weights times its own number (T,)."""
    return {name: per_task(scale, weight) * weight for name, weight in weights.items()}


def added(first: Params, second: Params) -> Params:
    """The sum, by name."""
    return {name: weight + second[name] for name, weight in first.items()}


def moved(theta: Params, direction: Params, length: Tensor) -> Params:
    """theta + length * direction off the graph, with one length per task (T,)."""
    return {name: weight.detach() + per_task(length, weight) * direction[name] for name, weight in theta.items()}


def inner_product(first: Params, second: Params) -> Tensor:
    """<first, second> of each task (T,), over all weights."""
    products = torch.stack([(a * second[name]).reshape(len(a), -1).sum(1) for name, a in first.items()])
    total: Tensor = products.sum(0)
    return total


def norm(weights: Params) -> Tensor:
    """The Euclidean norm over all weights of each task (T,)."""
    return inner_product(weights, weights).sqrt()


def precision(*weights: Params) -> float:
    """eps, the distance from 1 to the next number, of the coarsest type among all these weights."""
    return max(float(torch.finfo(weight.dtype).eps) for some in weights for weight in some.values())
