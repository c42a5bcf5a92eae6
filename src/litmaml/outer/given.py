"""Losses whose gradient is computed already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from litmaml.weights import Params, per_task


def with_gradient(losses: Tensor, gradients: Params, weights: Params) -> Tensor:
    """The losses as a node of the graph whose gradient by these weights is the one given, in the place of their own.

    So ``backward`` by Lightning accumulates, scales, clips and reduces over processes as for any other loss.

    Args:
        losses: Of T tasks (T,), with weights of each (T, ...); or one number, of weights without tasks.
        gradients: By name; weights of other names get none.
        weights: By name.

    Example:
        >>> w = torch.zeros(2, 1, requires_grad=True)
        >>> losses = with_gradient(torch.tensor([5.0, 7.0]), {"w": torch.tensor([[1.0], [2.0]])}, {"w": w})
        >>> losses.sum().backward()
        >>> losses.tolist(), w.grad.flatten().tolist()
        ([5.0, 7.0], [1.0, 2.0])
    """
    given = tuple(gradients.values())
    handed: Tensor = _Given.apply(losses, given, *(weights[name] for name in gradients))  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return handed


class _Given(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: tuple[Tensor, ...], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return losses.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        def scaled(gradient: Tensor) -> Tensor:
            return scale * gradient if scale.dim() == 0 else per_task(scale, gradient) * gradient

        return None, None, *map(scaled, ctx.gradients)
