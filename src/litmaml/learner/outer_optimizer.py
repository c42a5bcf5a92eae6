"""The optimizer of the outer loop and its schedule: how they are made, and when the schedule steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from litmaml.learner.monitored import metric_of, no_such_metric
from litmaml.statistics.interval import Interval

_NEVER = 2**62


def outer_optimizer(make: OptimizerCallable, weights: list[nn.Parameter]) -> Optimizer:
    """The optimizer of the outer loop, for these weights.

    Raises:
        ValueError: There are none, it does not take its options, or its rate is no single number.
    """
    if not weights:
        raise ValueError(
            "model: the outer loop has nothing to train, since all weights are frozen or start in each task anew "
            "(head_start); train some of them, or learn the inner rates (inner_optimizer.learn), or only test it "
            "(litmaml test -c CONFIG --ckpt_path=none)"
        )
    try:
        made = make(weights)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model.optimizer: {error}") from error
    for group in made.param_groups:
        rate = group.get("lr")
        if isinstance(rate, Tensor) and rate.dim():  # torch would only say so later, or never
            raise ValueError(f"model.optimizer.lr: has to be one number, got {rate.tolist()}")
    return made


def scheduled(optimizer: Optimizer, make: LRSchedulerCallable | None, interval: str, metrics: Iterable[str]) -> Any:
    """The optimizer with its schedule, if there is one, as Lightning takes them.

    Args:
        optimizer: Of the outer loop.
        make: Of the optimizer the schedule.
        interval: When it steps, ``step`` or ``epoch``; ReduceLROnPlateau does by ``step_on_plateau``.
        metrics: Which it may watch beside the loss.

    Raises:
        ValueError: There is no such metric as it watches.
    """
    if make is None:
        return optimizer
    scheduler = make(optimizer)
    how: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
    if isinstance(scheduler, ReduceLROnPlateau):
        monitor = getattr(scheduler, "monitor", "val/loss")
        if metric_of(monitor, metrics) is None:
            raise no_such_metric("model.lr_scheduler.monitor", monitor, metrics)
        # Lightning would step it after the checkpoint that follows a validation, and not when that is resumed.
        how |= {"monitor": monitor, "frequency": _NEVER}
    return {"optimizer": optimizer, "lr_scheduler": how}


def step_on_plateau(trainer: Trainer, metrics: Iterable[str], results: Mapping[str, list[Interval]]) -> None:
    """Let each ReduceLROnPlateau look at the validation that has just ended."""
    for config in trainer.lr_scheduler_configs:
        if not isinstance(config.scheduler, ReduceLROnPlateau):
            continue
        name, step = metric_of(str(config.monitor), metrics) or ("loss", None)
        if str(config.monitor).startswith("val/"):
            config.scheduler.step(results[name][-1 if step is None else step].mean)
        else:
            config.scheduler.step(float(trainer.callback_metrics[str(config.monitor)]))
