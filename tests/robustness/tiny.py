"""The smallest run of the command line, and what is looked at of it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from litmaml.cli.main import main
from litmaml.runs.checkpoint import read_checkpoint
from started import start_process

TINY = """\
model:
  model: {class_path: litmaml.models.MLP, init_args: {inputs: 1, outputs: 1, hidden: [4], activation: tanh}}
  loss: {class_path: torch.nn.MSELoss}
  inner_optimizer: {class_path: litmaml.inner.SGD, init_args: {lr: 0.01}}
  optimizer: {class_path: torch.optim.Adam, init_args: {lr: 0.001}}
data:
  tasks: {class_path: litmaml.data.Sinusoid, init_args: {train: {shots: 5, queries: 5}}}
  meta_batch: 5
  train_tasks: 20
  val_tasks: 4
  test_tasks: 4
trainer:
  default_root_dir: runs/tiny
  max_epochs: 2
  accelerator: cpu
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 1
  num_sanity_val_steps: 0
"""

FIT = ["fit", "-c", "tiny.yaml"]


def slow(*cases: Any) -> list[Any]:
    """Further cases of a test, which run where time does not count."""
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow) for case in cases]


def fit(*arguments: str) -> None:
    main([*FIT, *arguments])


def sums(folder: str | Path) -> dict[str, str]:
    """The SHA-256 of each checkpoint in a run's folder."""
    files = sorted(Path(folder, "checkpoints").glob("*.ckpt"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def saved(folder: str | Path, name: str = "last") -> dict[str, Any]:
    return read_checkpoint(Path(folder, "checkpoints", f"{name}.ckpt"))


def steps(folder: str | Path) -> dict[str, int]:
    """The outer step of each checkpoint in a run's folder."""
    return {
        file.stem: read_checkpoint(file)["global_step"] for file in sorted(Path(folder, "checkpoints").glob("*.ckpt"))
    }


def everything(folder: str | Path) -> dict[str, bytes]:
    """All files in a folder but the sign of its owner."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file() and file.name != ".owner"
    }


def start(*arguments: str, **env: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return start_process([sys.executable, "-m", "litmaml", *arguments], **env)


def finish(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str]:
    """Its status and all that it said."""
    said = process.communicate(timeout=timeout)[0]
    return process.returncode, said
