"""Whether a model computes the same with its kernels in channels-last format."""

from __future__ import annotations

import torch
from torch import Tensor

from litmaml.inner.channels_last import to_channels_last
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.model_copy import copy_of
from litmaml.randomness import seeded
from litmaml.tasks import Tasks, select


def suits_channels_last(inner_loop: InnerLoop, tasks: Tasks) -> bool:
    """Whether a model computes the same with kernels in channels-last format.

    In that format CPUs compute convolutions, batch norm and pooling faster. A model that reshapes its numbers by
    ``view``, in the order in which they lie in memory, does not take it.
    """
    one = select(tasks, [0])
    try:
        usual, other = (copy_of(inner_loop) for _ in range(2))
        to_channels_last(other)
        other.channels_last = True
        found, expected = (_predictions(loop, one) for loop in (other, usual))
        return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    except Exception:  # whatever a model says to it; what it says in its own format, the trial of the first batch tells
        return False


def _predictions(loop: InnerLoop, one: Tasks) -> Tensor:
    """The predictions at theta_0 of a model in evaluation, after it was led along a step."""
    with seeded(0, torch.device("cpu")):
        start, *_ = loop.start(one), *loop.path(one, 1)
        return loop.eval().predict(start.fast, one.query.inputs, start.slow).detach()
