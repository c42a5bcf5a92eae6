"""A fit, its resumption and a test, offline, read back from what wandb wrote."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from offline_run import OfflineRun, offline_runs, own_environment
from torch import nn

import wandb
from litmaml.callbacks.wandb_report import WandbReport, _episode
from litmaml.cli.main import main
from litmaml.data import Episode, TaskDataModule, TaskDistribution
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.wandb_logger import ResumableWandbLogger
from litmaml.tasks import Batch, MetaBatch, Split, Tasks, in_stacks
from quiet_trainer import quiet_trainer

OVERLAY = str(Path(__file__).parents[2] / "configs" / "logger" / "wandb.yaml")


def litmaml(*arguments: str) -> None:
    """The command line as in a process of its own: wandb ends its run with the process."""
    main(list(arguments))
    wandb.finish()


def history(folder: Path) -> list[dict[str, str]]:
    """The CSV log's lines, of all parts of a run."""
    files = sorted((folder / "logs").glob("version_*/metrics.csv"))
    return [line for file in files for line in csv.DictReader(file.read_text().splitlines())]


def md5(path: Path) -> str:
    """As wandb writes it."""
    return base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The overlay with a row in the table of episodes for every task."""
    text = Path(OVERLAY).read_text()
    report = "class_path: litmaml.callbacks.wandb_report.WandbReport"
    assert report in text
    file = tmp_path_factory.mktemp("overlay") / "wandb.yaml"
    file.write_text(text.replace(report, report + "\n      init_args: {episodes: 100, images: 3}"))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, experiment: Path, overlay: Path) -> Path:
    """A run that was trained for two epochs, resumed for one more and tested."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    common = ["-c", str(experiment), "-c", str(overlay), f"--trainer.default_root_dir={folder}"]
    litmaml("fit", *common)
    litmaml("fit", *common, "--trainer.max_epochs=3", "--ckpt_path=last")
    litmaml("test", "-c", str(overlay), f"--ckpt_path={folder}", "--trainer.accelerator=cpu")
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> list[OfflineRun]:
    return offline_runs(folder)


def test_resuming_and_testing_go_on_with_the_same_run(folder: Path, runs: list[OfflineRun]) -> None:
    assert len(runs) == 3
    assert {run.id for run in runs} == {(folder / "wandb_id").read_text().strip()}
    assert all(run.resumable and run.project == "litmaml" for run in runs)
    steps = [[line["trainer/global_step"] for line in run.history if "train/loss" in line] for run in runs]
    assert steps[0] == [1, 3, 5, 7]
    assert steps[1] == [9, 11]
    assert steps[2] == []


def test_config_is_the_whole_resolved_configuration(folder: Path, runs: list[OfflineRun]) -> None:
    fit, resumed, test = (run.config for run in runs)
    assert {"model", "data", "trainer", "checkpoint", "seed_everything"} <= set(fit)
    assert fit["trainer"]["max_epochs"] == 2
    assert resumed["trainer"]["max_epochs"] == 3
    assert fit["model"]["outer_gradient"]["class_path"] == "litmaml.outer.FirstOrder"
    assert fit["data"]["tasks"]["init_args"]["train"]["ways"] == 3
    assert fit["trainer"]["default_root_dir"] == str(folder)
    assert "dirpath" not in fit["checkpoint"]
    # The test's stands beside the fit's, not in its place.
    assert test["test"]["data"]["test_tasks"] == 7
    assert not {"model", "data", "trainer"} & set(test)


def test_every_line_of_the_csv_log_is_in_the_history(folder: Path, runs: list[OfflineRun]) -> None:
    lines = history(folder)
    for name in lines[0]:
        if name in ("step", "epoch"):
            continue
        written = [float(line[name]) for line in lines if line.get(name)]
        sent = [value for run in runs for value in run.logged(name)]
        assert sent == pytest.approx(written, rel=1e-5), name
    for name in ("train/gradient_norm", "train/meta_gradient_seconds"):
        assert len(runs[0].logged(name)) == 4
        assert min(runs[0].logged(name)) > 0


def test_summary_has_the_best_validation_and_the_test(folder: Path, runs: list[OfflineRun]) -> None:
    for run in runs[:2]:
        assert run.summary["val/accuracy"] == {"max": max(run.logged("val/accuracy"))}
        assert run.summary["val/loss"] == {"min": min(run.logged("val/loss"))}
    best = read_checkpoint(folder / "checkpoints" / "best.ckpt")
    assert runs[1].summary["best/accuracy"] == pytest.approx(best["validation"]["accuracy"])
    last_step = json.loads((folder / "test_results.json").read_text())["steps"][-1]
    assert runs[2].summary["test/accuracy"] == pytest.approx(last_step["accuracy"]["mean"])
    assert runs[2].summary["test/accuracy_half_width"] == pytest.approx(last_step["accuracy"]["half_width"])


def assert_best_and_latest(run: OfflineRun) -> None:
    # W&B itself calls whatever comes last "latest".
    assert [set(artifact.aliases) - {"latest"} for artifact in run.artifacts] == [{"best"}, set()]
    assert "latest" in run.artifacts[-1].aliases


def test_checkpoints_are_artifacts_that_say_what_they_are(folder: Path, runs: list[OfflineRun]) -> None:
    assert_best_and_latest(runs[0])
    assert not runs[2].artifacts
    accuracy = {line["step"]: line["val/accuracy"] for line in history(folder) if line.get("val/accuracy")}
    for artifact, name in zip(runs[1].artifacts, ("best", "last"), strict=True):
        (content,) = artifact.manifest.contents
        assert (artifact.name, content.path) == (f"model-{runs[1].id}", f"{name}.ckpt")
        assert content.digest == md5(folder / "checkpoints" / f"{name}.ckpt")
        metadata: dict[str, Any] = json.loads(artifact.metadata)
        told = {key: metadata[key] for key in ("ways", "shots", "outer_gradient", "normalisation", "model")}
        expected = {"ways": 3, "shots": 1, "outer_gradient": "FirstOrder", "model": "Conv4"}
        assert told == expected | {"normalisation": metadata["normalisation"]}
        assert "transductive" in metadata["normalisation"]
        # The validation after the step that the checkpoint was written at.
        assert metadata["accuracy"] == pytest.approx(float(accuracy[str(metadata["step"] - 1)]))
    assert metadata["step"] == 12


def test_a_row_for_every_episode(folder: Path, runs: list[OfflineRun]) -> None:
    rows = runs[2].table("test/episodes")
    assert [row["task"] for row in rows] == list(range(7))
    first, *_, last = json.loads((folder / "test_results.json").read_text())["steps"]
    for name in ("accuracy", "loss"):
        for when, step in (("before", first), ("after", last)):
            mean = sum(row[f"{name} {when}"] for row in rows) / len(rows)
            assert mean == pytest.approx(step[name]["mean"], rel=1e-4), (name, when)
    # Neither those of the sanity check nor of two validations together.
    assert [table["nrows"] for table in runs[0].logged("val/episodes")] == [5, 5]


def test_pictures_are_named_by_class_and_prediction(runs: list[OfflineRun]) -> None:
    rows = runs[2].table("test/episodes")
    for row in rows:
        classes = row["classes"].split(", ")
        assert len(set(classes)) == 3
        assert all(name.startswith("буква ") for name in classes)
        captions = [row[f"query {k}"]["caption"].split(" → ") for k in (1, 2, 3)]
        assert [true for true, _ in captions] == classes  # one query image of each class
        assert {guess for _, guess in captions} <= set(classes)
        for k in (1, 2, 3):
            assert runs[2].stored(row[f"query {k}"]["path"]).read_bytes().startswith(b"\x89PNG")


def test_the_adaptation_curve_is_a_chart(folder: Path, runs: list[OfflineRun]) -> None:
    chart = runs[2].config["_wandb"]["visualize"]["test/adaptation/accuracy"]
    assert chart["panel_config"]["panelDefId"] == "wandb/lineseries/v0"
    rows = runs[2].table("test/adaptation/accuracy_table")
    steps = json.loads((folder / "test_results.json").read_text())["steps"]
    means = [row["lineVal"] for row in rows if row["lineKey"] == "mean"]
    upper = [row["lineVal"] for row in rows if row["lineKey"] == "upper 95%"]
    assert means == pytest.approx([step["accuracy"]["mean"] for step in steps])
    assert upper == pytest.approx([s["accuracy"]["mean"] + s["accuracy"]["half_width"] for s in steps])


@pytest.mark.slow
def test_a_new_fit_is_a_new_run(folder: Path, experiment: Path, overlay: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    common = ["-c", str(experiment), "-c", str(overlay), f"--trainer.default_root_dir={again}"]
    litmaml("fit", *common, "--trainer.max_epochs=1")
    litmaml("fit", *common, "--trainer.max_epochs=1")
    (first,), (second,) = offline_runs(tmp_path / "run.1"), offline_runs(again)
    assert first.id != second.id
    # Stopped before its first checkpoint: nothing to go on from.
    for checkpoint in (again / "checkpoints").iterdir():
        checkpoint.unlink()
    litmaml("fit", *common, "--trainer.max_epochs=1")
    assert offline_runs(again)[-1].id not in (first.id, second.id)


@pytest.mark.slow
def test_two_processes_log_once(experiment: Path, overlay: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "litmaml", "fit", "-c", str(experiment), "-c", str(overlay)]
    command += ["--trainer.devices=2", "--trainer.strategy=ddp", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, env=own_environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (run,) = offline_runs(tmp_path / "run")
    assert [line["trainer/global_step"] for line in run.history if "train/loss" in line] == [1, 3]
    assert len(run.logged("val/accuracy")) == 2
    assert_best_and_latest(run)
    assert len(run.table("val/episodes")) == 2  # of five, those of the first process


# wandb reads the environment once in a process: each of these has one of its own, made after the slow imports.
TROUBLES = """
import os, warnings
import wandb
from litmaml.runs.wandb_logger import ResumableWandbLogger

def begin(name, **environment):
    if os.fork() == 0:
        os.environ.update(environment)
        with warnings.catch_warnings(record=True) as caught:
            logger = ResumableWandbLogger(save_dir=name)
            logger.experiment
        logger.log_metrics({"val/loss": 0.5}, step=7)
        with open(name + ".txt", "w") as file:
            print(*(str(warning.message) for warning in caught), file=file)
        wandb.teardown()  # waits for the file; os._exit would not
        os._exit(0)

begin("nobody is logged in", WANDB_MODE="online")
begin("nobody answers", WANDB_MODE="online", WANDB_API_KEY="0" * 40)
begin("disabled", WANDB_MODE="disabled")
assert [os.wait()[1] for _ in range(3)] == [0, 0, 0]
"""


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one for each trouble, and in text files the warnings."""
    folder = tmp_path_factory.mktemp("troubled")
    home = {"HOME": str(folder), "NETRC": str(folder / "netrc")}  # not the user's key
    answer = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_HTTP_TIMEOUT": "1", "WANDB_INIT_TIMEOUT": "1"}
    environment = {name: value for name, value in own_environment().items() if name != "WANDB_API_KEY"}
    done = subprocess.run(
        [sys.executable, "-c", TROUBLES], cwd=folder, env=environment | home | answer, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("nobody is logged in", "No API key configured"),
        pytest.param("nobody answers", "Failed to get resume status", marks=pytest.mark.slow),
    ],
)
def test_without_the_service_the_run_is_kept_offline(trouble: str, reason: str, troubled: Path) -> None:
    (run,) = offline_runs(troubled / trouble)
    assert run.logged("val/loss") == [0.5]
    warned = " ".join((troubled / f"{trouble}.txt").read_text().split())
    assert warned.startswith(f"W&B cannot be used ({reason}")
    assert warned.endswith(f"kept offline; send it later with wandb sync {trouble}/wandb/offline-run-*")


@pytest.mark.slow
def test_nothing_is_remembered_of_a_disabled_run(troubled: Path) -> None:
    assert not os.listdir(troubled / "disabled")
    assert (troubled / "disabled.txt").read_text().strip() == ""


@pytest.mark.parametrize(("what", "call"), [("Table", "add_data"), ("Artifact", "add_file")])
def test_what_fails_at_the_service_is_said_once_and_the_run_goes_on(
    what: str, call: str, experiment: Path, overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: Any, **named: Any) -> None:
        raise ConnectionError("the network\nis gone")

    monkeypatch.setattr(getattr(wandb, what), call, gone)
    with pytest.warns(UserWarning, match="ResumableWandbLogger failed, and the run goes on without it: Conn") as told:
        litmaml("fit", "-c", str(experiment), "-c", str(overlay), f"--trainer.default_root_dir={tmp_path / 'run'}")
    assert len([warning for warning in told if "the network is gone" in str(warning.message)]) == 1
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 8


def test_refuses_negative_numbers() -> None:
    with pytest.raises(ValueError, match="episodes: cannot be negative, got -1"):
        WandbReport(episodes=-1)
    with pytest.raises(ValueError, match="images: cannot be negative, got -2"):
        WandbReport(images=-2)


def test_says_that_it_has_no_logger_to_report_to(experiment: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"WandbReport: trainer\.logger has no WandbLogger to report to"):
        litmaml(
            *("fit", "-c", str(experiment), "-c", OVERLAY, "--trainer.logger=false", "--trainer.max_epochs=1"),
            f"--trainer.default_root_dir={tmp_path / 'run'}",
        )


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
def test_an_episode_of_images_with_a_class_for_each_pixel_or_with_values_has_its_numbers() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 1, 4, 4, generator=draw)
    void = torch.randint(0, 2, (1, 3, 4, 4), generator=draw)
    void[..., 0] = 255
    dense = MetaLearner(nn.Conv2d(1, 2, 1), loss=nn.CrossEntropyLoss(ignore_index=255))
    batch = Batch(images, void)
    row = _episode(dense, Tasks((batch,), batch, torch.zeros(1)), ["a", "b"], images=3)
    assert 0 <= row["accuracy after"] <= 1
    counts = MetaLearner(nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0)), loss=nn.PoissonNLLLoss())
    batch = Batch(images, torch.tensor([[3, 0, 2]]))
    row = _episode(counts, Tasks((batch,), batch, torch.zeros(1)), None, images=3)
    assert set(row) == {"task", "loss before", "loss after"}
    ignored = MetaLearner(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    batch = Batch(images, torch.tensor([[0, -100, 1]]))
    row = _episode(ignored, Tasks((batch,), batch, torch.zeros(1)), ["a", "b"], images=3)
    assert row["query 2"].caption.startswith("-100 → ")


class UnequalImages(TaskDistribution):
    """Noise of two classes; a task of an even number has a query of two images, another one of four."""

    def __init__(self) -> None:
        super().__init__(Episode(shots=3, queries=4))

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> MetaBatch:
        def batch(number: int, n: int) -> Batch:
            stream = torch.Generator().manual_seed(number * 10 + n)
            return Batch(torch.rand(1, n, 1, 4, 4, generator=stream), torch.arange(n)[None] % 2)

        return in_stacks(
            [Tasks((batch(k, 3),), batch(k, 4 if k % 2 else 2), torch.tensor([k], dtype=torch.int64)) for k in numbers]
        )

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return {"split": split}


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
def test_episodes_of_unequal_size_stand_in_one_table(tmp_path: Path) -> None:
    learner = MetaLearner(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)))
    data = TaskDataModule(UnequalImages(), meta_batch=5, test_tasks=5)
    options: dict[str, Any] = {"logger": ResumableWandbLogger(str(tmp_path)), "callbacks": [WandbReport(4, 3)]}
    trainer = quiet_trainer(tmp_path, **options)
    trainer.test(learner, data, verbose=False)
    wandb.finish()
    (run,) = offline_runs(tmp_path)
    rows = run.table("test/episodes")
    assert [row["task"] for row in rows] == [0, 2, 4, 1]
    assert [sum(row[f"query {k}"] is not None for k in (1, 2, 3)) for row in rows] == [2, 2, 2, 3]
    learner.eval()
    for row in rows:
        stack = data.tasks.sample("test", [row["task"]], data.seed)
        steps: Any = learner.predict_step(stack, 0)
        (found,) = steps
        right = (found["predictions"][0].argmax(1) == found["targets"][0]).float().mean()
        assert row["accuracy after"] == pytest.approx(float(right))
