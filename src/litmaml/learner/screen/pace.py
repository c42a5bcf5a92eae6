"""How long the rest of a run will take, by the batches and validations so far."""

from __future__ import annotations

import time
from math import ceil, inf

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer


class Pace:
    """The time that batches and validations take, from which the rest of the run is told.

    The first batch is left out where there are others: it is tried, and programs are compiled in it.
    """

    def __init__(self) -> None:
        self._batches, self._seconds, self._first = 0, 0.0, 0.0
        self._validation = 0.0
        self._last = time.monotonic()

    def resume(self) -> None:
        """Begin to wait for the next batch."""
        self._last = time.monotonic()

    def batch(self) -> None:
        """Count a batch that has ended."""
        now = time.monotonic()
        if self._first == 0:
            self._first = now - self._last
        else:
            self._batches, self._seconds = self._batches + 1, self._seconds + now - self._last
        self._last = now

    def validated(self, began: float) -> None:
        """Count a validation that began at a time and has ended."""
        self._last = time.monotonic()
        self._validation = self._last - began

    def left(self, trainer: Trainer) -> float | None:
        """Seconds until the run ends; None where it has no end."""
        done, total = done_of(trainer), total_of(trainer)
        of_timers = [left for timer in trainer.callbacks if (left := _left_of(timer)) is not None]  # type: ignore[attr-defined]  # set outside its class
        if total == inf:
            return min(of_timers, default=None)
        batch = self._seconds / self._batches if self._batches else self._first
        between = trainer.num_training_batches * (trainer.check_val_every_n_epoch or 1)
        if isinstance(trainer.val_check_batch, int) and trainer.val_check_batch < trainer.num_training_batches:
            between = trainer.val_check_batch
        validations = ceil((total - done) / between) if between else 0
        return min([max(0, total - done) * batch + validations * self._validation, *of_timers])


def _left_of(callback: object) -> float | None:
    return callback.time_remaining() if isinstance(callback, Timer) else None


def done_of(trainer: Trainer) -> int:
    """The training batches of the run that have been taken."""
    return trainer.fit_loop.total_batch_idx + 1


def total_of(trainer: Trainer) -> float:
    """The training batches of the whole run; infinite where it has no end."""
    totals = [inf]
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        totals.append(trainer.max_epochs * trainer.num_training_batches)
    if trainer.max_steps > 0:
        totals.append(trainer.max_steps * trainer.accumulate_grad_batches)
    return min(totals)
