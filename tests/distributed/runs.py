"""Short runs of the command line, in this process and in others."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litmaml.runs.checkpoint import read_checkpoint
from started import start_process

HERE = Path(__file__).parent
CONFIGS = HERE.parents[1] / "configs"
# Two epochs of six outer steps on eight tasks each, in float64: two processes agree with one to rounding.
FIT = [
    "fit",
    f"--config={CONFIGS / 'sinusoid.yaml'}",
    "--model.model.init_args.hidden=[8]",
    "--data.train_tasks=48",
    "--data.val_tasks=4",
    "--trainer.max_epochs=2",
    "--trainer.precision=64-true",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
]
ONE = ["--data.meta_batch=8"]
TWO = ["--data.meta_batch=4", "--trainer.strategy=ddp"]


def callback(at: Path, kind: str, **arguments: Any) -> str:
    """The option that adds a callback of saboteur.py."""
    at.mkdir(parents=True, exist_ok=True)
    file = at / f"{kind}.json"  # JSON is YAML
    entry = {"class_path": f"saboteur.{kind}", "init_args": arguments}
    file.write_text(json.dumps({"trainer": {"callbacks": [entry]}}))
    return f"--config={file}"


def start(arguments: Sequence[str], folder: Path, module: Sequence[str] = (), **env: str) -> subprocess.Popen[str]:
    """A process that trains in a folder."""
    command = [sys.executable, *module, "-m", "litmaml", *arguments, f"--trainer.default_root_dir={folder}"]
    return start_process(command, **env)


def finish(*processes: subprocess.Popen[str]) -> tuple[list[int], str]:
    """Their exit statuses and all that they said."""
    said = "".join(process.communicate(timeout=240)[0] for process in processes)
    return [process.returncode for process in processes], said


def checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    return read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = checkpoint(folder)["state_dict"]
    return found


def assert_same_bits(one: Path, other: Path) -> None:
    mine, theirs = checkpoint(one), checkpoint(other)
    assert mine["global_step"] == theirs["global_step"]
    assert mine["state_dict"].keys() == theirs["state_dict"].keys()
    assert all(torch.equal(w, theirs["state_dict"][name]) for name, w in mine["state_dict"].items())
    assert str(mine["optimizer_states"]) == str(theirs["optimizer_states"])


def assert_close(one: Path, other: Path) -> None:
    theirs = weights(other)
    for name, weight in weights(one).items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-6, atol=1e-12)
