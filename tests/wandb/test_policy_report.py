"""A run of a policy, offline, read back from what wandb wrote."""

from __future__ import annotations

from pathlib import Path

from offline_run import offline_runs
from test_wandb_report import OVERLAY, litmaml


def test_returns_and_trajectories_are_shown(tmp_path: Path) -> None:
    small = ["--data.meta_batch=2", "--data.train_tasks=4", "--data.val_tasks=2", "--data.tasks.init_args.horizon=5"]
    quiet = ["--trainer.max_epochs=1", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]
    litmaml("fit", "-c", "rl/navigation", "-c", OVERLAY, *small, *quiet, f"--trainer.default_root_dir={tmp_path}")
    (run,) = offline_runs(tmp_path)
    seen = {name for line in run.history for name in line}
    assert {"train/return", "train/return_before", "val/return", "val/return_step_0"} <= seen
    assert {"val/adaptation/return_table", "val/trajectories"} <= seen or "val/trajectories" in seen
    steps = [line["train/environment_steps"] for line in run.history if "train/environment_steps" in line]
    assert steps == [400.0, 800.0]  # two tasks of 2 x 20 trajectories of 5 steps at most
    assert not any("episodes" in name for name in seen)
