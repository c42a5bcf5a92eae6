"""A fine-tuning as a run of Weights & Biases.

Only ``litmaml finetune --wandb`` imports this module, so that wandb need not be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import wandb
from litmaml.data.images import picture
from litmaml.finetuning.fine_tuning import FineTuned
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint
from litmaml.finetuning.row_report import predicted_rows
from litmaml.finetuning.row_tuning import RowsTuned
from litmaml.runs.artifact import PREFIX
from litmaml.runs.checkpoint import sha256
from litmaml.runs.folder import folder_of
from litmaml.runs.wandb_logger import ID_FILE, ResumableWandbLogger, remembered_id
from litmaml.statistics.confusion import Confusion

_X = "inner_step"
_PICTURED = 100
"""Rows of the table of predictions: with a picture each, more are slow to load."""


class _Logged(NamedTuple):
    """What is logged of a fine-tuning: its config, a line for each inner step, the summary, and tables."""

    config: dict[str, Any]
    curve: list[dict[str, float]]
    quality: dict[str, Any]
    tables: dict[str, Any]


def report_to_wandb(result: FineTuned | RowsTuned, folder: Path, project: str, arguments: Mapping[str, Any]) -> None:
    """Log a fine-tuning as a W&B run of the job type ``finetune``.

    Its config names what was asked for and the meta-checkpoint that it started from; the history has a line an inner
    step, the summary the accuracy with its interval, or the scores of rows. Tables show the classes, and up to 100
    predictions, evenly spread, with their images. What was written to the folder is an artifact ``model-RUN``. A
    meta-checkpoint that was an artifact becomes an input of the run, so that W&B draws the line between them.

    Args:
        result: The fine-tuning.
        folder: What ``litmaml finetune`` wrote; W&B's own files go there too.
        project: Of W&B; entity, name, tags and mode are those of WANDB_ENTITY, WANDB_NAME, WANDB_TAGS and WANDB_MODE.
        arguments: What was asked for, by name; plain data.
    """
    written = sorted(file for file in folder.iterdir() if file.is_file())
    logged = _of_rows(result) if isinstance(result, RowsTuned) else _of_images(result)
    run = ResumableWandbLogger(str(folder), project, job_type="finetune").experiment
    try:
        run.config.update({**arguments, **logged.config})
        use_checkpoint(run, result.checkpoint)
        for name in logged.curve[0]:
            run.define_metric(name, step_metric=None if name == _X else _X)
        for line in logged.curve:
            run.log(line)
        run.log({**logged.tables, **{file.stem: wandb.Image(str(file)) for file in written if file.suffix == ".png"}})
        run.summary.update(logged.quality)
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata={**logged.config, **logged.quality})
        for file in written:
            artifact.add_file(str(file))
        run.log_artifact(artifact)
    finally:
        run.finish()


def use_checkpoint(run: Any, checkpoint: MetaCheckpoint) -> None:
    """Make a meta-checkpoint that is an artifact an input of a W&B run; offline there is nobody to ask for it."""
    if checkpoint.name.startswith(PREFIX) and not run.offline and not run.disabled:
        run.use_artifact(checkpoint.name.removeprefix(PREFIX))


def _of_images(result: FineTuned) -> _Logged:
    config = {
        **_origin(result),
        "image_format": None if result.model.image_format is None else asdict(result.model.image_format),
        "classes": result.classes,
        "support_images": result.support,
        "new_head": " and ".join(result.tuner.replaced_heads) or None,
    }
    return _Logged(config, _curve(result), _quality(result), _tables(result))


def _of_rows(result: RowsTuned) -> _Logged:
    made = result.made
    config = {
        **_origin(result),
        "features": [*made.features],
        "targets": [*made.targets],
        "classes": None if made.classes is None else [*made.classes],
        "support_rows": result.support,
    }
    curve = [{_X: j, "support/loss": step.loss} for j, step in enumerate(result.curve)]
    for line, loss in zip(curve, result.query_losses, strict=False):
        line["query/loss"] = loss
    quality: dict[str, Any] = {"measured_on": result.method}
    for score in result.scores:
        quality |= {f"{score.of}: {score.measure}": score.value, f"{score.of}: without a model": score.plain}
    columns, *rows = predicted_rows(result.rows, result.predictions, made)
    if made.classes is None:  # numbers as such, to be drawn
        rows = [[None if cell == "" else float(str(cell)) for cell in row] for row in rows]
    table = wandb.Table([*map(str, columns)], [[*rows[k]] for k in _spread(len(rows))])
    return _Logged(config, curve, quality, {"predictions": table})


def _origin(result: FineTuned | RowsTuned) -> dict[str, Any]:
    """What was adapted: the checkpoint's name, its content, and the W&B run that trained it, as far as they are
    known."""
    checkpoint = result.checkpoint
    origin = {"name": checkpoint.name}
    if checkpoint.file is not None:
        origin["sha256"] = sha256(checkpoint.file)
        remembered = folder_of(checkpoint.file) / ID_FILE
        if remembered.is_file():
            origin["wandb_run"] = remembered_id(remembered)
    return {
        "meta_checkpoint": origin,
        "meta_training": dict(checkpoint.learner.hparams),
        "inner_steps": len(result.curve) - 1,
        "frozen_batch_norms": result.tuner.frozen_layers,
    }


def _curve(result: FineTuned) -> list[dict[str, float]]:
    """What was measured after 0, 1, ... inner steps."""
    lines = []
    for j, step in enumerate(result.curve):
        line = {_X: j, "support/loss": step.loss, "support/accuracy": step.accuracy or 0.0}
        lines.append(line | (_accuracy(result.query_curve[j], "query/") if result.query_curve else {}))
    return lines


def _accuracy(score: Confusion, prefix: str = "") -> dict[str, float]:
    low, high = score.bounds
    return {f"{prefix}accuracy": score.accuracy, f"{prefix}accuracy_low": low, f"{prefix}accuracy_high": high}


def _quality(result: FineTuned) -> dict[str, Any]:
    """How good the model is, on what, and how good it would be if the query normalised itself."""
    quality: dict[str, Any] = {"measured_on": result.method}
    if result.score is not None:
        quality |= _accuracy(result.score)
    if result.with_batch_statistics is not None:
        quality["transductive_accuracy"] = result.with_batch_statistics.accuracy
    return quality


def _tables(result: FineTuned) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    if result.score is not None:
        columns: list[str | int] = ["class", "support images", "images", "right", "most others taken for"]
        rows = [
            [name, size, *others] for (name, *others), size in zip(result.score.rows(), result.support, strict=True)
        ]
        tables["classes"] = wandb.Table(columns, rows)
    predictions = wandb.Table(["image", "file", "class", "probability", *(["label"] if result.labels else [])])
    for k in _spread(len(result.predictions)):
        file, label, probability = result.predictions[k]
        seen = wandb.Image(picture(result.model.preprocess(file)[0]))
        predictions.add_data(seen, str(file), label, probability, *([result.labels[k]] if result.labels else []))
    return {**tables, "predictions": predictions}


def _spread(count: int) -> list[int]:
    """Places of at most so many as are shown, evenly spread."""
    shown = min(_PICTURED, count)
    return [place * count // shown for place in range(shown)]
