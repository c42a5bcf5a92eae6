"""The record of what a run was made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from litmaml.runs.configuration import write_configuration
from litmaml.runs.owner import FolderOwner


class SaveConfig(SaveConfigCallback):
    """Writes the configuration to the logs, and that of ``fit`` to ``config.yaml`` in the run's folder.

    ``recorded``: what was typed and resolved, without what follows from where this run lies and began.
    """

    def __init__(self, *args: Any, recorded: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recorded = recorded
        self.owner: FolderOwner | None = None
        self._written = False
        self._began: int | None = None  # the step that training began at, once it has

    def stepped(self, trainer: Trainer) -> bool:
        """Whether the run has made a step of its own, beyond those of the checkpoint that it goes on from."""
        return self._began is not None and trainer.global_step > self._began

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            # A test in the same log leaves standing how the model was trained.
            logger.log_hyperparams(self.recorded if stage == "fit" else {stage: self.recorded})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = trainer.global_step
        # Not before: what is typed may be refused, and is then not what the run in this folder was made with.
        if trainer.ckpt_path is None:
            self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # A run that goes on may fail in its first step, and is then still the one that is recorded.
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and not self._written:
            self._written = True
            if self.owner is not None:
                self.owner.check()
            write_configuration(Path(trainer.default_root_dir), self.recorded)
