"""Of what form a checkpoint keeps how far training had come, looked at before Lightning takes it as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loops import progress as lightning
from torch.optim.lr_scheduler import LRScheduler

_MOST = 1 << 53
"""Steps, epochs and tasks that anything was counted to."""
VERSION_KEY = "pytorch-lightning_version"
_VERSION = re.compile(r"([2-9]|\d\d+)(\.\w+){1,5}(\+\w+)?")
"""Of Lightning, from 2 on: before, loops were others."""
_BATCHES = {"batch_progress": lightning._BatchProgress().state_dict()}
_LOOPS: dict[str, dict[str, Any]] = {
    "fit_loop": {
        "epoch_progress": lightning._Progress().state_dict(),
        "epoch_loop.batch_progress": lightning._BatchProgress().state_dict(),
        "epoch_loop.scheduler_progress": lightning._SchedulerProgress().state_dict(),
        "epoch_loop.val_loop.batch_progress": lightning._BatchProgress().state_dict(),
        "epoch_loop.automatic_optimization.optim_progress": lightning._OptimizationProgress().state_dict(),
        "epoch_loop.manual_optimization.optim_step_progress": lightning._Progress.from_defaults(
            lightning._ReadyCompletedTracker
        ).state_dict(),
    },
    "validate_loop": _BATCHES,
    "test_loop": _BATCHES,
    "predict_loop": {"batch_progress": lightning._Progress().state_dict()},
}
"""The counts of each loop, as Lightning begins them."""


def wrong_progress(saved: Mapping[Any, Any]) -> str | None:
    """What of a checkpoint's counts, loops and states is of another form than Lightning writes it."""
    for name in ("optimizer_states", "lr_schedulers"):
        parts = saved.get(name, [])
        if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
            return f"its {name} are no list of dictionaries"
    if not all(isinstance(state.get("state"), Mapping) for state in saved.get("optimizer_states", ())):
        return "its optimizer_states have no state"
    # A scheduler's state becomes its attributes, and would take its methods' places.
    if any(callable(getattr(LRScheduler, str(key), None)) for state in saved.get("lr_schedulers", ()) for key in state):
        return "the state of a scheduler names its methods"
    for name in ("epoch", "global_step"):
        if name in saved and not is_count(saved[name]):
            return f"its {name} is no count"
    # A file of weights with a recipe alone has neither loops nor a version.
    if ("loops" in saved or VERSION_KEY in saved) and not _VERSION.fullmatch(str(saved.get(VERSION_KEY))[:40]):
        return "its version of Lightning is none"
    return _wrong_loops(saved)


def is_count(value: object) -> bool:
    """Whether a value is a number of things that there may have been."""
    return type(value) is int and 0 <= value < _MOST


def cannot_go_on(what: str, why: str) -> ValueError:
    """The error of a state from which no training can go on.

    Args:
        what: Where it stands in the checkpoint.
        why: What is wrong with it.
    """
    return ValueError(f"checkpoint.{what}: {why}; begin a new run from its weights with --init_weights")


def _wrong_loops(saved: Mapping[Any, Any]) -> str | None:
    loops = saved.get("loops", {})
    if not loops:
        return None
    for name, form in _LOOPS.items():
        if not isinstance(loop := loops.get(name), Mapping):
            return "its loops are none of Lightning"
        for key, part in loop.items():
            if str(key).rpartition(".")[2] == "state_dict":
                if not isinstance(part, Mapping) or not is_count(part.get("_batches_that_stepped", 0)):
                    return f"its loops have no state at {name}.{str(key)[:80]!r}"
            elif not _fits(form.get(key, {}), part):
                return f"its loops have no counts at {name}.{str(key)[:80]!r}"
        if missing := form.keys() - loop.keys():
            return f"its loops have no {name}.{min(missing)}"
    fit = loops["fit_loop"]
    steps = (
        fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]["completed"],
        fit["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"],
    )
    # At the end of an epoch Lightning has counted it and still gives its number.
    ended = fit["epoch_progress"]["current"]["processed"]
    if saved.get("epoch") not in (ended, ended - 1) or saved.get("global_step") not in steps:
        return "its epoch and global_step are others than those of its loops"
    return None


def _fits(form: Mapping[str, Any], got: Any) -> bool:
    """Whether there are counts in dictionaries, at least those of the form: they become the attributes of one."""
    if not isinstance(got, Mapping) or form.keys() - got.keys():
        return False
    for key, value in got.items():
        expected = form.get(key, {} if isinstance(value, Mapping) else 0)
        if isinstance(expected, Mapping):
            fits = _fits(expected, value)
        else:
            fits = type(value) is bool if isinstance(expected, bool) else is_count(value)
        if not fits or callable(getattr(lightning._ProcessedTracker, str(key), None)):
            return False
    return True
