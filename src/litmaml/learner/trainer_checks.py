"""Numbers and names of a trainer that Lightning takes as they are, and that fail, or do nothing, hours later."""

from __future__ import annotations

import re
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.monitored import metric_of, no_such_metric

_OTHERS = (
    *("step", "epoch", "train/gradient_norm", "train/meta_gradient_seconds"),
    *("train/skipped_tasks", "val/skipped_tasks"),
)
"""What can be watched besides losses and metrics."""


def check_device_names(devices: Any) -> None:
    """Refuse devices that are neither a number nor a list of numbers, of which Lightning says no option.

    Raises:
        ValueError: Naming what there may be.
    """
    if isinstance(devices, str) and not re.fullmatch(r"auto|-?\d+|(\d+,\s*)+\d*", devices.strip()):
        raise ValueError(
            f"trainer.devices: has to be a number, auto, or a list of devices such as 0,1, got {devices[:60]!r}"
        )


def check_numbers(trainer: Trainer) -> None:
    """Refuse what is out of its range.

    Raises:
        ValueError: Naming the option.
    """
    clip: Any = trainer.gradient_clip_val
    if clip is not None and not clip >= 0:
        raise ValueError(f"trainer.gradient_clip_val: has to be at least 0 (or null: no clipping), got {clip}")
    for name in ("accumulate_grad_batches", "log_every_n_steps"):
        least = 0 if name == "log_every_n_steps" else 1  # 0 logs nothing
        if getattr(trainer, name) < least:
            raise ValueError(f"trainer.{name}: has to be at least {least}, got {getattr(trainer, name)}")


def check_trains(trainer: Trainer) -> None:
    """Refuse a run of no step, which would take the place of an earlier one.

    Raises:
        ValueError: Naming the option.
    """
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise ValueError(f"trainer.{name}: nothing would be trained, got 0; leave it out, or take 1 or more")


def check_monitors(trainer: Trainer, learner: MetaLearner) -> None:
    """Refuse callbacks that watch a metric which nobody logs, unless there is somebody else's code that may.

    Raises:
        ValueError: Naming the metrics that there are.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it outside the class
    own = [callback for callback in callbacks if not type(callback).__module__.startswith(("lightning.", "litmaml."))]
    if own or type(learner) is not MetaLearner:
        return
    for callback in callbacks:
        # Not BestCheckpoint, whose monitor is an option of its own.
        theirs = type(callback).__module__.startswith("lightning.")
        if not theirs or not isinstance(callback, EarlyStopping | ModelCheckpoint):
            continue
        name = callback.monitor
        if name is not None and name not in _OTHERS and metric_of(name, learner.metrics) is None:
            raise no_such_metric(f"trainer.callbacks.{type(callback).__name__}.monitor", name, learner.metrics)
