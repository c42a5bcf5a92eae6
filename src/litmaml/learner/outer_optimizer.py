"""The optimizer of the outer loop and its schedule: how they are made, and when the schedule steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from litmaml.inner.loop import InnerLoop
from litmaml.learner.monitored import metric_of, no_such_metric
from litmaml.outer import HypergradientSGD
from litmaml.statistics.interval import Interval

_NEVER = 2**62


RATES = "rates"
"""The name of the group of what the inner optimizer learns."""


def check_rates_lr(rates_lr: float | None, inner_loop: InnerLoop) -> None:
    """Refuse an outer rate of learnt inner ones that is not positive, or for none.

    Raises:
        ValueError: With the remedy.
    """
    if rates_lr is None:
        return
    if not 0 < rates_lr < math.inf:
        raise ValueError(f"rates_lr: has to be a positive number, got {rates_lr}")
    if not inner_loop.optimizer_learns:
        raise ValueError(
            f"rates_lr: the inner optimizer learns nothing, got {rates_lr}; set inner_optimizer.learn, or leave it out"
        )


def groups_of(inner_loop: InnerLoop, rates_lr: float | None) -> list[dict[str, Any]]:
    """What is trained, as groups of an outer optimizer: all alike, or what the inner optimizer learns by itself."""
    trained = [weight for weight in inner_loop.parameters() if weight.requires_grad]
    if rates_lr is None:
        return [{"params": trained}]
    apart = {id(inner_loop.learnt[name]) for name in inner_loop.optimizer_learns}
    own = [weight for weight in trained if id(weight) in apart]
    others = [weight for weight in trained if id(weight) not in apart]
    return [{"params": others, "name": "weights"}, {"params": own, "lr": rates_lr, "name": RATES}]


def outer_optimizer(make: OptimizerCallable, groups: list[dict[str, Any]]) -> Optimizer:
    """The optimizer of the outer loop, for these groups of weights.

    Raises:
        ValueError: There are none, it does not take its options, or its rate is no single number.
    """
    if not any(group["params"] for group in groups):
        raise ValueError(
            "model: the outer loop has nothing to train, since all weights are frozen or start in each task anew "
            "(head_start); train some of them, or learn the inner rates (inner_optimizer.learn), or only test it "
            "(litmaml test -c CONFIG --ckpt_path=none)"
        )
    try:
        made = make(groups if len(groups) > 1 else groups[0]["params"])  # some look at each weight
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
    if isinstance(optimizer, HypergradientSGD):
        raise ValueError(
            "model.lr_scheduler: HypergradientSGD sets its rate itself; leave the schedule out, or take another "
            "optimizer"
        )
    if any("lr" not in group for group in optimizer.param_groups):
        raise ValueError(
            f"model.lr_scheduler: {type(optimizer).__name__} has no rate to be scheduled; leave the schedule out"
        )
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
