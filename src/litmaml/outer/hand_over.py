"""Gradients that are computed already, handed to Lightning's backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from litmaml.weights import Params


def hand_over(loss: Tensor, gradients: Params, weights: Params) -> Tensor:
    """The loss as a node of the graph whose gradient by the weights is the one given.

    So ``backward`` by Lightning accumulates, scales, clips and reduces over processes as for any other loss.
    """
    handed: Tensor = _HandOver.apply(loss, tuple(gradients[name] for name in weights), *weights.values())  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return handed


class _HandOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: tuple[Tensor, ...], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(scale * gradient for gradient in ctx.gradients)
