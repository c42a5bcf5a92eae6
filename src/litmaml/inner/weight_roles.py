"""Which of a model's weights are adapted, which only trained, which have a row for each step, which stay as is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from litmaml.inner.patterns import fitting
from litmaml.inner.places import all_places
from litmaml.shown import listed


class WeightRoles(NamedTuple):
    """The names of a model's weights, in its order, by what becomes of them; the others stay as they are.

    fast: adapted. slow: trained, but not adapted. rows: the same, with a row for each inner step.
    """

    fast: list[str]
    slow: list[str]
    rows: list[str]


def assign_roles(
    model: nn.Module, fast_weights: Sequence[str], frozen_weights: Sequence[str], per_step_weights: Sequence[str]
) -> WeightRoles:
    """The roles by the patterns of ``InnerLoop``; what is frozen or has rows elsewhere needs no gradient afterwards.

    Raises:
        ValueError: A pattern fits no trainable parameter, none is left to adapt, or a buffer has no gradient.
    """
    parameters, tied = dict(model.named_parameters()), all_places(model)
    for name in fitting("frozen_weights", frozen_weights, parameters, tied):
        parameters[name].requires_grad_(False)
    trainable = {name: weight for name, weight in parameters.items() if weight.requires_grad}
    buffers = {name: value for name, value in model.named_buffers() if name in fast_weights}
    if not trainable and not buffers:
        raise ValueError(
            "model: none of its parameters is trainable; leave those to adapt or to train with requires_grad=True"
        )
    rows = fitting("per_step_weights", per_step_weights, trainable, tied)
    for name in rows:
        trainable.pop(name).requires_grad_(False)
    for name, value in buffers.items():
        if not value.is_floating_point():
            raise ValueError(f"fast_weights: the buffer {name!r} holds {value.dtype}, which has no gradient")
    fast = fitting("fast_weights", fast_weights, {**trainable, **buffers}, tied)
    if not fast:
        raise ValueError("fast_weights: names no parameter; there is nothing to adapt")
    return WeightRoles(fast, [name for name in trainable if name not in set(fast)], rows)


def check_roles(model: nn.Module, fast: Sequence[str], slow: Sequence[str]) -> None:
    """Refuse a model of which other parameters can be adapted or trained now than when their roles were assigned.

    A slow weight may be frozen since: it is trained no longer.

    Args:
        model: As it is now.
        fast: The names that were to be adapted.
        slow: The names that were to be trained.

    Raises:
        ValueError: Naming those.
    """
    parameters = dict(model.named_parameters())
    now = {name for name, weight in parameters.items() if weight.requires_grad}
    for names, what in (
        ({*fast} & parameters.keys() - now, "no longer trainable"),
        (now - {*fast, *slow}, "trainable only now"),
    ):
        if names:
            raise ValueError(
                f"model: {listed(sorted(names), 3)} {'is' if len(names) == 1 else 'are'} {what}, but when the "
                "learner was made requires_grad decided what is adapted and trained; freeze or unfreeze the model "
                "before it is given to the learner, without a callback that does so in between"
            )
