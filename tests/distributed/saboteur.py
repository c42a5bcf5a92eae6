"""What tests load into training processes: callbacks that disturb and take notes, and tasks that cannot be learnt."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from litmaml.data import Sinusoid
from litmaml.engine import convolution
from litmaml.engine.convolution import Grouped
from litmaml.learner.meta_learner import MetaLearner
from litmaml.outer import convolution_choice, estimators
from litmaml.tasks import Split, Tasks


class Saboteur(Callback):
    """Sends a real signal to its own process while a batch is being computed, once a folder.

    Args:
        name: SIGTERM, SIGUSR1 or SIGKILL.
        step: The outer step before which it comes.
        rank: The process that gets it.
    """

    def __init__(self, name: str, step: int, rank: int = 0) -> None:
        self.name, self.step, self.rank = name, step, rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), getattr(signal, self.name))


class Hanging(Callback):
    """Stands still on one rank before an outer step, for an hour, and leaves its process's number in a file."""

    def __init__(self, folder: str, step: int, rank: int = 1) -> None:
        self.folder, self.step, self.rank = Path(folder), step, rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            (self.folder / "pid").write_text(str(os.getpid()))
            time.sleep(3600)


class Notes(Callback):
    """Writes what each rank saw to RANK.json: numbers of its tasks by step, first entries of its directions."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.tasks: list[list[int]] = []
        self.directions: list[float] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        draw = vars(estimators)["normal_directions"]

        def noting(*arguments: Any) -> tuple[dict[str, Tensor], ...]:
            drawn: tuple[dict[str, Tensor], ...] = draw(*arguments)
            for step in drawn:
                self.directions += next(iter(step.values())).flatten(1)[:, 0].tolist()  # of each task
            return drawn

        vars(estimators)["normal_directions"] = noting

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.tasks.append(batch.numbers.tolist())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        noted = {"tasks": self.tasks, "directions": self.directions, "world": trainer.world_size}
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(noted))


class LikeGpus(Callback):
    """Lets each process take its CPU for a GPU, of which only the first computes grouped convolutions faster; writes to
    RANK.json how often this process measured, and what it took."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.measured = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        def seconds(*_: Any) -> float:
            self.measured += 1
            return float(bool(Grouped.entered) != (trainer.global_rank == 0))

        vars(convolution_choice).update(_on_gpu=bool, seconds=seconds)
        vars(convolution)["_are_own"] = torch._C._functorch.is_batchedtensor

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        noted = {"measured": self.measured, "grouped": cast(MetaLearner, pl_module).inner_loop.grouped}
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(noted))


class Spoilt(Sinusoid):
    """The first four tasks of validation have targets whose squares are not finite in float32."""

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        tasks = super().sample(split, numbers, seed)
        if split == "val":
            for k, number in enumerate(numbers):
                if number < 4:
                    tasks.support[0].targets[k] = 1e38
        return tasks
