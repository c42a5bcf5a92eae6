"""The head of a learner whose tasks start it anew: whether it is the one, and wide enough to be tried."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from litmaml.inner.head import find_heads, named_head, replace_head, width_of
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.model_copy import copy_of
from litmaml.randomness import seeded
from litmaml.tasks import Tasks, ordinary, select


def check_head(inner_loop: InnerLoop, tasks: Tasks) -> None:
    """Refuse a head that is registered last, and so was taken, where another layer gives the logits.

    Args:
        inner_loop: Its head starts in each task anew.
        tasks: Of the first batch.

    Raises:
        ValueError: Naming the layer that does.
    """
    if inner_loop.head is None:
        return
    with torch.inference_mode(False), seeded(0, tasks.query.device):
        few = select(ordinary(tasks).support[0].task(0).inputs, slice(4))
        found = find_heads(inner_loop.model, few, inner_loop.output)
    if found != [inner_loop.head.name]:
        raise ValueError(
            f"head: the last layer that is registered is {inner_loop.head.name}, but the logits come from "
            f"{' and '.join(found)}; name the layer to start anew"
        )


def wide_enough(inner_loop: InnerLoop, stacks: Sequence[Tasks], training: bool) -> InnerLoop:
    """The inner loop, or a copy to try whose head has as many outputs as tasks have classes.

    Args:
        inner_loop: As it is.
        stacks: Of the first batch, with their numbers of classes where heads start anew.
        training: Of a copy no checkpoint could be written.

    Raises:
        ValueError: The head of a model in training is narrower.
    """
    classes = max((stack.classes or 0 for stack in stacks), default=0)
    if inner_loop.head is None:
        return inner_loop
    if (width := width_of(named_head(inner_loop.model, inner_loop.head.name))) >= classes:
        return inner_loop
    if training:
        raise ValueError(
            f"model: its head gives {width} logits, and a training task has {classes} classes; give it as many outputs "
            "as tasks have classes at the most"
        )
    with torch.inference_mode(False):
        copied = copy_of(inner_loop)
        replace_head(copied.model, inner_loop.head.name, classes)
    return copied


def take_over(inner_loop: InnerLoop, tried: InnerLoop) -> None:
    """Note in the inner loop what was found of its copy."""
    inner_loop.draws, inner_loop.mapped, inner_loop.changes_inputs = tried.draws, tried.mapped, tried.changes_inputs
