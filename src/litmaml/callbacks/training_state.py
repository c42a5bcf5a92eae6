"""The state of an optimizer and its schedule in a checkpoint, looked at before torch takes it as it is."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.outer_optimizer import groups_of, outer_optimizer
from litmaml.runs.admitted import short
from litmaml.runs.training_form import cannot_go_on
from litmaml.shown import first_line

_SHAPE = 2, 3
"""Of the weight that a state is begun for, to see of what form one is."""
_MOST_STEPS = 1 << 53


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
    states, schedules = checkpoint.get("optimizer_states", []), checkpoint.get("lr_schedulers", [])
    if len(states) != 1:
        raise cannot_go_on("optimizer_states", f"there has to be one, of the outer optimizer, got {len(states)}")
    device = torch.device("cpu") if learner._trainer is None else learner.trainer.strategy.root_device
    parts = groups_of(learner.inner_loop, learner.rates_lr)
    like = [{**part, "params": [nn.Parameter(torch.zeros(_SHAPE, device=device))]} for part in parts]
    optimizer = outer_optimizer(learner.optimizer, like)
    schedule = None if learner.lr_scheduler is None else learner.lr_scheduler(optimizer)
    if len(schedules) != (schedule is not None):
        raise cannot_go_on("lr_schedulers", f"there have to be {int(schedule is not None)}, got {len(schedules)}")
    _step(optimizer, *(part["params"][0] for part in like))
    kept, groups = states[0]["state"], states[0].get("param_groups")
    shapes = [weight.shape for part in parts for weight in part["params"]]
    if not isinstance(groups, list) or len(groups) != len(parts) or not all(isinstance(g, Mapping) for g in groups):
        what = "one group" if len(parts) == 1 else f"{len(parts)} groups"
        raise cannot_go_on("optimizer_states", f"has to be of {what} of weights, got {short(groups)}")
    expected, first = optimizer.state_dict(), 0
    for part, made, group in zip(parts, expected["param_groups"], groups, strict=True):
        numbers = [*range(first, first := first + len(part["params"]))]
        _compare(made | {"params": numbers}, group, "optimizer_states")
        if isinstance(group.get("params"), list) and group["params"] != numbers:
            raise cannot_go_on("optimizer_states.params", f"have to be the numbers of {len(shapes)} weights")
        _check_options(optimizer, like[0]["params"][0], group)
    _check_begun_for(kept, len(shapes), expected["state"].get(0, {}), checkpoint)
    for number, of_one in kept.items():
        _check_weight(expected["state"].get(0, {}), of_one, shapes[number])
    if type(optimizer).__module__.startswith("torch.optim."):
        _check_memory(kept)
    if schedule is not None:
        _compare(schedule.state_dict(), schedules[0], "lr_schedulers")
        _check_begun(schedule, schedules[0])


def check_callbacks(callbacks: Iterable[Callback], states: Mapping[str, Any]) -> None:
    """Refuse a state of another form than Lightning's own callbacks have when they begin.

    Args:
        callbacks: Of this run.
        states: What was read of theirs, by their keys.

    Raises:
        ValueError: Naming what is of another form.
    """
    for callback in callbacks:
        if not type(callback).__module__.startswith(("lightning.", "litmaml.")) or not states.get(callback.state_key):
            continue
        begun, state, what = callback.state_dict(), states[callback.state_key], f"callbacks.{type(callback).__name__}"
        # What is None when it begins may be anything later, such as a score or a file's name.
        _compare({name: value for name, value in begun.items() if value is not None}, state, what)
        for name, value in begun.items():
            if name not in state or (isinstance(value, Tensor) and not isinstance(state[name], Tensor)):
                raise cannot_go_on(f"{what}.{name}", f"is of another form, got {short(state.get(name))}")
        if type(callback).__module__.startswith("lightning."):  # ours look at theirs themselves
            _check_taken(callback, state, what)


def _check_taken(callback: Callback, state: Mapping[str, Any], what: str) -> None:
    """Let a copy of a callback take its state, as the callback itself will."""
    try:
        with warnings.catch_warnings(action="ignore"):  # they come again
            copy.copy(callback).load_state_dict(dict(state))
    except Exception as error:  # of any class
        raise cannot_go_on(what, first_line(error)) from error


def _step(optimizer: torch.optim.Optimizer, *weights: nn.Parameter) -> None:
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    if "closure" in inspect.signature(optimizer.step).parameters:  # some compute their gradients themselves
        optimizer.step(lambda: 0.0)
    else:
        optimizer.step()


def _check_begun_for(kept: Mapping[Any, Any], weights: int, expected: Any, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a state that leaves weights out which a step was taken of: they would silently begin anew."""
    if odd := kept.keys() - set(range(weights)):
        raise cannot_go_on("optimizer_states", f"has a weight {short(odd.pop())}, and there are {weights}")
    # Without a finite task, a step leaves the weights as they were.
    skips = not kept and checkpoint["hyper_parameters"].get("on_nonfinite") == "skip"
    if expected and len(kept) < weights and checkpoint.get("global_step") and not skips:
        raise cannot_go_on(
            "optimizer_states", f"is of {len(kept)} of {weights} weights after {checkpoint['global_step']} steps"
        )


def _check_memory(kept: Mapping[int, Any]) -> None:
    """Refuse tensors that share memory, within or with each other: a step would write to one what is another's."""
    seen = set()
    for tensor in (value for state in kept.values() for value in state.values() if isinstance(value, Tensor)):
        address = tensor.untyped_storage().data_ptr()
        if address in seen or _overlaps(tensor):
            raise cannot_go_on("optimizer_states", f"{short(tensor)} shares its memory")
        if tensor.numel():
            seen.add(address)


def _overlaps(tensor: Tensor) -> bool:
    """Whether elements may lie in one place, as in an expanded tensor."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < reach:
            return True
        reach += (size - 1) * stride
    return False


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
        number = got.item() if isinstance(got, Tensor) and got.numel() == 1 else got
        fits = isinstance(number, bool | int | float) and (math.isfinite(number) or not math.isfinite(expected))
    elif isinstance(expected, str):
        fits = isinstance(got, str)
    else:
        fits = got is None or isinstance(got, bool | int | float)
    if not fits:
        raise cannot_go_on(what, f"is of another form, got {short(got)}")


def _check_options(optimizer: torch.optim.Optimizer, weight: nn.Parameter, group: Mapping[str, Any]) -> None:
    """Let an optimizer of torch look at the options of its state, as its constructor and its step do."""
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim."):
        return
    options = {name: group[name] for name in inspect.signature(kind).parameters if name in group and name != "params"}
    try:
        made = kind([weight], **options)
        made.load_state_dict(made.state_dict() | {"param_groups": [{**group, "params": [0]}]})
        _step(made, weight)
    except Exception as error:  # of any class
        raise cannot_go_on("optimizer_states", f"is none of {kind.__name__}: {error}") from error


def _check_weight(expected: Mapping[str, Any], got: Any, shape: torch.Size) -> None:
    """Compare what is kept of one weight: as large as itself, or a single number."""
    for name, value in expected.items():
        kept = got.get(name) if isinstance(got, Mapping) else None
        if isinstance(value, Tensor) and value.shape == _SHAPE:
            fits = isinstance(kept, Tensor) and kept.shape == shape and kept.is_floating_point()
        elif isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
            number = kept.item() if isinstance(kept, Tensor) and kept.numel() == 1 else kept
            fits = isinstance(number, int | float) and 0 <= number < _MOST_STEPS
        else:
            fits = True
        if not fits:
            raise cannot_go_on(
                "optimizer_states", f"does not fit a weight of shape {tuple(shape)} ({name}: {short(kept)})"
            )


def _check_begun(schedule: Any, state: Mapping[str, Any]) -> None:
    """Compare what the schedule was made with, which no step changes."""
    made_with = vars(schedule)
    for name in inspect.signature(type(schedule)).parameters:
        if name in made_with and name in state and name != "last_epoch" and state[name] != made_with[name]:
            raise cannot_go_on(f"lr_schedulers.{name}", f"is of another schedule, got {short(state[name])}")
