"""What is kept of a run: the best model, and the state that it ended in, however it ended."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FIT, finish, fit, saved, slow, start, steps

from litmaml.cli.main import main
from litmaml.data import TaskDataModule
from litmaml.learner.meta_learner import MetaLearner


def same(one: str, other: str) -> bool:
    mine, theirs = saved(one), saved(other)
    weights = all(torch.equal(w, theirs["state_dict"][n]) for n, w in mine["state_dict"].items())
    return (
        weights
        and str(mine["optimizer_states"]) == str(theirs["optimizer_states"])
        and mine["global_step"] == theirs["global_step"]
    )


ITERATIONS = ["--trainer.val_check_interval=3", "--trainer.check_val_every_n_epoch=null"]


@pytest.mark.parametrize(
    ("options", "last", "best"),
    [
        (["--trainer.check_val_every_n_epoch=5"], 8, None),
        (["--trainer.max_steps=7", *ITERATIONS], 7, 6),
        *slow(
            (["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"], 12, 8),
            (["--trainer.limit_val_batches=0"], 8, None),
            (["--trainer.max_steps=6"], 6, 6),
            (["--trainer.max_epochs=1", "--trainer.limit_train_batches=3"], 3, 3),
            (["--trainer.accumulate_grad_batches=3", "--trainer.max_steps=3"], 3, 3),
        ),
    ],
    ids=lambda value: " ".join(value).replace("--trainer.", "") if isinstance(value, list) else "",
)
def test_the_last_step_of_every_fit_is_kept(options: list[str], last: int, best: int | None) -> None:
    fit(*options, "--model.optimizer.lr=0.0001")
    found = steps("runs/tiny")
    assert found["last"] == last
    # Of the validations up to there the best one.
    assert (found.get("best") is None) == (best is None)
    assert best is None or found["best"] <= best
    fit("--ckpt_path=last", "--trainer.max_epochs=4")
    if "max_steps" not in str(options) and "limit_train" not in str(options) and "accumulate" not in str(options):
        assert steps("runs/tiny")["last"] == 16


@pytest.mark.parametrize("stop", [3, *slow(1, 2, 5)])
def test_a_run_ended_by_its_steps_goes_on_as_if_it_had_not(stop: int) -> None:
    fit("--trainer.default_root_dir=whole", "--trainer.max_epochs=3")
    fit(f"--trainer.max_steps={stop}")
    fit("--ckpt_path=last", "--trainer.max_epochs=3")
    assert same("runs/tiny", "whole")


class Crash(Exception):
    pass


@pytest.mark.parametrize("where", ["validation_step", *slow("training_step", "on_before_optimizer_step", "next batch")])
def test_an_exception_leaves_the_last_whole_step(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ["--trainer.max_epochs=3", "--trainer.val_check_interval=3"]
    fit("--trainer.default_root_dir=whole", *more)
    with monkeypatch.context() as broken:
        kind: Any = TaskDataModule if where == "next batch" else MetaLearner
        name = "on_after_batch_transfer" if where == "next batch" else where
        real = getattr(kind, name)
        calls = {"training_step": 6, "validation_step": 2, "on_before_optimizer_step": 6, "next batch": 10}[where]

        def crashing(self: Any, *arguments: Any, **more: Any) -> Any:
            nonlocal calls
            calls -= 1
            if calls == 0:
                raise Crash
            return real(self, *arguments, **more)

        broken.setattr(kind, name, crashing)
        with pytest.raises(Crash):
            fit(*more)
    stopped = steps("runs/tiny")["last"]
    assert stopped == {"training_step": 5, "validation_step": 7, "on_before_optimizer_step": 4, "next batch": 7}[where]
    fit("--ckpt_path=last", *more)
    assert same("runs/tiny", "whole")


def test_ctrl_c_ends_with_a_checkpoint_and_its_own_status() -> None:
    process = start(*FIT, "--data.train_tasks=200000", "--trainer.callbacks=counting.Counting")
    while not (Path("seen-0.jsonl").is_file() and len(Path("seen-0.jsonl").read_text().splitlines()) > 20):
        assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, signal.SIGINT)
    status, said = finish(process)
    assert status == 130, said
    assert "SIGINT: stopped after step" in said
    assert "Traceback" not in said
    seen = len(Path("seen-0.jsonl").read_text().splitlines())
    assert saved("runs/tiny")["global_step"] == seen
    assert not Path("runs/tiny/.owner").exists()


def test_the_time_that_is_given_ends_in_a_checkpoint_that_goes_on_with_the_next_task() -> None:
    Path("timer.yaml").write_text("trainer: {max_time: '00:00:00:01', callbacks: [{class_path: counting.Counting}]}")
    fit("-c", "timer.yaml", "--data.train_tasks=200000", "--trainer.limit_val_batches=1")
    seen = Path("seen-0.jsonl").read_text().splitlines()
    assert steps("runs/tiny")["last"] == len(seen)
    Path("timer.yaml").write_text("trainer: {callbacks: [{class_path: counting.Counting}]}")
    fit("-c", "timer.yaml", "--data.train_tasks=200000", "--ckpt_path=last", f"--trainer.max_steps={len(seen) + 2}")
    numbers = [eval(line) for line in Path("seen-0.jsonl").read_text().splitlines()]
    assert [n for batch in numbers for n in batch] == list(range(5 * (len(seen) + 2)))


# A rate at which each epoch is worse than the one before.
WORSE = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.5"]


@pytest.mark.parametrize("top_k", [2, *slow(1, 3, -1)])
def test_the_best_is_best_also_of_several_and_in_a_moved_folder(top_k: int) -> None:
    keep = f"--checkpoint.save_top_k={top_k}"
    fit(keep, *WORSE, "--trainer.max_epochs=3")
    files = {path.name for path in Path("runs/tiny/checkpoints").glob("*.ckpt")} - {"last.ckpt", "best.ckpt"}
    assert len(files) == {1: 0, 2: 2, 3: 3, -1: 3}[top_k]
    best = saved("runs/tiny", "best")
    Path("runs/tiny").rename("runs/other")
    fit(keep, *WORSE, "--trainer.default_root_dir=runs/other", "--ckpt_path=last", "--trainer.max_epochs=5")
    assert saved("runs/other", "best")["global_step"] == best["global_step"] < steps("runs/other")["last"] == 20
    kept = saved("runs/other")["callbacks"]["BestCheckpoint"]["kept"]
    assert len(kept) == {1: 1, 2: 2, 3: 3, -1: 5}[top_k]
    assert all(Path("runs/other/checkpoints", name).is_file() for name in kept)


@pytest.mark.slow
def test_another_number_of_best_ones_from_now_on() -> None:
    fit(*WORSE, "--trainer.max_epochs=2")
    best = saved("runs/tiny", "best")["global_step"]
    fit(*WORSE, "--ckpt_path=last", "--trainer.max_epochs=4", "--checkpoint.save_top_k=2")
    assert steps("runs/tiny")["best"] == best == steps("runs/tiny")["earlier-best"]
    fit(*WORSE, "--ckpt_path=last", "--trainer.max_epochs=5", "--checkpoint.save_top_k=1")
    assert steps("runs/tiny")["best"] == best


def logged(metric: str) -> dict[int, float]:
    """The values of a metric by the outer steps after which they were logged."""
    found: dict[int, float] = {}
    for file in sorted(Path("runs/tiny/logs").glob("*/metrics.csv")):
        for row in csv.DictReader(file.read_text().splitlines()):
            if row.get(metric):
                found[int(row["step"]) + 1] = float(row[metric])
    return found


@pytest.mark.slow
def test_another_metric_decides_from_now_on_over_what_was_before() -> None:
    metric = ["--model.metrics", "{mae: {class_path: torchmetrics.MeanAbsoluteError}}"]
    fit(*WORSE, *metric)
    best = saved("runs/tiny", "best")["global_step"]
    fit(*WORSE, *metric, "--ckpt_path=last", "--checkpoint.monitor=val/mae", "--trainer.max_epochs=5")
    errors = {step: error for step, error in logged("val/mae").items() if step == best or step > 8}
    assert len(errors) == 4
    assert saved("runs/tiny", "best")["global_step"] == min(errors, key=lambda step: errors[step])


@pytest.mark.slow
def test_the_mode_is_the_metrics() -> None:
    fit(*WORSE, "--model.metrics", "{r2: {class_path: torchmetrics.R2Score}}", "--checkpoint.monitor=val/r2")
    scores = logged("val/r2")
    assert len({*scores.values()}) == 2
    assert saved("runs/tiny", "best")["global_step"] == max(scores, key=lambda step: scores[step])


@pytest.mark.parametrize("wrong", ["val_loss", *slow("val/acuracy", "accuracy")])
def test_a_monitor_that_does_not_exist_is_told_at_the_start(wrong: str) -> None:
    with pytest.raises(ValueError, match=rf"checkpoint\.monitor: there is no metric '{wrong}'.*There are val/loss"):
        fit(f"--checkpoint.monitor={wrong}")
    assert not list(Path("runs").rglob("*.ckpt"))


@pytest.mark.filterwarnings("ignore:val. no task has a finite loss")
def test_a_run_whose_tasks_are_all_skipped_goes_on_or_ends_as_it_was_told() -> None:
    skip = ["--model.inner_optimizer.lr=1e30", "--model.on_nonfinite=skip", "--trainer.max_epochs=1"]
    fit(*skip)
    before = saved("runs/tiny")["state_dict"]
    fit(*skip, "--trainer.max_epochs=2", "--ckpt_path=last")
    assert steps("runs/tiny")["last"] == 8
    assert all(torch.equal(weight, before[name]) for name, weight in saved("runs/tiny")["state_dict"].items())
    with pytest.raises(FloatingPointError, match=r"max_skipped: 2 outer steps in a row"):
        fit(*skip, "--model.max_skipped=2")


@pytest.mark.parametrize("off", ["enable_checkpointing=false", *slow("barebones=true")])
def test_checkpoints_can_be_switched_off(off: str) -> None:
    more = ["--trainer.log_every_n_steps=null", "--trainer.num_sanity_val_steps=null"]
    more += ["--trainer.enable_progress_bar=null", "--trainer.enable_model_summary=null"]
    fit(f"--trainer.{off}", *(more if "barebones" in off else []))
    assert not list(Path("runs").rglob("*.ckpt"))


def test_a_run_without_a_validation_says_how_its_last_checkpoint_is_tested(caplog: Any) -> None:
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit("--trainer.max_steps=1")
    assert "test it: litmaml test --ckpt_path runs/tiny/checkpoints/last.ckpt" in caplog.text
    assert "best checkpoint:" not in caplog.text


@pytest.mark.slow
def test_anothers_checkpoint_callback_leaves_the_best_alone(capsys: Any, caplog: Any) -> None:
    own = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=2"]
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(*own, "--trainer.callbacks.save_top_k=-1")
    assert "best checkpoint: runs/tiny/checkpoints/best.ckpt" in caplog.text
    assert {"best", "last"} <= {*steps("runs/tiny")}


def test_without_a_best_one_the_last_is_tested_with_a_word(caplog: Any) -> None:
    fit("--trainer.limit_val_batches=0")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(["test", "--ckpt_path=runs/tiny", "--trainer.accelerator=cpu"])
    assert "has no best checkpoint, so no validation: using runs/tiny/checkpoints/last.ckpt" in caplog.text


def test_what_a_kill_left_half_written_is_cleared_away() -> None:
    fit("--trainer.max_epochs=1")
    for name in (".best.ckpt.unfinished", ".epoch=3-step=12.ckpt.unfinished", ".last.ckpt.sha256.unfinished"):
        Path("runs/tiny/checkpoints", name).write_bytes(b"half")
    fit("--ckpt_path=last")
    assert not list(Path("runs/tiny/checkpoints").glob(".*"))
