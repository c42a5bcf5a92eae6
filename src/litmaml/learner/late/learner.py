"""A learner whose steps may be looked at late, and what has to be looked at before its weights go anywhere."""

from __future__ import annotations

from abc import ABC
from typing import Any

from litmaml.learner.evaluated import EvaluatedLearner
from litmaml.learner.late.check import LateCheck


class LateLearner(EvaluatedLearner, ABC):
    """A learner whose weights go into no checkpoint, validation or epoch's end before its steps were looked at.

    Lightning calls these methods by their names, so they stand in a class of their own below the learner's.
    """

    looks_at_weights = False
    """Whether the hooks of this class look at the weights in a training step; see ``may_be_late``."""
    _late: LateCheck

    @property
    def late(self) -> bool:
        """Whether the steps of this run are looked at late."""
        return self._late.used

    @property
    def shown_late(self) -> list[str]:
        """What a bar takes from the logs by itself: Lightning would read it from the device in each step."""
        return [] if self._late.reads_bar else [f"train/{name}" for name in ("loss", *self.metrics)]

    def take_back(self) -> bool:
        """For a run that is broken off: take back steps that were not finite; whether there were any."""
        return self._late.take_back()

    def _writes_line(self) -> bool:
        """Whether Lightning writes a line to the logs after this outer step."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set outside its class
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Other hooks follow here, of callbacks that may do anything.
        trainer = self.trainer
        if trainer.should_stop or trainer.fit_loop.epoch_loop._is_training_done:
            self._late.settle()

    def on_validation_model_zero_grad(self) -> None:
        """The first that Lightning calls when a validation is due in training."""
        self._late.settle()
        super().on_validation_model_zero_grad()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._late.settle()
        super().on_save_checkpoint(checkpoint)

    def on_train_epoch_end(self) -> None:
        self._late.settle()  # also where something else than a hook ended the epoch, such as a signal

    def on_train_end(self) -> None:
        self._late = LateCheck(self)  # without the memory
