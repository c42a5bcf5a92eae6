"""A fine-tuning as a run of Weights & Biases.

Only ``litmaml finetune --wandb`` imports this module, so that wandb need not be there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb
from litmaml.data.images import picture
from litmaml.finetuning.fine_tuning import FineTuned
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint
from litmaml.runs.artifact import PREFIX
from litmaml.runs.checkpoint import sha256
from litmaml.runs.folder import folder_of
from litmaml.runs.wandb_logger import ID_FILE, ResumableWandbLogger, remembered_id
from litmaml.statistics.confusion import Confusion

_X = "inner_step"
_PICTURED = 100
"""Rows of the table of predictions: with a picture each, more are slow to load."""


def report_to_wandb(result: FineTuned, folder: Path, project: str, arguments: Mapping[str, Any]) -> None:
    """Log a fine-tuning as a W&B run of the job type ``finetune``.

    Its config names what was asked for and the meta-checkpoint that it started from; the history has a line an inner
    step, the summary the accuracy with its interval. Tables show the classes and up to 100 predictions with their
    images, evenly spread. What was written to the folder is an artifact ``model-RUN``. A meta-checkpoint that was an
    artifact becomes an input of the run, so that W&B draws the line between them.

    Args:
        result: The fine-tuning.
        folder: What ``litmaml finetune`` wrote; W&B's own files go there too.
        project: Of W&B; entity, name, tags and mode are those of WANDB_ENTITY, WANDB_NAME, WANDB_TAGS and WANDB_MODE.
        arguments: What was asked for, by name; plain data.
    """
    written = sorted(file for file in folder.iterdir() if file.is_file())
    run = ResumableWandbLogger(str(folder), project, job_type="finetune").experiment
    try:
        run.config.update({**arguments, **_config(result)})
        use_checkpoint(run, result.checkpoint)
        lines = _curve(result)
        for name in lines[0]:
            run.define_metric(name, step_metric=None if name == _X else _X)
        for line in lines:
            run.log(line)
        run.log({**_tables(result), **{file.stem: wandb.Image(str(file)) for file in written if file.suffix == ".png"}})
        quality = _quality(result)
        run.summary.update(quality)
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata={**_config(result), **quality})
        for file in written:
            artifact.add_file(str(file))
        run.log_artifact(artifact)
    finally:
        run.finish()


def use_checkpoint(run: Any, checkpoint: MetaCheckpoint) -> None:
    """Make a meta-checkpoint that is an artifact an input of a W&B run; offline there is nobody to ask for it."""
    if checkpoint.name.startswith(PREFIX) and not run.offline and not run.disabled:
        run.use_artifact(checkpoint.name.removeprefix(PREFIX))


def _config(result: FineTuned) -> dict[str, Any]:
    """What was adapted to what."""
    return {
        "meta_checkpoint": _origin(result.checkpoint),
        "meta_training": dict(result.checkpoint.learner.hparams),
        "image_format": None if result.model.image_format is None else asdict(result.model.image_format),
        "classes": result.classes,
        "support_images": result.support,
        "inner_steps": len(result.curve) - 1,
        "new_head": " and ".join(result.tuner.replaced_heads) or None,
        "frozen_batch_norms": result.tuner.frozen_layers,
    }


def _origin(checkpoint: MetaCheckpoint) -> dict[str, str]:
    """The checkpoint's name, its content, and the W&B run that trained it, as far as they are known."""
    origin = {"name": checkpoint.name}
    if checkpoint.file is not None:
        origin["sha256"] = sha256(checkpoint.file)
        remembered = folder_of(checkpoint.file) / ID_FILE
        if remembered.is_file():
            origin["wandb_run"] = remembered_id(remembered)
    return origin


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
    count = len(result.predictions)
    chosen = [place * count // min(_PICTURED, count) for place in range(min(_PICTURED, count))]
    predictions = wandb.Table(["image", "file", "class", "probability", *(["label"] if result.labels else [])])
    for k in chosen:
        file, label, probability = result.predictions[k]
        seen = wandb.Image(picture(result.model.preprocess(file)[0]))
        predictions.add_data(seen, str(file), label, probability, *([result.labels[k]] if result.labels else []))
    return {**tables, "predictions": predictions}
