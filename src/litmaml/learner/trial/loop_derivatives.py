"""Derivatives as the inner loop takes them, at any weights."""

from __future__ import annotations

import torch
from torch import Tensor

from litmaml.inner.derivatives import Derivatives
from litmaml.inner.gradient_rule import plain
from litmaml.inner.loop import InnerLoop
from litmaml.inner.surroundings import unfused_attention
from litmaml.learner.trial.plain_copy import TaskDerivatives, derivatives_of
from litmaml.learner.trial.state import own_streams
from litmaml.outer import OuterGradient, PathGradient
from litmaml.tasks import Batch, StepTasks, copies
from litmaml.weights import Params


def by_inner_loop(loop: InnerLoop, weights: list[Params], batch: Batch, along: Params | None) -> list[TaskDerivatives]:
    """The derivatives of the losses of as many tasks of the batch as there are weights."""
    batch = batch.rows(slice(len(weights)))
    slow = {name: weights[0][name].detach().requires_grad_() for name in loop.shared_names}
    leaves = [{n: w[n].detach().requires_grad_() for n in loop.fast_names} for w in weights]
    fast = {name: torch.stack([one[name] for one in leaves]) for name in loop.fast_names}
    with own_streams(4, batch.device):
        losses = loop.losses(fast, slow, batch, twice=along is not None)
    return [derivatives_of(loss, {**one, **slow}, along) for loss, one in zip(losses, leaves, strict=True)]


def loss_in_place_of(loop: InnerLoop, others: Params, weights: Params, batch: Batch) -> Tensor:
    """The loss of the first task at these weights, which stand in the very tensors in which others stood before.

    Neither identity, address nor version tells the two apart, as where memory is freed and used again.
    """
    one = batch.task(0)
    held = {name: weight.clone() for name, weight in others.items()}
    for numbers in (others, weights):
        for name, tensor in held.items():
            tensor.data.copy_(numbers[name])  # by data, so that the version stays
        with torch.no_grad(), own_streams(4, batch.device), unfused_attention(), Derivatives():
            loss: Tensor = loop.loss(loop.call(held, None, copies(one.inputs)), one.targets)
    return loss


def inner_gradient(loop: InnerLoop, weights: Params, batch: Batch, outer_gradient: OuterGradient | None) -> Params:
    """The gradient of an inner step on the first task: as the outer gradient takes it, or evaluation does."""
    fast = {name: weights[name][None].detach().requires_grad_() for name in loop.fast_names}
    slow = {name: weights[name].detach() for name in loop.shared_names}
    by = outer_gradient.gradient if isinstance(outer_gradient, PathGradient) else plain
    with own_streams(4, batch.device):
        gradient = by(loop.losses, fast, slow, StepTasks(batch.rows(slice(1))))
    return {name: g.detach()[0] for name, g in gradient.items()}
