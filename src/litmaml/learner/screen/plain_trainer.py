"""What a learner shows in a trainer that has nothing but Lightning's own callbacks, in a program or a notebook."""

from __future__ import annotations

import importlib
import io
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary, RichModelSummary, RichProgressBar, TQDMProgressBar
from rich.console import Console

from litmaml.learner.screen.results_table import Evaluated, describe_protocol, print_results, title_of
from litmaml.learner.screen.run_progress import RunProgress
from litmaml.learner.screen.summary import LearnerSummary
from litmaml.statistics.plots import adaptation_figure
from litmaml.tasks import Split


def show_in(trainer: Trainer) -> None:
    """Put a learner's own bar, model and results in the place of Lightning's, where nobody asked for others."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set outside its class
    for place, callback in enumerate(callbacks):
        if type(callback) in (RichProgressBar, TQDMProgressBar):
            callbacks[place] = RunProgress()
        elif type(callback) in (ModelSummary, RichModelSummary) and callback._max_depth == 1:  # type: ignore[attr-defined]
            callbacks[place] = LearnerSummary()
    if not any(getattr(callback, "shows_results", False) for callback in callbacks):
        callbacks.insert(0, Results())


class Results(Callback):
    """The table of a validation or test; in a notebook also the picture, of which no file is written."""

    shows_results = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._instead(trainer.validate_loop)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._instead(trainer.test_loop)

    def _instead(self, loop: Any) -> None:
        """Show the results in the place of Lightning's table, if that is wanted."""
        self._wanted, loop.verbose = bool(loop.verbose), False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._show(trainer, cast(Evaluated, pl_module), "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, cast(Evaluated, pl_module), "test")

    def _show(self, trainer: Trainer, learner: Evaluated, split: Split) -> None:
        if not self._wanted or not trainer.is_global_zero:
            return
        protocol = describe_protocol(trainer, learner, split)
        print_results(learner.results, protocol, learner.baseline_results, learner.source_results)
        if Console().is_jupyter:
            written = io.BytesIO()
            figure = adaptation_figure(learner.results, title_of(protocol), learner.baseline_results)
            figure.savefig(written, dpi=80)
            display = importlib.import_module("IPython.display")
            display.display(display.Image(written.getvalue()))
