"""Stopping when the machine is wanted back, so that the next run goes on where this one was."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from litmaml.callbacks.last_checkpoint import resumed_by
from litmaml.runs.folder import CHECKPOINTS, LAST

REQUEUE_STATUS = 75
"""The exit status of a run that was asked to stop and can be resumed (EX_TEMPFAIL)."""


INTERRUPTED_STATUS = 128 + signal.SIGINT
"""The exit status of a run that Ctrl-C stopped, as of any program that it stops."""


def _stopping() -> list[signal.Signals]:
    """The signals by which the machine is wanted back, or the terminal is gone: unless ``nohup`` has it ignored."""
    hangs_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGUSR1, *([signal.SIGHUP] if hangs_up else [])]


@contextmanager
def requeued_before_training() -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 and SIGHUP end the program with status 75 also while there is nothing to save yet."""

    def end(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):  # of a terminal that is gone
            os.write(2, f"{signal.Signals(number).name}: stopped before or after training\n".encode())
        raise SystemExit(REQUEUE_STATUS)

    if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
        yield
        return
    before = {number: signal.signal(number, end) for number in _stopping()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Preemption(Callback):
    """On SIGTERM, SIGUSR1 or SIGHUP to any rank, all stop after the same batch, checkpoint and exit with status 75.

    So they do on Ctrl-C (SIGINT), with status 130; a second one stops at once and writes nothing of a step half done.

    The signal handler only sets a flag. After every outer step the ranks ask each other whether one has it
    set. If so, they write ``checkpoints/last.ckpt`` and leave with status 75, on which
    ``scripts/slurm/train.sbatch`` requeues; ``litmaml fit --ckpt_path last`` goes on with the next batch and
    ends with the same weights as if nothing had happened. A validation, and the last batch before it, are
    finished first. (``torchrun`` reports status 1 whatever its processes exit with.) Without checkpoints
    (``trainer.enable_checkpointing`` is false) the run ends with 128 and the signal's number.

    Args:
        save_every_minutes: Write ``last.ckpt`` also in the middle of an epoch, this often, against what gives
            no signal (a power cut, ``kill -9``).

    Raises:
        ValueError: save_every_minutes is not positive.
    """

    looks_at_weights = False

    def __init__(self, save_every_minutes: float = 10.0) -> None:
        if not save_every_minutes > 0:
            raise ValueError(f"save_every_minutes: has to be above 0, got {save_every_minutes}")
        self.save_every_minutes = save_every_minutes
        self._asked: signal.Signals | None = None
        self._saved = time.monotonic()

    # Both come after Lightning has set its own handlers, which would end the run with status 0 and without a
    # checkpoint. When the run ends, Lightning puts back what was there before.
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Between accumulated batches there are gradients that no checkpoint holds; an epoch's last batch is
        # followed by validation and the checkpoints of the epoch.
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        saves = trainer.checkpoint_callback is not None
        due = saves and trainer.is_global_zero and time.monotonic() - self._saved > 60 * self.save_every_minutes
        if not trainer.strategy.reduce_boolean_decision(due or self._asked is not None, all=False):
            return
        stop = trainer.strategy.reduce_boolean_decision(self._asked is not None, all=False)
        path = Path(trainer.default_root_dir) / CHECKPOINTS / LAST
        if saves:
            trainer.save_checkpoint(path, weights_only=False)
        self._saved = time.monotonic()
        if stop:
            requeue = trainer.strategy.reduce_boolean_decision(self._asked not in (None, signal.SIGINT), all=False)
            cause = self._asked.name if self._asked else "a signal to another process"
            how = resumed_by(trainer, path) if saves else "without a checkpoint: these are switched off"
            rank_zero_info(f"{cause}: stopped after step {trainer.global_step}; {how}")
            if _launched_by_first(trainer):
                raise SystemExit(0)
            if not requeue:
                raise SystemExit(INTERRUPTED_STATUS)
            raise SystemExit(REQUEUE_STATUS if saves else 128 + (self._asked or signal.SIGTERM))

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for number in (*_stopping(), signal.SIGINT):
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._asked is not None:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            # Not by a logger, which the signal may have come in the middle of.
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")
        self._asked = signal.Signals(number)


def _launched_by_first(trainer: Trainer) -> bool:
    """Whether the first process started this one, and would be killed if it ended with any status but 0."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
