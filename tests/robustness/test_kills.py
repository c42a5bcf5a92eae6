"""Killed without a signal that could be caught, at any moment, and started again at once."""

from __future__ import annotations

import os
import pty
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import pytest
from test_checkpoints import same
from tiny import FIT, finish, fit, saved, start

from litmaml.runs.folder import checkpoints_in
from started import hear_signals, start_process


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_forty_random_moments() -> None:
    chance = random.Random(0)
    last, waits = Path("runs/tiny/checkpoints/last.ckpt"), []
    long = ["--data.train_tasks=1000", "--preemption.save_every_minutes=1e-6", "--checkpoint.save_top_k=2"]
    long += ["--data.val_tasks=2", "--trainer.max_epochs=-1", "--trainer.logger=false"]
    for number in range(40):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = start(*FIT, *long, "--ckpt_path=last")
        began = time.monotonic()
        while not last.exists() or last.stat().st_mtime_ns == before:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.002)
        waits.append(time.monotonic() - began)
        time.sleep(chance.uniform(0, 0.4))
        os.killpg(process.pid, signal.SIGKILL)
        status, said = finish(process)
        assert status == -signal.SIGKILL, said
        assert saved("runs/tiny")["global_step"] > 0, number
        for file in checkpoints_in(Path("runs/tiny")):
            saved("runs/tiny", file.stem)  # is read, and fits its sum
    steps = saved("runs/tiny")["global_step"] + 3
    fit(*long, "--ckpt_path=last", f"--trainer.max_steps={steps}")
    fit(*long, "--trainer.default_root_dir=whole", f"--trainer.max_steps={steps}")
    assert same("runs/tiny", "whole")
    assert sorted(waits)[-4] < 30, "one start waited for a dead owner"
    assert not list(Path("runs/tiny/checkpoints").glob(".*"))
    print(f"{steps} steps, longest start {max(waits):.1f} s, shortest {min(waits):.1f} s")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT"])
@pytest.mark.slow
def test_a_signal_at_random_moments_ends_in_a_checkpoint(number: str) -> None:
    chance = random.Random(number)
    for _ in range(3):
        process = start(*FIT, "--data.train_tasks=100000", "--trainer.logger=false", "--ckpt_path=last",
                        "--trainer.callbacks=counting.Counting")  # fmt: skip
        seen, before = Path("seen-0.jsonl"), 0
        before = seen.stat().st_size if seen.exists() else 0
        while not seen.exists() or seen.stat().st_size == before:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        os.kill(process.pid, getattr(signal, number))
        status, said = finish(process)
        assert status == (130 if number == "SIGINT" else 75), said
        assert "Traceback" not in said
        assert saved("runs/tiny")["global_step"] == len(seen.read_text().splitlines())


@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1", "SIGHUP"])
@pytest.mark.slow
def test_a_signal_in_the_first_seconds_ends_with_the_status_to_requeue_on(number: str) -> None:
    """From when the program listens, at the latest as its modules are read, to the first step."""
    fit()
    before = saved("runs/tiny")
    for moment in (0.0, 0.3, 1.0, 2.0):
        process = start(*FIT, "--trainer.max_epochs=3000", "--ckpt_path=last", "--trainer.logger=false")
        while not catches(process.pid, getattr(signal, number)):
            assert process.poll() is None, process.communicate()[0]
        time.sleep(moment)
        os.kill(process.pid, getattr(signal, number))
        status, said = finish(process)
        assert status == 75, said
        assert "Traceback" not in said
        assert not Path("runs/tiny/.owner").exists()
        assert saved("runs/tiny")["global_step"] >= before["global_step"]


def training(process: subprocess.Popen[Any], said: IO[bytes] | None = None) -> None:
    """Wait until a process has taken steps, reading its terminal."""
    while not (Path("seen-0.jsonl").is_file() and len(Path("seen-0.jsonl").read_text().splitlines()) > 20):
        assert process.poll() is None
        if said is not None and select.select([said], [], [], 0)[0]:
            os.read(said.fileno(), 10000)
        time.sleep(0.01)


def at_a_terminal(terminal: int) -> None:
    """In a new process: it has this terminal."""
    os.login_tty(terminal)
    hear_signals()


@pytest.mark.parametrize("workers", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_closed_terminal_ends_in_a_checkpoint(workers: int) -> None:
    long = ["--data.train_tasks=100000", "--trainer.callbacks=counting.Counting", f"--data.num_workers={workers}"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "litmaml", *FIT, *long], stdin=theirs, stdout=theirs,
                               stderr=theirs, preexec_fn=lambda: at_a_terminal(theirs))  # fmt: skip
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        training(process, terminal)
    assert process.wait(60) == 75
    assert saved("runs/tiny")["global_step"] == len(Path("seen-0.jsonl").read_text().splitlines())
    assert not Path("runs/tiny/.owner").exists()


@pytest.mark.slow
def test_a_run_goes_on_without_its_terminal_where_that_was_asked_for() -> None:
    process = start_process(["nohup", sys.executable, "-m", "litmaml", *FIT, "--data.train_tasks=100000",
                             "--trainer.callbacks=counting.Counting"])  # fmt: skip
    training(process)
    os.kill(process.pid, signal.SIGHUP)
    seen = len(Path("seen-0.jsonl").read_text().splitlines())
    while len(Path("seen-0.jsonl").read_text().splitlines()) < seen + 50:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process)[0] == 75


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    (mask,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt:")]
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)
