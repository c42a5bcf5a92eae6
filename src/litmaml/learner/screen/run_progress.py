"""How far a run has come: a bar of 80 columns with the time left, a line in a notebook, a line a minute in a file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from litmaml.learner.screen.notebook_line import NotebookLine
from litmaml.learner.screen.pace import Pace, done_of, total_of
from litmaml.shown import LINE_EVERY, duration

_EVERY = 0.2
"""Seconds between two looks at the metrics, for which a GPU has to be waited for."""
_NOTEBOOK_EVERY = 0.5
"""Seconds between two lines in a notebook, each of which takes the place of the one before."""


class RunProgress(ProgressBar):
    """A bar of the run in a terminal, a line in a notebook that is written over, and a line a minute in a file."""

    looks_at_weights = False

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._line: NotebookLine | None = None
        self._task = TaskID(0)
        self._what, self._done, self._pace = "", 0, Pace()
        self._looked = self._wrote = self._began = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def __getstate__(self) -> dict[str, Any]:
        """For a process that is started with the trainer: a bar has a thread, which cannot be handed over."""
        return self.__dict__ | {"_bar": None, "_line": None, "_console": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_console": Console(stderr=True)})

    # In training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pace = Pace()
        self._start("train")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pace.resume()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._pace.batch()
        now, last = time.monotonic(), done_of(trainer) >= total_of(trainer)
        if self._enabled and (last or now - self._looked >= _EVERY):
            self._looked = now
            self._show_training(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.monotonic()
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._start("validate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._pace.validated(self._began)
            if self._enabled:
                self._show_training(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._enabled and self._bar is None and trainer.fit_loop.total_batch_idx >= 0:
            self._write(f"{_place(trainer)}  {measured(_shown(trainer))}")
        self._stop()

    def _show_training(self, trainer: Trainer) -> None:
        total, left = total_of(trainer), self._pace.left(trainer)
        if self._bar is not None:
            self._bar.update(
                self._task,
                description=_epoch(trainer),
                completed=done_of(trainer),
                total=None if total == inf else total,
                left="" if left is None else f"{duration(left)} left" if left else "",
                measured=measured(_shown(trainer)),
            )
        elif self._due():
            told = "" if left is None else f", {duration(left)} left"
            self._write(f"{_place(trainer)}{told}  {measured(_shown(trainer))}")

    # In validation, test and prediction by themselves

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start("predict")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._show_batch(trainer.num_val_batches)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._show_batch(trainer.num_test_batches)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._show_batch(trainer.num_predict_batches)

    def _show_batch(self, batches: Sequence[float]) -> None:
        """Count one of the batches of all loaders."""
        self._done, total = self._done + 1, sum(batches)
        left = (time.monotonic() - self._began) / self._done * (total - self._done)
        told = f"{duration(left)} left" if 0 < left < inf else ""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, total=None if total == inf else total, left=told)
        elif self._enabled and (self._due() or (self._line is not None and self._done == total)):
            self._write(f"{self._what} {self._done}/{total}" + (f", {told}" if told else ""))

    # Before the table of results is written below it

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._stop()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def _start(self, what: str) -> None:
        self._what, self._done, self._began = what, 0, time.monotonic()
        self._wrote = self._began
        self._looked = 0.0
        # Rich's own bar would need ipywidgets there, and shows nothing without.
        self._line = NotebookLine() if self._console.is_jupyter else None
        if not self._enabled or self._line is not None or not self._console.is_terminal:
            return
        # A bar of 8 leaves half of 80 columns to what is measured.
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            _Count(),
            TextColumn("{task.fields[left]}"),
            _Measured(),
        )
        self._bar = Progress(*columns, console=self._console)
        self._bar.start()
        self._task = self._bar.add_task(what, total=None, left="", measured="")

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _due(self) -> bool:
        return time.monotonic() - self._wrote >= (LINE_EVERY if self._line is None else _NOTEBOOK_EVERY)

    def _write(self, line: str) -> None:
        self._wrote = time.monotonic()
        if self._line is not None:
            self._line.show(line)
            return
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class _Count(ProgressColumn):
    """Batches that are done, of how many if that is known."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed:.0f}" + ("" if task.total is None else f"/{task.total:.0f}"))


class _Measured(ProgressColumn):
    """What was measured, as far as it fits in the line."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["measured"], no_wrap=True, overflow="ellipsis")


def _epoch(trainer: Trainer) -> str:
    most = trainer.max_epochs
    # Lightning counts an epoch that it breaks off as a whole one; begun it has no more than these.
    epoch = min(trainer.current_epoch + 1, max(1, trainer.fit_loop.epoch_progress.current.ready))
    if most is None or most < 0:
        return f"epoch {epoch}"
    return f"epoch {min(epoch, most)}/{most}"


def _place(trainer: Trainer) -> str:
    total = total_of(trainer)
    return f"{_epoch(trainer)}, batch {done_of(trainer)}" + ("" if total == inf else f"/{total:.0f}")


def _shown(trainer: Trainer) -> dict[str, Any]:
    """What Lightning has for bars, and what a learner keeps from it that does not wait for the device in each step."""
    kept, logged = getattr(trainer.lightning_module, "shown_late", ()), trainer.callback_metrics
    return trainer.progress_bar_metrics | {name: logged[name] for name in kept if name in logged}


def measured(metrics: Mapping[str, Any]) -> str:
    """Metrics in a line by short names: training loss, a metric, the same of validation, and then the others.

    >>> measured({"train/loss": 0.5, "train/accuracy": 0.75, "val/loss": 1.0, "val/accuracy": 0.625})
    'loss 0.500  accuracy 0.750  val 0.625  val loss 1.000'
    """
    numbers = {name: float(value) for name, value in metrics.items() if name != "v_num"}
    training = {name.removeprefix("train/"): number for name, number in numbers.items() if not name.startswith("val/")}
    names = sorted(training, key=lambda name: name != "loss")
    of_validation = {name.removeprefix("val/"): number for name, number in numbers.items() if name.startswith("val/")}
    first = next((name for name in names if name != "loss" and name in of_validation), "loss")
    told = [f"{name} {training[name]:.3f}" for name in names[:2]]
    if first in of_validation:
        told.append(f"val {of_validation.pop(first):.3f}")
    told += [f"{name} {training[name]:.3f}" for name in names[2:]]
    return "  ".join(told + [f"val {name} {number:.3f}" for name, number in of_validation.items()])
