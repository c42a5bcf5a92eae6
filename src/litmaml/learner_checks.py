"""What would make a run of a MetaLearner wrong, refused before it costs hours."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from litmaml.inner_loop import InnerLoop
from litmaml.loss_checks import check_class_indices, check_loss_on
from litmaml.losses import takes_class_indices
from litmaml.outer_gradient import OuterGradient, seeded
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


def check_trainer(trainer: Trainer, outer_gradient: OuterGradient) -> None:
    """Refuse strategies and precisions under which the outer gradient would be wrong.

    Raises:
        ValueError: Naming the trainer's argument.
    """
    strategy = type(trainer.strategy).__name__
    if strategy in _SHARDED:
        raise ValueError(
            f"strategy: {strategy} splits weights between processes, but the inner loop calls the model with "
            "weights of its own; use ddp, which holds them whole on each process"
        )
    name, precision = type(outer_gradient).__name__, str(trainer.precision)
    if outer_gradient.probes and precision in ("16-true", "bf16-true"):
        raise ValueError(
            f"precision: {precision} is too coarse for the probes of {name}; use 32-true, or bf16-mixed, under "
            "which the probes run in float32"
        )
    if precision == "16-mixed":
        rank_zero_warn(
            "precision: under 16-mixed the loss is scaled for the outer gradient only, and small inner gradients "
            "vanish; prefer bf16-mixed"
        )


def check_labels(inner_loop: InnerLoop, tasks: Tasks) -> Tensor:
    """Refuse outputs and targets that the loss cannot be taken of; see ``check_loss_on``.

    Args:
        inner_loop: Its model has stood the trial of the first batch, and may be called.
        tasks: Of the first batch; class indices are looked at in all of them.

    Returns:
        The predictions (n, ...) on the first task's query before adaptation.

    Raises:
        ValueError: Naming model, targets or loss, with the remedy.
    """
    query = tasks.query
    with torch.no_grad(), seeded(0, query.inputs.device):
        predictions: Tensor = inner_loop.model(query.inputs[0].clone())
    check_loss_on(inner_loop.loss, predictions, query.targets[0])
    for batch in (query, *tasks.support):
        if takes_class_indices(inner_loop.loss):
            check_class_indices(inner_loop.loss, predictions.shape[1], batch.targets)
    return predictions
