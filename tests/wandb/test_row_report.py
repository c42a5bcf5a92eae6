"""A fine-tuning on rows of a table, offline, read back from what wandb wrote."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from offline_run import offline_runs
from torch import nn

from litmaml.cli.finetune import finetune
from litmaml.data import Episode, TableTasks, TaskDataModule
from litmaml.finetuning.row_tuning import RowsTuned
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from quiet_trainer import quiet_trainer

ROWS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)).tolist()


def write(file: Path, first: int, last: int, who: bool = True, kind: bool = True) -> Path:
    with file.open("w", newline="") as opened:
        rows = csv.writer(opened)
        rows.writerow([*(["who"] if who else []), "x1", "x2", "y", *(["kind"] if kind else [])])
        for k, (one, other) in enumerate(ROWS[first:last]):
            y = 20 + one - 3 * other
            label = "high" if k // 5 % 2 else "low"
            rows.writerow([*([f"w{k % 5}"] if who else []), one, other, y, *([label] if kind else [])])
    return file


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_scores_curve_and_predictions_are_logged(tmp_path: Path, kind: str) -> None:
    values = kind == "regression"
    file = write(tmp_path / "t.csv", 0, 40)
    tasks = TableTasks(str(file), ["x*"], ["y" if values else "kind"], "who", kind, train=Episode(shots=1))  # type: ignore[arg-type]
    loss = nn.MSELoss() if values else nn.CrossEntropyLoss()
    learner = MetaLearner(MLP(2, 1 if values else 2, [4]), SGD(lr=0.1), loss=loss)
    trainer = quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(learner, TaskDataModule(tasks, meta_batch=2, train_tasks=2, val_tasks=1))
    trainer.save_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    query, data = (write(tmp_path / f"{first}.csv", first, last, who=False) for first, last in ((50, 60), (40, 50)))
    out = tmp_path / "out"
    tuned = finetune(str(tmp_path), str(data), str(out), str(query), steps=3, wandb="rows")
    assert isinstance(tuned, RowsTuned)
    (run,) = offline_runs(out)
    assert run.config["meta_checkpoint"]["name"] == str(tmp_path)
    assert (run.config["features"], run.config["support_rows"], run.config["inner_steps"]) == (["x1", "x2"], 10, 3)
    assert run.config["classes"] == (None if values else ["high", "low"])
    assert run.logged("support/loss") == pytest.approx([step.loss for step in tuned.curve])
    assert run.logged("query/loss") == pytest.approx(tuned.query_losses)
    (score,) = tuned.scores
    assert run.summary[f"{score.of}: {score.measure}"] == pytest.approx(score.value)
    assert run.summary[f"{score.of}: without a model"] == pytest.approx(score.plain)
    assert run.summary["measured_on"] == "10 rows of the query"
    written = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    shown = run.table("predictions")
    assert [[*row] for row in shown] == [[*row] for row in written]
    name = "predicted y" if values else "class"
    for row, line in zip(shown, written, strict=True):
        assert row[name] == (float(line[name]) if values else line[name])
    assert run.logged("adaptation")[0]["_type"] == "image-file"
    assert len(run.artifacts) == 1
