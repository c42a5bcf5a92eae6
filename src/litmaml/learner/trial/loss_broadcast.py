"""Losses that stretch predictions and targets to a common shape, and so pair what does not belong together."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from litmaml.tasks import Tree, named_tensors, select, tree_map


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


def refuse_broadcast(loss: nn.Module, predictions: Tensor, targets: Tree, outcome: Outcome) -> None:
    """Refuse a loss of the user's that stretches predictions and targets to a common shape, and pairs wrongly.

    It is taken once more of both stretched by hand: if that is the same, it broadcasts. Whether this is wrong is told
    by the targets in the predictions' shape, where they have one, and by the targets in another order: a loss that
    pairs rightly takes no notice where the predictions are in that order too, and does where they are not. Within an
    example it may be meant, as in quantile losses. Of a tree of targets each tensor is looked at, with the others as
    they are.
    """
    shape = tuple(predictions.shape)
    for name, part in named_tensors(targets, "targets"):
        if part.shape == predictions.shape:
            continue
        put = _Put(loss, targets, part)
        same_size, across = predictions.numel() == part.numel(), predictions.dim() != part.dim()
        stretched = put.stretched(predictions, part)
        if stretched is None or not stretched.like(outcome) or put.is_left_out(predictions, outcome):
            continue
        reshaped = put.stretched(predictions, part.reshape(shape)) if same_size else None
        if not (same_size or across) or (reshaped is not None and reshaped.like(outcome)):
            continue
        if not put.pairs_rightly(predictions, outcome.value):
            raise broadcast_error(loss, shape, part, name)


class _Put:
    """A loss with another tensor in the place of one of its targets."""

    def __init__(self, loss: nn.Module, targets: Tree, part: Tensor) -> None:
        self._loss, self._targets, self._part = loss, targets, part

    def __call__(self, predictions: Tensor, part: Tensor) -> Tensor:
        value: Tensor = self._loss(predictions, tree_map(lambda own: part if own is self._part else own, self._targets))
        return value

    def stretched(self, predictions: Tensor, part: Tensor) -> Outcome | None:
        """Of both in their common shape; None if there is none, or it cannot be taken of that."""
        leaf = predictions.clone().requires_grad_()
        try:
            return self._outcome(leaf, *torch.broadcast_tensors(leaf, part))  # type: ignore[no-untyped-call]
        except Exception:
            return None

    def _outcome(self, leaf: Tensor, *taken: Tensor) -> Outcome:
        value = self(*taken)
        return Outcome(value.detach(), *torch.autograd.grad(value, leaf))

    def is_left_out(self, predictions: Tensor, outcome: Outcome) -> bool:
        """Whether the loss takes no notice of it, as of what is there for another loss."""
        leaf = predictions.clone().requires_grad_()
        others = (torch.zeros_like(self._part), torch.ones_like(self._part))
        return all(self._outcome(leaf, leaf, other).like(outcome) for other in others)

    def pairs_rightly(self, predictions: Tensor, value: Tensor) -> bool:
        """Whether only the order of predictions and targets together does not matter, as far as it can be told."""
        order = [*range(1, len(predictions)), 0]
        with torch.no_grad():
            both = self._loss(predictions[order], select(self._targets, order))
            alone = self(predictions, self._part[order])
        return _same(both, value) and not _same(alone, value)


def _same(one: Tensor, two: Tensor) -> bool:
    return torch.allclose(one.double(), two.double(), rtol=1e-5, atol=0, equal_nan=True)


def broadcast_error(loss: nn.Module, shape: tuple[int, ...], targets: Tensor, name: str = "targets") -> ValueError:
    """The refusal of targets that predictions of this shape do not belong to one by one."""
    pairs = ", which would pair predictions with the targets of others" if targets.dim() != len(shape) else ""
    fits = targets.numel() == math.prod(shape)
    remedy = f"reshape them to {shape}" if fits else f"give targets {shape}, or a model with an output for each target"
    if not fits and not targets.is_floating_point() and tuple(targets.shape) == (shape[0], *shape[2:]):
        remedy = f"give targets {shape}, or take CrossEntropyLoss if these are class indices"
    return ValueError(
        f"{name}: {type(loss).__name__} takes them in the shape of the predictions, {shape}, got "
        f"{tuple(targets.shape)}{pairs}; {remedy}"
    )
