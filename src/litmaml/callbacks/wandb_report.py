"""Weights & Biases: a run that goes on where it stopped, its checkpoints, adaptation curves and episodes.

``configs/logger/wandb.yaml`` names the two classes. Nothing else imports this module, so that wandb need not be there.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import wandb
from litmaml.callbacks.best_checkpoint import best_checkpoint
from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import picture
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.metrics import value_of
from litmaml.learner.screen.results_table import describe_protocol
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.folder import CHECKPOINTS, LAST
from litmaml.runs.guarded_logger import guard
from litmaml.statistics.interval import Interval
from litmaml.tasks import Split, Tasks, chunks, select, stacks_of

STEP = "trainer/global_step"


class WandbReport(Callback):
    """What W&B shows of a run beside its metrics.

    After every validation and test the adaptation curves and a table of episodes; the best value of each validation
    metric in the run's summary; at the end of training the best and the last checkpoint as artifacts with the aliases
    ``best`` and ``latest``, which say how they were made and how good they are. Where a policy acts, a picture of its
    trajectories stands in the place of the episodes.

    Args:
        episodes: Rows of the table of episodes; 0 for no table.
        images: Query images in a row, spread evenly over the classes.

    Raises:
        ValueError: A number is negative.
    """

    def __init__(self, episodes: int = 8, images: int = 5) -> None:
        for name, value in (("episodes", episodes), ("images", images)):
            if value < 0:
                raise ValueError(f"{name}: cannot be negative, got {value}")
        self.episodes, self.images = episodes, images
        self._rows: list[dict[str, Any]] = []
        self._drawn: dict[str, Any] = {}
        self._validation: dict[str, float] = {}

    # Summaries

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        logger = _logger_of(trainer)
        if logger is None:
            if not getattr(trainer, "fast_dev_run", False):
                rank_zero_warn("WandbReport: trainer.logger has no WandbLogger to report to")
        elif trainer.is_global_zero and isinstance(pl_module, MetaLearner):
            goals = {"loss": False} | {name: metric.higher_is_better for name, metric in pl_module.metrics.items()}
            if pl_module.experience is not None:
                goals = dict(pl_module.experience.goals())
            guard(logger).call(_define_summaries, logger, goals)

    # Adaptation curves and episodes

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._gather(trainer, pl_module, batch, "val")

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._gather(trainer, pl_module, batch, "test")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and isinstance(pl_module, MetaLearner):
            self._validation = {name: curve[-1].mean for name, curve in pl_module.results.items()}
            self._show(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, MetaLearner):
            self._show(trainer, pl_module, "test")

    def _gather(self, trainer: Trainer, learner: LightningModule, batch: Any, split: Split) -> None:
        logger = _logger_of(trainer)
        if logger is None or not trainer.is_global_zero or trainer.sanity_checking:
            return
        if not isinstance(learner, MetaLearner):
            return
        if learner.experience is not None:
            if not self._drawn:
                guard(logger).compute(self._draw, learner, stacks_of(batch)[0], split)
            return
        for tasks in stacks_of(batch):
            if len(self._rows) < self.episodes and isinstance(tasks, Tasks):
                guard(logger).compute(self._adapt, trainer, learner, tasks, split)

    def _draw(self, learner: MetaLearner, tasks: Tasks, split: Split) -> None:
        assert learner.experience is not None
        drawn = learner.experience.draw(learner.inner_loop, tasks, learner.evaluation_steps, split)
        if drawn is not None:
            self._drawn = {f"{split}/{drawn.name}": wandb.Image(_pixels(drawn.figure))}
            if drawn.film is not None:
                self._drawn[f"{split}/film"] = wandb.Video(io.BytesIO(drawn.film), format="gif")

    def _adapt(self, trainer: Trainer, learner: MetaLearner, batch: Tasks, split: Split) -> None:
        """Adapt to the first few tasks once more, now keeping what is to be shown."""
        data: Any = getattr(trainer, "datamodule", None)
        source = getattr(data, "tasks", None)
        for task in chunks(select(batch, slice(self.episodes - len(self._rows))), 1):
            number = int(task.numbers[0])
            names = source.classes_of(split, number, data.seed) if isinstance(source, ImageTasks) else None
            with trainer.precision_plugin.forward_context():
                self._rows.append(_episode(learner, task, names, self.images))

    def _show(self, trainer: Trainer, learner: MetaLearner, stage: Split) -> None:
        logger, rows, drawn = _logger_of(trainer), self._rows, self._drawn
        self._rows, self._drawn = [], {}
        if logger is not None and trainer.is_global_zero:
            results, step = dict(learner.results), trainer.global_step
            guard(logger).call(_show_evaluation, logger, stage, results, rows, drawn, step)

    # Checkpoints

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["validation"] = dict(self._validation)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_checkpoints(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # A preempted run, which ends by SystemExit, has no time to upload, and goes on later.
        if not isinstance(exception, SystemExit):
            self._log_checkpoints(trainer, pl_module)

    def _log_checkpoints(self, trainer: Trainer, learner: LightningModule) -> None:
        logger, best = _logger_of(trainer), best_checkpoint(trainer)
        if logger is None or not trainer.is_global_zero or not isinstance(learner, MetaLearner):
            return
        last = Path(trainer.default_root_dir) / CHECKPOINTS / LAST
        protocol = describe_protocol(trainer, learner, "val")
        # The last one last: the server, too, calls "latest" what came latest.
        for alias, path in (("best", best), ("latest", last)):
            if path is not None and path.is_file():
                guard(logger).call(_show_checkpoint, logger, alias, path, protocol)


def _logger_of(trainer: Trainer) -> WandbLogger | None:
    """The logger to W&B; None where the trainer has none."""
    return next((logger for logger in trainer.loggers if isinstance(logger, WandbLogger)), None)


def _define_summaries(logger: WandbLogger, goals: Mapping[str, bool | None]) -> None:
    for name, higher in goals.items():
        if higher is not None:
            summary = "max" if higher else "min"
            logger.experiment.define_metric(f"val/{name}", step_metric=STEP, summary=summary)


def _show_evaluation(
    logger: WandbLogger,
    stage: Split,
    results: Mapping[str, Sequence[Interval]],
    rows: Sequence[Mapping[str, Any]],
    drawn: Mapping[str, Any],
    step: int,
) -> None:
    run = logger.experiment
    shown: dict[str, Any] = {f"{stage}/adaptation/{name}": _chart(name, curve) for name, curve in results.items()}
    if rows:
        # Tasks of unequal size have more or fewer query images.
        columns: list[str | int] = list(dict.fromkeys(name for row in rows for name in row))
        cells = [[_image(v) if isinstance(v := row.get(str(name)), Query) else v for name in columns] for row in rows]
        shown[f"{stage}/episodes"] = wandb.Table(columns, cells)
    run.log({**shown, **drawn, STEP: step})
    if stage == "test":
        run.summary.update({f"test/{name}_half_width": curve[-1].half_width for name, curve in results.items()})


def _show_checkpoint(logger: WandbLogger, alias: str, path: Path, protocol: Mapping[str, Any]) -> None:
    run, saved = logger.experiment, read_checkpoint(path)
    quality = saved.get("validation", {})
    metadata = {**protocol, **quality, "epoch": saved["epoch"], "step": saved["global_step"]}
    del metadata["checkpoint"]  # where training began
    artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=metadata)
    artifact.add_file(str(path), name=path.name)
    run.log_artifact(artifact, aliases=[alias])
    if alias == "best":
        run.summary.update({f"best/{name}": value for name, value in quality.items()})


def _chart(name: str, curve: Sequence[Interval]) -> Any:
    """A metric after 0, 1, ... inner steps, with its 95% interval where that is known."""
    lines = {"mean": [result.mean for result in curve]}
    if all(math.isfinite(result.half_width) for result in curve):
        lines["lower 95%"] = [result.mean - result.half_width for result in curve]
        lines["upper 95%"] = [result.mean + result.half_width for result in curve]
    return wandb.plot.line_series(
        list(range(len(curve))), list(lines.values()), list(lines), f"{name} after adaptation", "inner steps"
    )


def _pixels(figure: Figure) -> Any:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # of matplotlib
    return np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]  # likewise


class Query(NamedTuple):
    """A query image, with its class and what it was taken for."""

    pixels: Tensor
    caption: str


def _image(query: Query) -> Any:
    return wandb.Image(picture(query.pixels), caption=query.caption)


def _episode(learner: MetaLearner, task: Tasks, names: Sequence[str] | None, images: int) -> dict[str, Any]:
    """The table's row of one task, by column."""
    inputs, targets = task.query
    metrics: Any = learner.metrics  # metrics in a ModuleDict lose their type
    weights = list(learner.inner_loop.path(task, learner.evaluation_steps))
    with torch.no_grad():
        before, after = (learner.inner_loop.predict(fast, inputs) for fast in (weights[0], weights[-1]))
    row: dict[str, Any] = {"task": int(task.numbers[0])}
    if names is not None:
        row["classes"] = ", ".join(names)
    for when, predictions in (("before", before), ("after", after)):
        for name, metric in metrics.items():
            row[f"{name} {when}"] = float(value_of(metric.clone(), predictions[0], task.query.task(0).targets))
        row[f"loss {when}"] = float(learner.inner_loop.loss_of(predictions, targets))
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
        return row
    labelled = not targets.is_floating_point() and (targets.ndim, after.ndim) == (2, 3)  # one class for each example
    if labelled and inputs.ndim == 5 and inputs.shape[2] in (1, 3):
        guesses, count = after[0].argmax(1).tolist(), len(targets[0])
        for place in range(min(images, count)):
            k = place * count // min(images, count)
            true, guess = (_name(i, names) for i in (int(targets[0, k]), guesses[k]))
            row[f"query {place + 1}"] = Query(inputs[0, k].detach().cpu(), f"{true} → {guess}")
    return row


def _name(index: int, names: Sequence[str] | None) -> str:
    """A class's name; the number itself where there is none, as for what the loss ignores."""
    return names[index] if names is not None and 0 <= index < len(names) else str(index)
