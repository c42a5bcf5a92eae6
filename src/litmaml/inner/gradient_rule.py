"""The gradient of one inner step: which rule takes it decides how it can be differentiated."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from litmaml.tasks import Batch, StepTasks
from litmaml.weights import Params, constants, gradient_of, leaves


class Losses(Protocol):
    """l of each task (T,). ``twice``: its gradient is to be differentiated again by autograd."""

    def __call__(self, fast: Params, slow: Params, batch: Batch, twice: bool = False) -> Tensor: ...


class GradientRule(Protocol):
    """g_j = grad l(theta_j; S_j) of each task, by the fast weights."""

    def __call__(self, losses: Losses, fast: Params, slow: Params, step: StepTasks) -> Params: ...


def plain(losses: Losses, fast: Params, slow: Params, step: StepTasks) -> Params:
    """The gradient as a constant, which is all that adaptation itself needs."""
    with torch.enable_grad():
        at = leaves(fast)
        return gradient_of(losses(at, constants(slow), step.support).sum(), at)
