"""A run of a policy, offline, read back from what wandb wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
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


def test_a_film_is_shown_where_the_environment_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gymnasium", reason="needs gymnasium: pip install 'litmaml[rl]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "rl")
    small = ["--data.meta_batch=2", "--data.train_tasks=2", "--data.val_tasks=2", "--trainer.max_epochs=1"]
    tasks = ["--data.tasks=GymnasiumTasks", "--data.tasks.make_env=small_environments.Pictured"]
    tasks += ["--data.tasks.parameters={goal: [1, 2]}", "--data.tasks.horizon=5", "--data.tasks.trajectories=2"]
    litmaml("fit", "-c", "rl/navigation", "-c", OVERLAY, *tasks, *small, "--trainer.log_every_n_steps=1")
    (run,) = offline_runs(tmp_path / "runs" / "navigation")
    films = [line["val/film"] for line in run.history if "val/film" in line]
    assert [film["_type"] for film in films] == ["video-file"]
    assert films[0]["path"].endswith(".gif")
