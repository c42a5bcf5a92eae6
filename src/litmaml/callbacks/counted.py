"""What callbacks and schedules have counted and compared by, where a run goes on with other settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.utilities import rank_zero_info

from litmaml.learner.monitored import metric_of

_PLACES = ("root", "download", "cache_dir")
"""Arguments of task data that say where they lie, not what they are."""


def by_class(callbacks: Any) -> dict[str, Any]:
    """Callbacks as they are configured, one or a list of them, by the names of their classes."""
    found: dict[str, Any] = {}
    for recipe in callbacks if isinstance(callbacks, list) else [callbacks]:
        if isinstance(recipe, Mapping) and "class_path" in recipe:
            name = str(recipe["class_path"]).rpartition(".")[2]
            found[name if name not in found else f"{name}_{len(found)}"] = recipe
    return found


def keep_typed(trainer: Trainer, states: dict[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Let the settings of this run's callbacks win over those in their states, of which the counts are restored.

    A run that an early stop ended does not go on, unless it is another one by now.

    Args:
        trainer: Of this run.
        states: What is restored of callbacks, by their keys; changed in place.
        before: The callbacks that the checkpoint records, by their classes.
        now: Those of this run.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it outside the class
        state = states.get(callback.state_key)
        if not isinstance(callback, EarlyStopping) or not state:
            continue
        same = _early_stops(before) == _early_stops(now) and state["patience"] == callback.patience
        state["patience"] = callback.patience  # alone of its settings among the counts
        if not state.get("stopping_reason"):
            continue
        if same:
            trainer.should_stop = True
            rank_zero_info(
                f"the run was stopped early after epoch {state['stopped_epoch']}: "
                f"{str(state['stopping_reason_message']).replace(' Signaling Trainer to stop.', '')} It goes on with "
                "another trainer.callbacks.patience, with trainer.min_epochs, or without EarlyStopping"
            )
        else:
            state["stopping_reason"], state["stopping_reason_message"] = EarlyStoppingReason.NOT_STOPPED.value, None


def begin_anew(trainer: Trainer, learner: LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Forget what was best so far where the validation is another one, so that its values do not compare.

    Args:
        trainer: Of this run.
        learner: Of this run.
        checkpoint: What is restored; changed in place.
    """
    changed = list(_changed(trainer, learner, checkpoint))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # as above
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and callback.monitor is not None:
            causes = _causes(changed, callback.monitor, learner)
            if causes and checkpoint["callbacks"].pop(callback.state_key, None):
                _say(type(callback).__name__, callback.monitor, causes)
    for state in checkpoint.get("lr_schedulers", []):
        if "num_bad_epochs" in state:  # a ReduceLROnPlateau
            monitor = state.get("monitor", "val/loss")
            if causes := _causes(changed, monitor, learner):
                state["best"], state["num_bad_epochs"] = math.inf if state["mode"] == "min" else -math.inf, 0
                _say("ReduceLROnPlateau", monitor, causes)


def _early_stops(callbacks: Mapping[str, Any]) -> list[Any]:
    return [recipe for name, recipe in callbacks.items() if name.startswith("EarlyStopping")]


def _say(what: str, monitor: str, causes: list[str]) -> None:
    rank_zero_info(f"{what}: {monitor} is of another validation ({', '.join(causes)}): its comparison begins anew")


def _changed(trainer: Trainer, learner: LightningModule, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """The options that say what a validation measures, where the checkpoint has others."""
    model, data = checkpoint["hyper_parameters"], checkpoint.get("datamodule_hyper_parameters") or {}
    tasks = {} if trainer.datamodule is None else dict(trainer.datamodule.hparams)  # type: ignore[attr-defined]  # set outside its class
    now: dict[str, Any] = dict(learner.hparams)
    pairs = {"model.loss": (model.get("loss"), now.get("loss"))}
    steps = [kept.get("test_inner_steps") or kept.get("inner_steps") for kept in (model, now)]
    pairs["model.test_inner_steps"] = steps[0], steps[1]
    metrics, others = (kept.get("metrics") or {} for kept in (model, now))
    if isinstance(metrics, Mapping) and isinstance(others, Mapping):
        pairs |= {f"model.metrics.{name}": (metrics[name], others[name]) for name in metrics.keys() & others.keys()}
    pairs |= {f"data.{name}": (data.get(name), tasks.get(name)) for name in ("tasks", "val_tasks", "seed")}
    recorded = (checkpoint.get("configuration") or {}).get("trainer", {})
    if "limit_val_batches" in recorded:
        limit = recorded["limit_val_batches"]
        pairs["trainer.limit_val_batches"] = 1.0 if limit is None else limit, trainer.limit_val_batches
    for option, (before, after) in pairs.items():
        # A run that was begun in Python may record none, and an older one not those that there are by now.
        if before is not None and after is not None and not _same(before, after):
            yield option


def _same(before: Any, after: Any) -> bool:
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return bool(before == after)
    return before.get("class_path") == after.get("class_path") and all(
        _same(before[name], after[name]) for name in before if name in after and name not in _PLACES
    )


def _causes(changed: list[str], monitor: str, learner: LightningModule) -> list[str]:
    """Those options that change the meaning of a metric."""
    found = metric_of(monitor, getattr(learner, "metrics", ()))
    if found is None:  # the user's own
        return changed
    own = "model.loss" if found[0] == "loss" else f"model.metrics.{found[0]}"
    others = {option for option in changed if not option.startswith(("model.loss", "model.metrics."))}
    return [option for option in changed if option == own or (option in others and monitor.startswith("val/"))]
