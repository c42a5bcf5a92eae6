"""A run that is stopped or killed, and resumed, ends as one that was left alone."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from runs import FIT, ONE, TWO, assert_close, assert_same_bits, callback, checkpoint, finish, start

from litmaml.callbacks import Preemption
from litmaml.cli.main import main


def fit(folder: Path, *arguments: str) -> None:
    main([*FIT, *ONE, *arguments, f"--trainer.default_root_dir={folder}"])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    fit(folder)
    assert checkpoint(folder)["global_step"] == 12
    return folder


@pytest.mark.parametrize(
    ("name", "step", "stopped"),
    [
        ("SIGTERM", 3, 4),
        ("SIGUSR1", 8, 9),
        ("SIGTERM", 5, 7),  # the last batch of an epoch: its validation comes first
        ("SIGUSR1", 0, 1),
    ],
)
def test_signal_in_an_epoch(undisturbed: Path, tmp_path: Path, name: str, step: int, stopped: int) -> None:
    folder = tmp_path / "run"
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    with pytest.raises(SystemExit) as ended:
        fit(folder, callback(tmp_path, "Saboteur", name=name, step=step))
    assert ended.value.code == 75
    assert {number: signal.getsignal(number) for number in before} == before
    assert checkpoint(folder)["global_step"] == stopped
    fit(folder, "--ckpt_path=last")
    assert_same_bits(folder, undisturbed)


def test_signal_at_the_very_end_lets_the_run_end(undisturbed: Path, tmp_path: Path) -> None:
    fit(tmp_path / "run", callback(tmp_path, "Saboteur", name="SIGTERM", step=11))
    assert_same_bits(tmp_path / "run", undisturbed)


def test_stop_waits_for_accumulated_batches(tmp_path: Path) -> None:
    accumulate = "--trainer.accumulate_grad_batches=3"
    fit(tmp_path / "whole", accumulate)
    with pytest.raises(SystemExit):
        fit(tmp_path / "run", accumulate, callback(tmp_path, "Saboteur", name="SIGTERM", step=0))
    assert checkpoint(tmp_path / "run")["global_step"] == 1
    fit(tmp_path / "run", accumulate, "--ckpt_path=last")
    assert_same_bits(tmp_path / "run", tmp_path / "whole")


def test_sampled_estimator_resumes_with_the_same_directions(tmp_path: Path) -> None:
    sampled = "--model.outer_gradient=GaussianSmoothing"
    fit(tmp_path / "whole", sampled)
    with pytest.raises(SystemExit):
        fit(tmp_path / "run", sampled, callback(tmp_path, "Saboteur", name="SIGUSR1", step=2))
    fit(tmp_path / "run", sampled, "--ckpt_path=last")
    assert_same_bits(tmp_path / "run", tmp_path / "whole")


def test_killed_without_a_signal_that_can_be_caught(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill = callback(tmp_path, "Saboteur", name="SIGKILL", step=9)
    process = start([*FIT, *ONE, kill, "--preemption.save_every_minutes=1e-6"], folder)
    statuses, said = finish(process)
    assert statuses == [-signal.SIGKILL], said
    assert checkpoint(folder)["global_step"] == 9  # in the middle of the second epoch
    fit(folder, "--ckpt_path=last")
    assert_same_bits(folder, undisturbed)


@pytest.mark.slow
def test_without_regular_saving_a_killed_run_goes_back_to_its_last_epoch(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    statuses, said = finish(start([*FIT, *ONE, callback(tmp_path, "Saboteur", name="SIGKILL", step=9)], folder))
    assert statuses == [-signal.SIGKILL], said
    assert checkpoint(folder)["global_step"] == 6
    fit(folder, "--ckpt_path=last")
    assert_same_bits(folder, undisturbed)


@pytest.mark.slow
def test_killed_before_the_first_checkpoint(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    kill = callback(tmp_path, "Saboteur", name="SIGKILL", step=1)
    statuses, said = finish(start([*FIT, *ONE, kill], folder))
    assert statuses == [-signal.SIGKILL], said
    fit(folder, "--ckpt_path=last")
    assert_same_bits(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rank"), [("SIGTERM", 1), ("SIGUSR1", 0)])
def test_signal_to_one_of_two_ranks_stops_both(undisturbed: Path, tmp_path: Path, name: str, rank: int) -> None:
    folder = tmp_path / "run"
    two = [*FIT, *TWO, "--trainer.devices=2"]
    sabotage = callback(tmp_path, "Saboteur", name=name, step=3, rank=rank)
    statuses, said = finish(start([*two, sabotage], folder))
    assert statuses == [75], said
    assert "stopped after step 4" in said
    assert checkpoint(folder)["global_step"] == 4
    statuses, said = finish(start([*two, "--ckpt_path=last"], folder))
    assert statuses == [0], said
    assert_close(folder, undisturbed)


@pytest.mark.slow
def test_the_other_rank_killed_leaves_the_last_whole_step(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    two = [*FIT, *TWO, "--trainer.devices=2"]
    began = time.monotonic()
    statuses, said = finish(start([*two, callback(tmp_path, "Saboteur", name="SIGKILL", step=9, rank=1)], folder))
    assert statuses != [0], said
    assert time.monotonic() - began < 100
    assert not (folder / ".owner").exists()
    assert checkpoint(folder)["global_step"] == 9, said
    assert "another process of this run has ended or does not answer" in said
    statuses, said = finish(start([*two, "--ckpt_path=last"], folder))
    assert statuses == [0], said
    assert_close(folder, undisturbed)


@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up_after_the_time_out_and_ended(undisturbed: Path, tmp_path: Path) -> None:
    folder, overlay = tmp_path / "run", Path(__file__).parents[2] / "configs" / "trainer" / "ddp.yaml"
    two = [*FIT, "--data.meta_batch=4", f"--config={overlay}", "--trainer.accelerator=cpu", "--trainer.devices=2"]
    hang = callback(tmp_path, "Hanging", folder=str(tmp_path), step=9)
    statuses, said = finish(start([*two, hang, "--trainer.strategy.timeout=0:00:45"], folder))  # to start in, too
    assert statuses == [1], said
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()
    assert checkpoint(folder)["global_step"] == 9, said
    statuses, said = finish(start([*two, "--ckpt_path=last"], folder))
    assert statuses == [0], said
    assert_close(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Killed from outside, at other moments each time, until it is let through."""
    long = ["--data.train_tasks=2400", "--preemption.save_every_minutes=1e-6"]
    began = time.monotonic()
    fit(tmp_path / "whole", *long)
    whole = time.monotonic() - began
    folder = tmp_path / "run"
    last = folder / "checkpoints" / "last.ckpt"
    for fraction in (0.02, 0.11, 0.07, 0.19):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = start([*FIT, *ONE, *long, "--ckpt_path=last"], folder)
        while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns > before):
            time.sleep(0.002)
        time.sleep(fraction * whole)
        process.kill()
        statuses, said = finish(process)
        assert statuses == [-signal.SIGKILL], said
        assert 0 < checkpoint(folder)["global_step"] < 600
    fit(folder, *long, "--ckpt_path=last")
    assert_same_bits(folder, tmp_path / "whole")


def test_interval_has_to_be_positive() -> None:
    with pytest.raises(ValueError, match="save_every_minutes: has to be above 0, got 0"):
        Preemption(0)
