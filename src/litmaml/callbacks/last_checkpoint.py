"""The checkpoint that training goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from litmaml.learner.late.learner import LateLearner
from litmaml.runs.folder import CHECKPOINTS, LAST
from litmaml.runs.nameable import imports_again
from litmaml.runs.owner import FolderOwner


class LastCheckpoint(Checkpoint):
    """Writes ``checkpoints/last.ckpt`` after every epoch and validation, and wherever training ends.

    It ends also in the middle of an epoch: by ``max_steps``, ``max_time`` or an exception. The run then resumes with
    the next task. Nothing is written of a state that an exception broke off inside an outer step, nor before the first
    step of a run that goes on from a checkpoint: what is typed may yet prove impossible, and would stand in its place.

    ``owner``: of the run's folder; it is asked before every checkpoint whether the folder is still its own.
    ``configuration``: of the run, which every checkpoint records.
    """

    looks_at_weights = False

    def __init__(self) -> None:
        self.owner: FolderOwner | None = None
        self.configuration: dict[str, Any] = {}
        self._stepping = False
        self._began: int | None = None  # the step that training began at, once it has
        self._written = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = trainer.global_step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stepping = False
        # Lightning counts an epoch that it breaks off as a whole one, so that its end is too late.
        loop = trainer.fit_loop.epoch_loop
        # (In the first step after resuming, ``done`` waits for a validation.)
        if not trainer.is_last_batch and (loop.done or loop._is_training_done):
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches:
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SystemExit) or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]  # set outside its class
            return
        if trainer.state.fn != "fit" or not self._stepped(trainer):
            return
        # Of a step that is taken back nothing is left half done.
        taken_back = isinstance(pl_module, LateLearner) and pl_module.take_back()
        if not self._stepped(trainer) or trainer.global_step <= self._written:
            return
        step = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.current
        if self._stepping and not taken_back and step.ready != step.completed:
            rank_zero_info("broken off inside an outer step: the last checkpoint stays as it is")
            return
        saved = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        # A validation that is broken off cannot go on: its results are not in a checkpoint.
        validation = saved["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        saved["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = _ended(validation)
        path = _path(trainer)
        try:
            # Without a barrier, at which the other processes may never come.
            trainer.strategy.save_checkpoint(saved, path)
        except OSError as error:  # perhaps what ended the run
            rank_zero_info(f"{error}")
            return
        rank_zero_info(f"stopped after step {trainer.global_step}; {resumed_by(trainer, path)}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.owner is not None and trainer.is_global_zero:
            self.owner.check()
        checkpoint["configuration"], checkpoint["made_in"] = self.configuration, str(Path.cwd())

    def _save(self, trainer: Trainer) -> None:
        if not trainer.fast_dev_run and self._stepped(trainer):  # type: ignore[attr-defined]  # set outside its class
            trainer.save_checkpoint(_path(trainer), weights_only=False)
            self._written = trainer.global_step

    def _stepped(self, trainer: Trainer) -> bool:
        return self._began is not None and trainer.global_step > self._began


def resumed_by(trainer: Trainer, path: Path) -> str:
    """How a run is gone on with from its last checkpoint, for which the user's own modules have to be imported."""
    parts = (trainer.lightning_module, getattr(trainer, "datamodule", None))
    return f"resume with --ckpt_path {path}{imports_again(*(dict(part.hparams) for part in parts if part is not None))}"


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / CHECKPOINTS / LAST


def _ended(progress: dict[str, Any]) -> dict[str, Any]:
    """The counts of a validation as after its end."""
    counts = {part: dict.fromkeys(c, c["ready"]) for part, c in progress.items() if isinstance(c, dict)}
    return progress | counts
