"""Two runs in one folder, and owners that are dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FIT, everything, finish, fit, saved, start, steps

from litmaml.runs import owner as run_owner
from litmaml.runs.owner import OWNER, FolderInUse, FolderOwner, claim

LONG = ["--data.train_tasks=2000", "--trainer.max_epochs=50"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def owner(run: Path) -> Iterator[FolderOwner]:
    made = claim(run)
    yield made
    made.release()


def recorded(run: Path, **changes: object) -> None:
    """Change what the owner's file says."""
    file = run / OWNER
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def left_behind(run: Path, **changes: object) -> None:
    """An owner's file without an owner, as of a machine that was switched off."""
    process = run_owner._this_process()
    run.mkdir(exist_ok=True)
    (run / OWNER).write_text(json.dumps(process._asdict() | changes))


def test_a_second_owner_is_told_of_the_first(run: Path, owner: FolderOwner) -> None:
    with pytest.raises(FolderInUse, match=rf"in use by another run \(process {os.getpid()} on .*, since 20"):
        claim(run)
    owner.check()
    owner.release()
    assert not list(run.iterdir())
    claim(run).release()


def test_a_killed_owner_is_replaced_at_once_also_while_its_workers_live(run: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from litmaml.runs.owner import claim\n"
        "owner = claim(Path(sys.argv[1]))\n"
        "if os.fork() == 0: time.sleep(60)\n"
        "print('here', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, run], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        with pytest.raises(FolderInUse):
            claim(run)
        process.kill()  # not yet waited for: a zombie, with a child that lives
        began = time.monotonic()
        while True:
            try:
                claim(run).release()
                break
            except FolderInUse:
                assert time.monotonic() - began < 1
        assert time.monotonic() - began < 1
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""
    monkeypatch.setattr(run_owner, "_lock", lambda descriptor: None)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_process_is_looked_up(run: Path) -> None:
    owner = claim(run)
    with pytest.raises(FolderInUse, match="in use by another run"):
        claim(run)
    recorded(run, started="1")  # another process has the number by now
    claim(run).release()
    with pytest.raises(FolderInUse, match="was moved away or deleted"):
        owner.check()
    owner.release()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes pass in a second."""
    monkeypatch.setattr(run_owner, "STALE", 1.0)
    monkeypatch.setattr(run_owner, "BEAT", 0.2)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("changes", [{"boot": "another", "host": "node7"}, {"boot": "earlier"}])
def test_an_owner_elsewhere_is_dead_when_its_heart_stands_still(run: Path, changes: dict[str, str]) -> None:
    left_behind(run, **changes)
    began = time.monotonic()
    claim(run).release()
    assert 0.5 < time.monotonic() - began < 4
    left_behind(run, **changes)
    os.utime(run / OWNER, (1, 1))
    began = time.monotonic()
    claim(run).release()
    assert time.monotonic() - began < 0.5  # long dead: no wait


@pytest.mark.usefixtures("hasty")
def test_a_clock_that_was_set_back_blocks_nobody(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    left_behind(run, boot="another", host="node7")
    future = time.time() + 86400
    os.utime(run / OWNER, (future, future))
    began = time.monotonic()
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        claim(run).release()
    assert 0.5 < time.monotonic() - began < 4
    assert "was last in use by process" in caplog.text
    assert "waiting up to 1 s" in caplog.text
    assert not list(run.iterdir())


def test_an_owner_that_cannot_write_its_name_names_the_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run.mkdir()
    before = list(run_owner._held)

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"trainer\.default_root_dir: cannot write to .*: No space left.*make room"):
        claim(run)
    assert before == list(run_owner._held)


@pytest.mark.usefixtures("hasty")
def test_an_owner_elsewhere_lives_while_its_heart_beats(run: Path, owner: FolderOwner) -> None:
    recorded(run, boot="another", host="node7")
    os.close(owner._descriptor)  # its lock is not seen here; its heart beats by another hand
    run_owner._held.discard(owner._descriptor)
    owner._descriptor = os.open(run / OWNER, os.O_RDWR)
    with pytest.raises(FolderInUse, match="on node7"):
        claim(run)
    run_owner._held.add(owner._descriptor)
    recorded(run, token=owner.token)


def test_a_requeued_job_takes_over_from_its_own_earlier_start(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(run, boot="another", host="node7", job="4711", restart="0")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    began = time.monotonic()
    claim(run).release()
    assert time.monotonic() - began < 0.5


def test_an_owner_that_lost_its_folder_writes_no_more(run: Path, owner: FolderOwner) -> None:
    left_behind(run, host="node8")
    with pytest.raises(FolderInUse, match=r"was taken over by process .* on node8"):
        owner.check()
    run.rename(run.with_name("moved"))
    with pytest.raises(FolderInUse, match="was moved away or deleted"):
        owner.check()


def test_a_file_half_written_is_nobody(run: Path) -> None:
    run.mkdir()
    (run / OWNER).write_text('{"token": "ab')
    claim(run).release()


def wait_for(path: Path, *processes: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def test_a_second_fit_writes_and_moves_nothing_and_a_killed_one_is_resumed_at_once() -> None:
    fit("--trainer.max_epochs=1")
    owned = Path("runs/tiny", OWNER)
    first = start(*FIT, *LONG, "--trainer.logger=false")
    wait_for(owned, first)
    wait_for(Path("runs/tiny.1"), first)
    wait_for(Path("runs/tiny/config.yaml"), first)
    os.kill(first.pid, signal.SIGSTOP)
    before = everything("runs")
    for more in ([], ["--ckpt_path=last"], ["--ckpt_path=runs/tiny.1", "--trainer.default_root_dir=runs/tiny"]):
        with pytest.raises(FolderInUse, match=f"process {first.pid} on"):
            fit(*more)
    assert everything("runs") == before
    first.kill()
    first.wait()
    fit("--ckpt_path=last", "--trainer.max_epochs=1", "--trainer.max_steps=3")
    assert steps("runs/tiny")["last"] == 3
    assert not owned.exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("first", "second"), [([], []), ([], ["--ckpt_path=last"]), (["--ckpt_path=last"], ["--ckpt_path=last"])]
)
def test_of_two_in_one_folder_one_is_told_and_none_is_lost(first: list[str], second: list[str]) -> None:
    """Ten tries, at other distances in time each. The one that trains is asked to stop once the other has ended."""
    long = ["--data.train_tasks=1000000", "--trainer.limit_val_batches=1", "--trainer.default_root_dir=runs/old"]
    long.append("--trainer.callbacks=counting.Counting")
    for number, distance in enumerate((0, 0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.4, 3.2)):
        fit("--trainer.max_epochs=1", "--trainer.default_root_dir=runs/old")
        before = saved("runs/old")
        one = start(*FIT, *long, *first)
        time.sleep(distance)
        other = start(*FIT, *long, *second)
        while one.poll() is None and other.poll() is None:
            time.sleep(0.05)
        loser, winner = (one, other) if one.poll() is not None else (other, one)
        status, said = finish(loser)
        assert status == 1, said
        assert "is in use by another run" in said
        wait_for(Path("seen-0.jsonl"), winner)
        os.kill(winner.pid, signal.SIGUSR1)
        status, said = finish(winner)
        assert status == 75, said
        after = saved("runs/old")
        assert f"stopped after step {after['global_step']};" in said
        resumed = "--ckpt_path=last" in (first if winner is one else second)
        assert resumed == (after["global_step"] > 4 and not Path("runs/old.1").exists())
        if not resumed:
            assert_same(saved("runs/old.1"), before)
        Path("runs").rename(f"done-{number}")
        Path("seen-0.jsonl").unlink()


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["global_step"] == other["global_step"]
    assert all(torch.equal(weight, other["state_dict"][name]) for name, weight in one["state_dict"].items())
