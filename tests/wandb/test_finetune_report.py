"""A fine-tuning, offline, read back from what wandb wrote."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from offline_run import OfflineRun, offline_runs, records
from test_wandb_report import OVERLAY, litmaml, md5

from litmaml.cli.finetune import finetune
from litmaml.data import ImageFormat
from litmaml.finetuning.fine_tuning import FineTuned
from litmaml.finetuning.meta_checkpoint import open_checkpoint
from litmaml.finetuning.wandb_report import use_checkpoint
from litmaml.runs.checkpoint import sha256


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, experiment: Path) -> Path:
    """A run of meta-training that W&B knows too."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    litmaml("fit", "-c", str(experiment), "-c", OVERLAY, f"--trainer.default_root_dir={folder}")
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, experiment: Path) -> Path:
    """Four classes, one more than in meta-training: data with two images each, query with the other two."""
    folder = tmp_path_factory.mktemp("few")
    for label in range(4):
        name = f"буква {label}"
        for part, places in (("data", (0, 1)), ("query", (2, 3))):
            (folder / part / name).mkdir(parents=True)
            for k in places:
                content = (experiment.parent / "images" / name / f"{k}.png").read_bytes()
                (folder / part / name / f"{k}.png").write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def result(trained: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FineTuned, Path]:
    out = tmp_path_factory.mktemp("tuned") / "out"
    given: dict[str, Any] = {"checkpoint": str(trained), "data": str(few / "data"), "query": str(few / "query")}
    found = finetune(**given, output=str(out), steps=5, wandb="birds")
    assert isinstance(found, FineTuned)
    return found, out


@pytest.fixture(scope="module")
def run(result: tuple[FineTuned, Path]) -> OfflineRun:
    (logged,) = offline_runs(result[1])
    return logged


def test_config_is_what_was_asked_for_and_where_it_started(trained: Path, few: Path, run: OfflineRun) -> None:
    assert run.project == "birds"
    asked = {name: run.config[name] for name in ("checkpoint", "data", "query", "steps", "lr")}
    assert asked == {
        "checkpoint": str(trained),
        "data": str(few / "data"),
        "query": str(few / "query"),
        "steps": 5,
        "lr": None,
    }
    assert run.config["meta_checkpoint"] == {
        "name": str(trained),
        "sha256": sha256(trained / "checkpoints" / "best.ckpt"),
        "wandb_run": (trained / "wandb_id").read_text().strip(),
    }
    assert run.config["meta_training"]["outer_gradient"]["class_path"] == "litmaml.outer.FirstOrder"
    assert run.config["classes"] == [f"буква {k}" for k in range(4)]
    assert run.config["support_images"] == [2, 2, 2, 2]
    assert run.config["new_head"] == "head"
    assert ImageFormat(**run.config["image_format"]) == ImageFormat(16)


def test_the_job_type_tells_it_from_meta_training(result: tuple[FineTuned, Path], trained: Path) -> None:
    def job_types(folder: Path) -> set[str]:
        files = folder.glob("wandb/offline-run-*/run-*.wandb")
        return {record.run.job_type for file in files for record in records(file) if record.HasField("run")}

    assert job_types(result[1]) == {"finetune"}
    assert job_types(trained) == {""}


def test_a_line_of_history_for_every_inner_step(result: tuple[FineTuned, Path], run: OfflineRun) -> None:
    tuned, out = result
    assert run.logged("inner_step") == [0, 1, 2, 3, 4, 5]
    assert run.logged("support/loss") == pytest.approx([step.loss for step in tuned.curve])
    assert run.logged("support/accuracy") == pytest.approx([step.accuracy for step in tuned.curve])
    for name, wanted in (
        ("accuracy", [score.accuracy for score in tuned.query_curve]),
        ("accuracy_low", [score.bounds.low for score in tuned.query_curve]),
        ("accuracy_high", [score.bounds.high for score in tuned.query_curve]),
    ):
        assert run.logged(f"query/{name}") == pytest.approx(wanted)
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    axes = {record.metric.name: record.metric.step_metric for record in records(file) if record.HasField("metric")}
    assert {axes[name] for name in run.history[0] if "/" in name} == {"inner_step"}


def test_summary_has_the_accuracy_with_its_interval(result: tuple[FineTuned, Path], run: OfflineRun) -> None:
    score, transductive = result[0].score, result[0].with_batch_statistics
    assert score is not None
    assert transductive is not None
    assert run.summary["measured_on"] == "8 query images"
    assert run.summary["accuracy"] == pytest.approx(score.accuracy)
    assert (run.summary["accuracy_low"], run.summary["accuracy_high"]) == pytest.approx(score.bounds)
    assert run.summary["transductive_accuracy"] == pytest.approx(transductive.accuracy)


def test_tables_of_classes_and_predictions(result: tuple[FineTuned, Path], run: OfflineRun) -> None:
    tuned, out = result
    rows = run.table("classes")
    assert [row["class"] for row in rows] == tuned.classes
    assert [(row["support images"], row["images"]) for row in rows] == [(2, 2)] * 4
    assert sum(row["right"] for row in rows) == tuned.score.right  # type: ignore[union-attr]
    written = list(csv.DictReader((out / "predictions.csv").read_text(encoding="utf-8").splitlines()))
    shown = run.table("predictions")
    for row, line in zip(shown, written, strict=True):
        assert (row["file"], row["class"], row["label"]) == (line["file"], line["class"], line["label"])
        assert row["probability"] == pytest.approx(float(line["probability"]), abs=1e-6)
        assert run.stored(row["image"]["path"]).read_bytes().startswith(b"\x89PNG")


def test_pictures_are_media(result: tuple[FineTuned, Path], run: OfflineRun) -> None:
    (files,) = result[1].glob("wandb/offline-run-*/files")
    for name in ("adaptation", "confusion"):
        (logged,) = run.logged(name)
        assert logged["_type"] == "image-file"
        assert sha256(files / logged["path"]) == sha256(result[1] / f"{name}.png")


def test_the_model_is_an_artifact_that_says_what_it_is(result: tuple[FineTuned, Path], run: OfflineRun) -> None:
    tuned, out = result
    (artifact,) = run.artifacts
    assert artifact.name == f"model-{run.id}"
    digests = {content.path: content.digest for content in artifact.manifest.contents}
    wanted = {file.name for file in out.iterdir()} - {"wandb", "wandb_id"}
    assert {"model.safetensors", "config.yaml", "classes.json", "report.md"} < wanted
    assert digests == {name: md5(out / name) for name in wanted}
    metadata: dict[str, Any] = json.loads(artifact.metadata)
    assert metadata["meta_checkpoint"] == run.config["meta_checkpoint"]
    assert metadata["classes"] == tuned.classes
    assert metadata["inner_steps"] == 5
    assert metadata["accuracy"] == pytest.approx(run.summary["accuracy"])


def test_without_a_score_there_is_none_in_the_run(trained: Path, few: Path, tmp_path: Path) -> None:
    for label in range(3):
        (tmp_path / "one" / f"{label}").mkdir(parents=True)
        content = (few / "data" / f"буква {label}" / "0.png").read_bytes()
        (tmp_path / "one" / f"{label}" / "0.png").write_bytes(content)
    asked = [f"--checkpoint={trained}", f"--data={tmp_path / 'one'}", f"--output={tmp_path / 'out'}"]
    litmaml("finetune", *asked, "--steps=1", "--wandb=birds")
    (run,) = offline_runs(tmp_path / "out")
    assert run.summary["measured_on"].startswith("The support set is too small to tell")
    assert not {"accuracy", "classes", "confusion"} & set(run.summary)
    assert len(run.table("predictions")) == 3
    assert run.config["new_head"] is None


class Service:
    """A W&B run as ``use_checkpoint`` sees it."""

    disabled = False

    def __init__(self, offline: bool) -> None:
        self.offline, self.used = offline, list[str]()

    def use_artifact(self, name: str) -> None:
        assert not self.offline, "wandb refuses it"
        self.used.append(name)


def test_an_artifact_becomes_an_input_of_the_run(trained: Path) -> None:
    found = open_checkpoint(trained)
    artifact = found._replace(name="wandb://me/letters/model-1a2b:best")
    for offline, checkpoint, used in (
        (False, artifact, ["me/letters/model-1a2b:best"]),
        (True, artifact, []),
        (False, found, []),
    ):
        service = Service(offline)
        use_checkpoint(service, checkpoint)
        assert service.used == used


def test_wandb_that_is_missing_is_told_before_the_work(
    trained: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litmaml.finetuning.wandb_report", None)
    with pytest.raises(ImportError, match="wandb_report"):
        finetune(str(trained), str(few / "data"), str(tmp_path / "out"), wandb="birds")
    assert not (tmp_path / "out").exists()
