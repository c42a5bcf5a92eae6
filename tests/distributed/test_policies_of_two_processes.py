"""Policies over two processes: other tasks on each, together those of one, also where the outer step acts itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import finish, start, weights

from litmaml.cli.main import main

FIT = [
    *("fit", "-c", "rl/navigation", "--model.model.init_args.hidden=[8]"),
    *("--data.tasks.init_args.horizon=12", "--data.tasks.init_args.trajectories=4", "--data.train_tasks=16"),
    *("--data.val_tasks=4", "--trainer.max_epochs=1", "--trainer.precision=64-true", "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1"),
]
CHEETAH = [
    *("--data.tasks=litmaml.rl.GymnasiumTasks", "--data.tasks.init_args.make_env=litmaml.rl.HalfCheetahVelocity"),
    *("--data.tasks.init_args.parameters={velocity: [0, 2]}", "--data.tasks.init_args.horizon=12"),
    "--data.tasks.init_args.trajectories=4",
]
TWO = ["--data.meta_batch=4", "--trainer.strategy=ddp", "--trainer.devices=2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "outer",
    [
        [],
        # Of more iterations rounding is seen.
        ["--model.optimizer=litmaml.rl.TrustRegion", "--model.optimizer.init_args.iterations=5"],
        ["--model.optimizer=litmaml.rl.RepeatedAdam", "--model.outer_loss=litmaml.rl.ProMP"],
        ["--model.outer_loss=litmaml.rl.ScoreCorrection"],
        ["--model.outer_gradient=litmaml.rl.EvolutionOfReturns", "--model.outer_gradient.init_args.samples=2"],
        CHEETAH,
    ],
    ids=["adam", "trust_region", "promp", "e_maml", "es_maml", "half_cheetah"],
)
def test_two_processes_are_one(outer: list[str], tmp_path: Path) -> None:
    if outer is CHEETAH:
        pytest.importorskip("mujoco", reason="needs mujoco: pip install 'litmaml[rl]'")
    statuses, said = finish(start([*FIT, *TWO, *outer], tmp_path / "two"))
    assert statuses == [0], said
    main([*FIT, *outer, "--data.meta_batch=8", f"--trainer.default_root_dir={tmp_path / 'one'}"])
    one, other = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-8)
    if "experience.environment_steps" in one:
        assert int(one["experience.environment_steps"]) > 16 * 2 * 4
