"""What evaluations write, and loggers that cannot write."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import everything, finish, fit, saved, slow, start, steps

from litmaml.callbacks.predictions import rows
from litmaml.cli.main import main
from litmaml.data import Episode, Sinusoid
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs import guarded_logger


def table(folder: str) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(folder, "predictions.csv").read_text().splitlines()))


def test_predictions_are_written_as_a_table_and_as_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_epochs=1")
    main(["predict", "--ckpt_path=runs/tiny", "--trainer.accelerator=cpu", "--data.test_tasks=7"])
    assert "written to runs/tiny: predictions.csv, predictions.safetensors (7 tasks)" in capsys.readouterr().out
    tensors = load_file("runs/tiny/predictions.safetensors")
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "numbers": (7,),
        "predictions": (7, 5, 1),
        "targets": (7, 5, 1),
    }
    lines = table("runs/tiny")
    assert [(int(line["task"]), int(line["example"])) for line in lines] == [(t, e) for t in range(7) for e in range(5)]
    assert [float(line["prediction"]) for line in lines] == pytest.approx(tensors["predictions"].flatten().tolist())
    assert [float(line["target"]) for line in lines] == pytest.approx(tensors["targets"].flatten().tolist())
    learner = MetaLearner.load_from_checkpoint("runs/tiny/checkpoints/best.ckpt")
    tasks = main_data().sample("test", range(7), 0)
    again: Any = learner.predict_step(tasks, 0)
    torch.testing.assert_close(again["predictions"], tensors["predictions"])


def main_data() -> Sinusoid:
    return Sinusoid(Episode(shots=5, queries=5))


def test_classes_come_with_their_probability() -> None:
    logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    head, first, second = rows(torch.tensor([3]), logits, torch.tensor([[0, 1]]))
    assert head == ["task", "example", "target", "prediction", "probability"]
    assert first == [3, 0, 0, 0, f"{torch.tensor([2.0, 0, 0]).softmax(0)[0]:.6g}"]
    assert second[:4] == [3, 1, 1, 2]


def test_places_have_a_line_each() -> None:
    logits = torch.zeros(1, 2, 3, 4)
    logits[0, 1, 2, 3] = 5
    lines = list(rows(torch.tensor([0]), logits, torch.ones(1, 2, 4, dtype=torch.long)))
    assert lines[0] == ["task", "example", "place", "target", "prediction", "probability"]
    assert len(lines) == 1 + 2 * 4
    assert [line[4] for line in lines[1:]] == [0] * 7 + [2]


@pytest.mark.parametrize("command", ["test", "predict"])
def test_a_folder_for_results_that_cannot_be_written_is_told_at_the_start(command: str) -> None:
    fit("--trainer.max_epochs=1")
    with pytest.raises(OSError, match=r"trainer\.default_root_dir: cannot write to '/proc/run': .*; name another"):
        main([command, "--ckpt_path=runs/tiny", "--trainer.accelerator=cpu", "--trainer.default_root_dir=/proc/run"])


@pytest.mark.parametrize(("command", "name"), [("test", "test_results.json"), ("predict", "predictions.csv")])
def test_results_that_cannot_be_written_in_the_end_are_shown_and_leave_nothing_half_done(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("--trainer.max_epochs=1")
    Path("runs/tiny", name).mkdir()  # a folder in its place fails as late as a full disk
    before = everything("runs/tiny")
    with pytest.raises(OSError, match=rf"cannot write 'runs/tiny/{name}': "):
        main([command, "--ckpt_path=runs/tiny", "--trainer.accelerator=cpu"])
    assert ("inner steps" in capsys.readouterr().out) == (command == "test")
    assert {*everything("runs/tiny")} - {*before} <= {"predictions.safetensors"}


@pytest.mark.slow
def test_two_processes_predict_together() -> None:
    fit("--trainer.max_epochs=1")
    more = ["--trainer.accelerator=cpu", "--data.test_tasks=7"]
    main(["predict", "--ckpt_path=runs/tiny", *more])
    one = table("runs/tiny")
    two = start("predict", "--ckpt_path=runs/tiny", *more, "--trainer.devices=2", "--trainer.strategy=ddp")
    status, said = finish(two)
    assert status == 0, said
    assert [line["task"] for line in table("runs/tiny")] == [line["task"] for line in one]


@pytest.mark.parametrize("how", ["fail", *slow("hang")])
def test_a_logger_that_fails_midway_neither_ends_nor_holds_up_a_run(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_logger, "PATIENCE", 0.5)
    fit("--trainer.default_root_dir=whole", "--trainer.logger=false")
    logger = {"class_path": "failing.Failing", "init_args": {"how": how}}
    Path("logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger}}))
    began = time.monotonic()
    with pytest.warns(UserWarning, match="Failing failed, and the run goes on without it") as told:
        fit("-c", "logger.yaml")
    assert time.monotonic() - began < 20
    assert len([warning for warning in told if "Failing failed" in str(warning.message)]) == 1
    assert steps("runs/tiny") == steps("whole")
    weights = saved("whole")["state_dict"]
    assert all(torch.equal(w, weights[name]) for name, w in saved("runs/tiny")["state_dict"].items())


def test_a_log_that_grows_no_more_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.loggers import CSVLogger

    real, calls = CSVLogger.save, 0

    def full(self: CSVLogger) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(28, "No space left on device")
        real(self)

    monkeypatch.setattr(CSVLogger, "save", full)
    with pytest.warns(UserWarning, match="CSVLogger failed, and the run goes on without it: OSError"):
        fit()
    assert calls == 4
    assert steps("runs/tiny")["last"] == 8


@pytest.mark.parametrize("mode", ["of", *slow("onlin", "yes")])
def test_a_mode_that_wandb_does_not_have(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", mode)
    overlay = Path(__file__).parents[2] / "configs" / "logger" / "wandb.yaml"
    with pytest.raises(ValueError, match=f"WANDB_MODE: got '{mode}'; one of online, offline"):
        fit("-c", str(overlay))
