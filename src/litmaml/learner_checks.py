"""What would make a run of a MetaLearner wrong, refused before it costs hours."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torch import nn

from litmaml.inner_loop import InnerLoop
from litmaml.types import Tasks

_SHARDED = ("FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy")


def check_loss(loss: nn.Module) -> None:
    """Refuse a loss with trainable parameters.

    Raises:
        ValueError: Naming the first.
    """
    if uncovered := [name for name, weight in loss.named_parameters() if weight.requires_grad]:
        raise ValueError(
            f"loss: its trainable parameter {uncovered[0]!r} is in no weight set: neither the inner nor the outer "
            "loop trains a loss; freeze it (requires_grad_(False)) or move it into the model"
        )


def check_trainer(trainer: Trainer) -> None:
    """Refuse strategies under which the outer gradient would be wrong; for precisions see ``check_precision``.

    Raises:
        ValueError: Naming the trainer's argument.
    """
    strategy = type(trainer.strategy).__name__
    if strategy in _SHARDED:
        raise ValueError(
            f"strategy: {strategy} splits weights between processes, but the inner loop calls the model with "
            "weights of its own; use ddp, which holds them whole on each process"
        )


def check_inputs(inner_loop: InnerLoop, tasks: Tasks) -> None:
    """Refuse tasks whose examples the model cannot take.

    Raises:
        ValueError: With their shape and torch's word for it.
    """
    inputs = tasks.query.inputs[:1]
    try:
        with torch.no_grad():
            fast, slow = inner_loop.start(1)
            inner_loop.predict(fast, inputs, slow)
    except RuntimeError as error:
        raise ValueError(
            f"model: {type(inner_loop.model).__name__} cannot take the tasks' inputs of shape "
            f"{tuple(inputs.shape[2:])} ({error}); are model and tasks of one configuration?"
        ) from error


def check_labels(inner_loop: InnerLoop, tasks: Tasks) -> None:
    """Refuse tasks with more classes than the model has logits.

    Raises:
        ValueError: With both numbers.
    """
    if not isinstance(inner_loop.loss, nn.CrossEntropyLoss) or tasks.query.targets.is_floating_point():
        return
    with torch.no_grad():
        fast, slow = inner_loop.start(1)
        ways = inner_loop.predict(fast, tasks.query.inputs[:1], slow).shape[2]
    asked = int(tasks.query.targets.max()) + 1
    if asked > ways:
        raise ValueError(
            f"ways: the tasks have {asked} classes, but the model gives {ways} logits; make the model for {asked} "
            f"ways or the tasks with at most {ways}"
        )
