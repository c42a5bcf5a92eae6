"""The families that come with litmaml: their rewards, and each configuration from its first step to resumption."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium", reason="needs gymnasium: pip install 'litmaml[rl]'")
pytest.importorskip("mujoco", reason="needs mujoco: pip install 'litmaml[rl]'")

from test_gymnasium_tasks import acting, same

from litmaml.cli.main import main
from litmaml.rl import AntDirection, GymnasiumTasks, HalfCheetahDirection, HalfCheetahVelocity

pytestmark = pytest.mark.filterwarnings("ignore:.*log_every_n_steps:UserWarning")
TINY = [
    *("--data.tasks.horizon=6", "--data.tasks.trajectories=2", "--data.meta_batch=2", "--data.train_tasks=2"),
    *("--data.val_tasks=2", "--data.test_tasks=2", "--trainer.max_epochs=2", "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
]


def stepped(environment: Any, steps: int = 5) -> list[tuple[float, Any, dict[str, Any]]]:
    """Rewards, actions and infos of random steps."""
    environment.reset(seed=3)
    draws = np.random.default_rng(0)
    found = []
    for _ in range(steps):
        action = draws.uniform(-1, 1, environment.action_space.shape).astype(np.float32)
        _, paid, *_, info = environment.step(action)
        found.append((float(paid), action.astype(np.float64), info))
    return found


def test_rewards_are_the_published_ones() -> None:
    for direction in (-1.0, 1.0):
        for paid, action, info in stepped(HalfCheetahDirection(direction)):
            wanted = direction * info["x_velocity"] - 0.05 * (action**2).sum()
            assert paid == pytest.approx(wanted, abs=1e-6)
    for paid, action, info in stepped(HalfCheetahVelocity(1.5)):
        assert paid == pytest.approx(-abs(info["x_velocity"] - 1.5) - 0.05 * (action**2).sum(), abs=1e-6)
    environment = AntDirection(-1.0)
    for paid, action, info in stepped(environment):
        contact = -info["reward_contact"]
        wanted = -info["x_velocity"] - 0.005 * (action**2).sum() - contact + 0.05
        assert paid == pytest.approx(wanted, abs=1e-6)
    forces = environment._env.data.cfrc_ext
    assert contact == pytest.approx(0.0005 * np.square(np.clip(forces, -1, 1)).sum(), abs=1e-6)


@pytest.mark.parametrize("kind", [HalfCheetahDirection, AntDirection])
def test_a_kept_simulation_is_as_a_new_one(kind: Any) -> None:
    directions: Any = {"direction": {"choices": [-1.0, 1.0]}}
    kept = GymnasiumTasks(kind, directions, horizon=12, trajectories=2)
    first = acting(kept, seed=5)
    acting(kept, seed=6)
    assert same(first, acting(kept, seed=5))
    assert same(first, acting(GymnasiumTasks(kind, directions, horizon=12, trajectories=2), seed=5))


def test_mujoco_does_not_fill_logs(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    stepped(HalfCheetahDirection())
    assert capfd.readouterr().err == ""
    assert not [*tmp_path.iterdir()]


def lines(folder: Path) -> list[dict[str, str]]:
    """What was logged of training and validation, without times."""
    with (folder / "logs" / "version_0" / "metrics.csv").open() as file:
        return [{k: v for k, v in line.items() if "seconds" not in k} for line in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["half_cheetah_direction", "half_cheetah_velocity", "ant_direction", "metaworld_ml1"])
def test_its_configuration_trains_goes_on_and_repeats(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    if name == "metaworld_ml1":
        pytest.importorskip("metaworld", reason="needs Meta-World: pip install 'litmaml[metaworld]'")
    monkeypatch.chdir(tmp_path)
    main(["fit", "-c", f"rl/{name}", *TINY, "--trainer.default_root_dir=one"])
    main(["fit", "-c", f"rl/{name}", *TINY, "--trainer.max_epochs=3", "--trainer.default_root_dir=whole"])
    one = lines(Path("one"))
    assert one == lines(Path("whole"))[: len(one)]
    assert [float(line["train/environment_steps"]) for line in one if line["train/environment_steps"]] == [48.0, 96.0]
    for key in ("train/return_before", "train/return", "val/return_step_0", "val/return_step_3"):
        values = [float(line[key]) for line in one if line[key]]
        assert len(values) == 2
        assert np.isfinite(values).all()
        assert key.startswith("val") or len({*values}) == 2  # other tasks; in validation the same
    main(["fit", "--ckpt_path=one", "--trainer.max_epochs=3"])
    ends = [torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in ("one", "whole")]
    assert ends[0]["experience.environment_steps"] == 144
    assert all(torch.equal(weight, ends[1][key]) for key, weight in ends[0].items())
