"""The state of an optimizer and its schedule in a checkpoint, looked at before torch takes it as it is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.admission import short
from litmaml.meta_learner import MetaLearner

_SHAPE = 2, 3
"""Of the weight that a state is begun for, to see of what form one is."""


def check_training_state(learner: MetaLearner, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a state of another form than this learner's own optimizer and schedule have after a step.

    torch makes the numbers of a file its attributes and fails in the middle of a step, or does not end.

    Args:
        learner: With the optimizer and the schedule that the state is for.
        checkpoint: What was read of its file.

    Raises:
        ValueError: Naming what is of another form.
    """
    if type(learner).configure_optimizers is not MetaLearner.configure_optimizers:
        return  # the user's own, which may make any number of them
    weight = nn.Parameter(torch.zeros(_SHAPE))
    optimizer = learner.optimizer([weight])
    schedule = None if learner.lr_scheduler is None else learner.lr_scheduler(optimizer)
    weight.grad = torch.zeros(_SHAPE)
    optimizer.step()
    expected = optimizer.state_dict()
    shapes = [w.shape for w in learner.inner_loop.parameters() if w.requires_grad]
    for state in checkpoint.get("optimizer_states", ()):
        groups = state.get("param_groups")
        if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], Mapping):
            raise _refused("optimizer_states", f"has to be of one group of weights, got {short(groups)}")
        _compare(expected["param_groups"][0] | {"params": list(range(len(shapes)))}, groups[0], "optimizer_states")
        _check_options(type(optimizer), weight, groups[0])
        for number, shape in enumerate(shapes):
            if number in state["state"]:
                _check_weight(expected["state"].get(0, {}), state["state"][number], shape)
    for state in checkpoint.get("lr_schedulers", ()):
        if schedule is not None:
            _compare(schedule.state_dict(), state, "lr_schedulers")
            _check_begun(schedule, state)


def _compare(expected: Any, got: Any, what: str) -> None:
    """Compare forms: numbers with numbers, lists with as long ones."""
    if isinstance(expected, Mapping):
        fits = isinstance(got, Mapping)
        for key in expected.keys() & got.keys() if fits else ():
            _compare(expected[key], got[key], f"{what}.{key}")
    elif isinstance(expected, list | tuple):
        fits = isinstance(got, list | tuple) and len(got) == len(expected)
        for one, other in zip(expected, got, strict=True) if fits else ():
            _compare(one, other, what)
    elif isinstance(expected, bool | int | float | Tensor):
        fits = isinstance(got, bool | int | float) or (isinstance(got, Tensor) and got.numel() == 1)
    elif isinstance(expected, str):
        fits = isinstance(got, str)
    else:
        fits = got is None or isinstance(got, bool | int | float)
    if not fits:
        raise _refused(what, f"is of another form, got {short(got)}")


def _check_options(kind: type, weight: nn.Parameter, group: Mapping[str, Any]) -> None:
    """Let an optimizer of torch look at the options of its state, as its constructor does."""
    if not kind.__module__.startswith("torch.optim."):
        return
    options = {name: group[name] for name in inspect.signature(kind).parameters if name in group and name != "params"}
    try:
        kind([weight], **options)
    except Exception as error:  # of any class
        raise _refused("optimizer_states", f"is none of {kind.__name__}: {error}") from error


def _check_weight(expected: Mapping[str, Any], got: Any, shape: torch.Size) -> None:
    """Compare what is kept of one weight: as large as itself, or a single number."""
    for name, value in expected.items():
        kept = got.get(name) if isinstance(got, Mapping) else None
        if isinstance(value, Tensor) and value.shape == _SHAPE:
            fits = isinstance(kept, Tensor) and kept.shape == shape and kept.is_floating_point()
        elif isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
            number = kept.item() if isinstance(kept, Tensor) and kept.numel() == 1 else kept
            fits = isinstance(number, int | float) and math.isfinite(number) and number >= 0
        else:
            fits = True
        if not fits:
            raise _refused("optimizer_states", f"does not fit a weight of shape {tuple(shape)} ({name}: {short(kept)})")


def _check_begun(schedule: Any, state: Mapping[str, Any]) -> None:
    """Compare what the schedule was made with, which no step changes."""
    made_with = vars(schedule)
    for name in inspect.signature(type(schedule)).parameters:
        if name in made_with and name in state and name != "last_epoch" and state[name] != made_with[name]:
            raise _refused(f"lr_schedulers.{name}", f"is of another schedule, got {short(state[name])}")


def _refused(what: str, why: str) -> ValueError:
    return ValueError(f"checkpoint.{what}: {why}; begin a new run from its weights with --init_weights")
