"""A small problem with what is true of it: gradients by plain autograd, task by task."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

Loss = Callable[[Tensor, Tensor], Tensor]


class Sets(NamedTuple):
    """Support and query of some tasks, (tasks, examples, ...)."""

    x: Tensor
    y: Tensor
    query_x: Tensor
    query_y: Tensor


def classes(tasks: int = 4, shots: int = 3, queries: int = 5, ways: int = 3, inputs: int = 6) -> Sets:
    """Noise in classes that have means of their own."""

    def batch(each: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(ways).repeat(each).expand(tasks, -1)
        return torch.randn(tasks, ways * each, inputs) + means[torch.arange(tasks)[:, None], labels], labels

    means = torch.randn(tasks, ways, inputs)
    return Sets(*batch(shots), *batch(queries))


def line(examples: int = 8) -> tuple[nn.Linear, Tensor, Tensor]:
    """A linear model with data for it."""
    return nn.Linear(2, 1), torch.randn(examples, 2), torch.randn(examples, 1)


def adapted(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, lr: float, steps: int) -> dict[str, Tensor]:
    """The weights after steps of gradient descent, as functions of the model's own."""
    weights: dict[str, Tensor] = dict(model.named_parameters())
    for _ in range(steps):
        gradients = torch.autograd.grad(
            loss(functional_call(model, weights, (x,)), y), [*weights.values()], create_graph=True
        )
        weights = {name: w - lr * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    return weights


def gradient(model: nn.Module, loss: Loss, sets: Sets, lr: float, steps: int) -> list[Tensor]:
    """That of the mean outer loss by the model's weights, exactly."""
    total = torch.zeros(())
    for x, y, query_x, query_y in zip(*sets, strict=True):
        weights = adapted(model, loss, x, y, lr, steps)
        total = total + loss(functional_call(model, weights, (query_x,)), query_y) / len(sets.x)
    return [*torch.autograd.grad(total, [*model.parameters()])]


def off(found: list[Tensor], true: list[Tensor]) -> float:
    """|found - true| / |true|, of all weights together."""
    a, b = (torch.cat([part.detach().flatten() for part in parts]) for parts in (found, true))
    return float((a - b).norm() / b.norm())


def largest(values: Tensor | None) -> float:
    """The largest absolute value, of what a buffer may be."""
    return 0.0 if values is None else float(values.detach().abs().max())
