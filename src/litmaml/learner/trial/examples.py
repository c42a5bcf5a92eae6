"""How many examples of a batch are tried: a few, or all where that costs little."""

from __future__ import annotations

import time
from contextlib import suppress

import torch

from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.derivatives import LONG
from litmaml.tasks import Batch, tensors_of, tree_map

ENOUGH = 6
"""How many examples of a support batch are tried: enough for batch norm."""

_NUMBERS = 200_000
"""How many numbers a task's inputs may hold for its whole batch to be passed through the model, and a hundred times as
many weights over all examples."""


def few(batch: Batch, most: int) -> Batch:
    """Some examples of the first two tasks, spread over the batch and so over its classes."""
    count = batch.examples
    which = torch.linspace(0, count - 1, min(count, most), device=batch.device).round().long()
    return tree_map(lambda part: part[:2].index_select(1, which), batch)


def is_cheap(inner_loop: InnerLoop, batch: Batch) -> bool:
    """Whether forward passes of all the examples of a task cost little: by a count, the same on every machine."""
    numbers = sum(part[0].numel() for part in tensors_of(batch.inputs))
    weights = sum(weight.numel() for weight in inner_loop.model.parameters())
    return numbers <= _NUMBERS and batch.examples * weights <= 100 * _NUMBERS


def is_slow(copied: InnerLoop, batch: Batch) -> bool:
    """Whether a forward pass of all the examples would take long, judging by two of them."""
    two = few(batch, 2)
    began = time.process_time()
    with suppress(Exception), torch.no_grad():  # it will be raised again where it is told of
        copied.own_predictions(two.task(0).inputs)
    return time.process_time() - began > LONG * two.examples / ENOUGH
