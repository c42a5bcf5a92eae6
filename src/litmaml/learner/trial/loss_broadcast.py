"""Losses that stretch predictions and targets to a common shape, and so pair what does not belong together."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Outcome(NamedTuple):
    """A loss, and its gradient by the predictions."""

    value: Tensor
    gradient: Tensor

    def like(self, other: Outcome) -> bool:
        """Whether both agree up to rounding."""
        return all(
            torch.allclose(one.double(), two.double(), rtol=1e-3, atol=1e-6 * float(two.abs().max()), equal_nan=True)
            for one, two in zip(self, other, strict=True)
        )


def refuse_broadcast(loss: nn.Module, predictions: Tensor, targets: Tensor, outcome: Outcome) -> None:
    """Refuse a loss of the user's that stretches predictions and targets to a common shape, and pairs wrongly.

    It is taken once more of both stretched by hand: if that is the same, it broadcasts. Whether this is wrong is told
    by the targets in the predictions' shape, where they have one. Within an example it may be meant, as in quantile
    losses.
    """
    shape, same_size = tuple(predictions.shape), predictions.numel() == targets.numel()
    across = predictions.dim() != targets.dim()
    stretched = _stretched(loss, predictions, targets)
    if stretched is None or not stretched.like(outcome):
        return
    reshaped = _stretched(loss, predictions, targets.reshape(shape)) if same_size else None
    if (same_size or across) and (reshaped is None or not reshaped.like(outcome)):
        raise broadcast_error(loss, shape, targets)


def _stretched(loss: nn.Module, predictions: Tensor, targets: Tensor) -> Outcome | None:
    """The loss of both in their common shape; None if there is none, or it cannot be taken of that."""
    leaf = predictions.clone().requires_grad_()
    try:
        value = loss(*torch.broadcast_tensors(leaf, targets))  # type: ignore[no-untyped-call]
        return Outcome(value.detach(), *torch.autograd.grad(value, leaf))
    except Exception:
        return None


def broadcast_error(loss: nn.Module, shape: tuple[int, ...], targets: Tensor) -> ValueError:
    """The refusal of targets that predictions of this shape do not belong to one by one."""
    pairs = ", which would pair predictions with the targets of others" if targets.dim() != len(shape) else ""
    fits = targets.numel() == math.prod(shape)
    remedy = f"reshape them to {shape}" if fits else f"give targets {shape}, or a model with an output for each target"
    return ValueError(
        f"targets: {type(loss).__name__} takes them in the shape of the predictions, {shape}, got "
        f"{tuple(targets.shape)}{pairs}; {remedy}"
    )
