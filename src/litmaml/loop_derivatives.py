"""Derivatives as the inner loop takes them, at any weights."""

from __future__ import annotations

import torch

from litmaml.inner.gradient_rule import plain
from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterGradient, PathGradient
from litmaml.plain_copy import TaskDerivatives, derivatives_of
from litmaml.tasks import Batch, StepTasks
from litmaml.trial_state import own_streams
from litmaml.weights import Params


def by_inner_loop(loop: InnerLoop, weights: list[Params], batch: Batch, along: Params | None) -> list[TaskDerivatives]:
    """The derivatives of the losses of as many tasks of the batch as there are weights."""
    batch = Batch(batch.inputs[: len(weights)], batch.targets[: len(weights)])
    slow = {name: weights[0][name].detach().requires_grad_() for name in loop.slow_names}
    leaves = [{n: w[n].detach().requires_grad_() for n in loop.fast_names} for w in weights]
    fast = {name: torch.stack([one[name] for one in leaves]) for name in loop.fast_names}
    with own_streams(4, batch.inputs.device):
        losses = loop.losses(fast, slow, batch, twice=along is not None)
    return [derivatives_of(loss, {**one, **slow}, along) for loss, one in zip(losses, leaves, strict=True)]


def inner_gradient(loop: InnerLoop, weights: Params, batch: Batch, outer_gradient: OuterGradient | None) -> Params:
    """The gradient of an inner step on the first task: as the outer gradient takes it, or evaluation does."""
    fast = {name: weights[name][None].detach().requires_grad_() for name in loop.fast_names}
    slow = {name: weights[name].detach() for name in loop.slow_names}
    by = outer_gradient.gradient if isinstance(outer_gradient, PathGradient) else plain
    with own_streams(4, batch.inputs.device):
        one = Batch(batch.inputs[:1], batch.targets[:1])
        gradient = by(loop.losses, fast, slow, StepTasks(one))
    return {name: g.detach()[0] for name, g in gradient.items()}
