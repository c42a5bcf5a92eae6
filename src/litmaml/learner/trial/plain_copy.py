"""A model by itself: its loss and derivatives at any weights, by none of the inner loop's means."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from litmaml.inner.loop import InnerLoop
from litmaml.inner.surroundings import unfused_attention
from litmaml.learner.trial.applied import of_the_program
from litmaml.learner.trial.function_modes import Held
from litmaml.learner.trial.model_copy import copy_of
from litmaml.learner.trial.state import own_streams
from litmaml.learner.trial.weight_vectors import norm
from litmaml.tasks import Batch
from litmaml.weights import Params, named_weights

SLOPE_RADIUS = 1e-6
"""For a difference of losses in float64."""


class TaskDerivatives(NamedTuple):
    """Of one task: its loss, its gradient by all weights, and d <grad_fast loss, v> by all weights, or None."""

    loss: Tensor
    gradient: Params
    product: Params | None


class PlainCopy:
    """A copy of the inner loop's model that weights are written into, and that is called as anyone would call it.

    What the inner loop does (other tensors in the place of parameters, ``vmap``, layers with derivatives of their own)
    has no part in it.
    """

    def __init__(self, inner_loop: InnerLoop) -> None:
        self._loop = copy_of(inner_loop)
        self._tensors = named_weights(self._loop.model)
        self._names = [*self._loop.fast_names, *self._loop.shared_names]
        self._held = Held()
        self.functions: set[str] = set()
        for name in self._names:
            self._tensors[name].requires_grad_(True)  # fine-tuning holds slow weights still

    def at(self, weights: Params, batch: Batch, along: Params | None = None) -> TaskDerivatives:
        """The derivatives at these weights, on the first task of the batch; no product where torch has none.

        Differences are taken around the last of these points.
        """
        self._held = Held()
        loss = self.loss(weights, batch, self._held)
        self.functions |= _functions_in(loss)
        try:
            return derivatives_of(loss, self._leaves, along)
        except RuntimeError as error:
            if along is None or "is not implemented" not in str(error):
                raise
            return derivatives_of(loss, self._leaves, None)

    @property
    def _leaves(self) -> Params:
        return {name: self._tensors[name] for name in self._names}

    def slope_by_difference(
        self, weights: Params, batch: Batch, along: Params, radius: float, held: bool = True
    ) -> float:
        """The loss at ``weights`` + r ``along`` less that at ``weights`` - r ``along``, over 2 r.

        Args:
            held: Whether what gradients take for a constant (``detach``) is held at what it was in ``at``.

        Raises:
            OtherFunctions: It could not be held.
        """
        ahead, behind = (float(loss.detach()) for loss in self._around(weights, batch, along, radius, held))
        return (ahead - behind) / (2 * radius)

    def product_by_difference(
        self, weights: Params, batch: Batch, along: Params, radius: float, held: bool = True
    ) -> Params:
        """The same of the gradient."""
        losses = self._around(weights, batch, along, radius, held)
        ahead, behind = (derivatives_of(loss, self._leaves, None).gradient for loss in losses)
        return {name: (ahead[name] - behind[name]) / (2 * radius) for name in ahead}

    def _around(self, weights: Params, batch: Batch, along: Params, radius: float, held: bool) -> Iterator[Tensor]:
        """The losses at both points, each to be differentiated before the next is taken."""
        recorded = self._held if held else None
        return (self.loss(_moved(weights, along, r), batch, recorded) for r in (radius, -radius))

    def loss(self, weights: Params, batch: Batch, held: Held | None = None) -> Tensor:
        """The loss at these weights, on the first task of the batch."""
        one = batch.task(0)
        with torch.no_grad():
            for name in self._names:
                self._tensors[name].copy_(weights[name])
        with own_streams(4, batch.device), unfused_attention(), held or nullcontext():
            loss: Tensor = self._loop.loss(self._loop.own_predictions(one.inputs), one.targets)
        return loss


def derivatives_of(loss: Tensor, leaves: Params, along: Params | None) -> TaskDerivatives:
    """The derivatives of a task's loss by its weights, and along a direction if one is given.

    Raises:
        ValueError: A gradient is sparse.
    """
    targets, twice = list(leaves.values()), along is not None
    first = torch.autograd.grad(loss, targets, retain_graph=True, create_graph=twice, materialize_grads=True)
    gradient = dict(zip(leaves, first, strict=True))
    if sparse := [name for name, g in gradient.items() if g.layout != torch.strided]:
        raise ValueError(
            f"model: the gradient by {', '.join(sparse[:3])} is sparse, which inner steps do not take; make the "
            "embedding with sparse=False"
        )
    product = None
    if along is not None:
        product = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        if curved := [name for name in along if gradient[name].requires_grad]:
            parts = [gradient[name] for name in curved], targets, [along[name] for name in curved]
            second = torch.autograd.grad(*parts, retain_graph=True, materialize_grads=True)
            product = dict(zip(leaves, second, strict=True))
    return TaskDerivatives(loss.detach(), {name: g.detach() for name, g in gradient.items()}, product)


def slope_rounding(at: TaskDerivatives, radius: float = SLOPE_RADIUS) -> float:
    """How far rounding in float64 may take a difference of losses from the slope along a vector of length 1."""
    return 1e-7 * norm(at.gradient) + 8 * torch.finfo(torch.float64).eps * float(at.loss.abs()) / radius


def _functions_in(loss: Tensor) -> set[str]:
    """The names of the ``torch.autograd.Function``s in a graph, without those of the program itself."""
    found: set[str] = set()
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not of_the_program(node._forward_cls):
            found.add(node.name().removesuffix("Backward"))
        left += [following for following, _ in node.next_functions]
    return found


def _moved(weights: Params, along: Params, length: float) -> Params:
    return {name: w + length * along[name] if name in along else w for name, w in weights.items()}
