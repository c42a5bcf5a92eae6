"""scripts/slurm/train.sbatch with stand-ins for SLURM's own commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm" / "train.sbatch"


@pytest.fixture
def submit(tmp_path: Path) -> Path:
    """A folder to submit from, whose bin/ has srun, squeue and scontrol: they say what they were called with."""
    (tmp_path / "bin").mkdir()
    programs = {
        "srun": 'echo "srun $* [$WANDB_RUN_ID $WANDB_RESUME]"; exit "$SRUN_STATUS"',
        "squeue": 'echo "$STATE"',
        "scontrol": 'echo "scontrol $*"',
    }
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def sbatch(submit: Path, status: int, state: str = "RUNNING", **env: str) -> tuple[int, str]:
    slurm = {
        "SLURM_SUBMIT_DIR": str(submit),
        "SLURM_JOB_NAME": "litmaml",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS_PER_NODE": "8",
        "SRUN_STATUS": str(status),
        "STATE": state,
        "PATH": f"{submit / 'bin'}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", SCRIPT, "-c", "a b.yaml"], env=slurm | env, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_first_start_and_end(submit: Path) -> None:
    status, said = sbatch(submit, 0)
    assert status == 0
    assert "-m litmaml fit -c a b.yaml --trainer.default_root_dir=runs/litmaml-4711" in said
    assert "--trainer.num_nodes=2 --trainer.devices=8" in said
    assert "--ckpt_path" not in said
    assert "[runs-litmaml-4711 allow]" in said
    assert "scontrol" not in said


def test_preempted_job_is_requeued_and_resumes(submit: Path) -> None:
    status, said = sbatch(submit, 75)
    assert status == 0
    assert "scontrol requeue 4711" in said
    (submit / "runs/litmaml-4711/checkpoints").mkdir(parents=True)
    (submit / "runs/litmaml-4711/checkpoints/last.ckpt").touch()
    _, said = sbatch(submit, 0)
    assert "--trainer.devices=8 --ckpt_path=last [runs-litmaml-4711 allow]" in said


@pytest.mark.parametrize(("status", "state"), [(75, "COMPLETING"), (75, "CANCELLED"), (1, "RUNNING")])
def test_cancelled_or_failed_job_does_not_come_back(submit: Path, status: int, state: str) -> None:
    ended, said = sbatch(submit, status, state)
    assert ended == status
    assert "scontrol" not in said


def test_an_earlier_run_is_named(submit: Path) -> None:
    (submit / "old/checkpoints").mkdir(parents=True)
    (submit / "old/checkpoints/best.ckpt").touch()
    _, said = sbatch(submit, 0, RUN="old")
    assert "--trainer.default_root_dir=old" in said
    assert "--ckpt_path=last [old allow]" in said
