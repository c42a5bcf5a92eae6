"""Callbacks that take notes of what training sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Counting(Callback):
    """Appends the task numbers of every training batch to seen-RANK.jsonl in the current folder."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        with Path(f"seen-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(batch.numbers.tolist()) + "\n")
