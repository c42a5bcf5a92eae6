"""The model that is trained, in a table: its parts, their sizes, and which of them adapt."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from rich.console import Console
from rich.table import Table
from torch import nn

from litmaml.inner.loop import InnerLoop

_MOST = 12
"""Parts of a model that are named."""


class LearnerSummary(ModelSummary):
    """Shows the model by its own name and the sizes of its parts, where Lightning would show the learner's."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            console = Console(stderr=True)
            learner: Any = pl_module
            loop: InnerLoop = learner.inner_loop
            if len(rows := _rows(loop)) > 1:
                table = Table("part", "kind")
                table.add_column("weights", justify="right")
                table.add_column("adapted", justify="right")
                for row in rows:
                    table.add_row(*row)
                console.print(table)
            for line in in_a_line(learner).split("; "):
                console.print(line, soft_wrap=True, highlight=False, markup=False)


def _rows(loop: InnerLoop) -> list[tuple[str, str, str, str]]:
    """Of each part of the model that has weights: its name, its kind, and how many weights it has and adapts."""
    fast = {*loop.fast_names}
    rows = []
    for name, part in loop.model.named_children():
        weights = {f"{name}.{inner}": weight.numel() for inner, weight in part.named_parameters()}
        adapted = sum(number for inner, number in weights.items() if inner in fast)
        if weights:
            total = sum(weights.values())
            said = "all" if adapted == total else f"{adapted:,}" if adapted else "none"
            rows.append((name, type(part).__name__, f"{total:,}", said))
    return rows if len(rows) <= _MOST else []


def in_a_line(learner: Any) -> str:
    """The model in a line, and the method."""
    loop, steps = learner.inner_loop, learner.inner_steps
    return (
        f"{size_of(loop.model)}; {steps} inner step{'s' * (steps != 1)} of {loop.optimizer!r}, "
        f"outer gradient {learner.outer_gradient!r}"
    )


def size_of(model: nn.Module) -> str:
    """A model's name with the number of its weights and their size.

    >>> size_of(nn.Linear(1000, 1000))
    'Linear, 1,001,000 weights (4.0 MB)'
    """
    weights = [*model.parameters()]
    taken = sum(weight.nbytes for weight in weights)
    size = f"{taken / 1e6:.1f} MB" if taken >= 1e6 else f"{taken / 1e3:.1f} kB" if taken >= 1e3 else f"{taken} B"
    return f"{type(model).__name__}, {sum(weight.numel() for weight in weights):,} weights ({size})"
