"""Two points of the sweep, by the file's own command, as ``wandb agent`` would start it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from offline_run import OfflineRun, offline_runs, own_environment
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

CONFIGS = Path(__file__).parents[2] / "configs"
SWEEP: dict[str, Any] = yaml.safe_load((CONFIGS / "sweep.yaml").read_text())
NAMES = list(SWEEP["parameters"])
POINTS = list(itertools.product(*(parameter["values"] for parameter in SWEEP["parameters"].values())))
SECONDS = [
    *("--data.meta_batch=2", "--data.train_tasks=4", "--data.val_tasks=3", "--trainer.max_epochs=1"),
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
]


def command(point: tuple[Any, ...]) -> list[str]:
    """The command line of a point: the agent's own expansion of the file's macros."""
    expanded = create_sweep_command_args({"args": {k: {"value": v} for k, v in zip(NAMES, point, strict=True)}})
    expanded |= {"env": ["/usr/bin/env"], "interpreter": ["python"]}
    words: list[str] = []
    for word in create_sweep_command(list(SWEEP["command"])):
        words += expanded[word[2:-1]] if word.startswith("${") else [word]
    return words


@pytest.fixture(scope="module", params=[0, -1], ids=["first", "last"])
def point(request: pytest.FixtureRequest) -> int:
    index: int = request.param
    return index


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, OfflineRun]:
    """The first and the last point, at the same time: two agents in one folder."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "configs").symlink_to(CONFIGS)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = {
        index: subprocess.Popen(
            [*command(POINTS[index]), *SECONDS],
            cwd=folder,
            env=own_environment() | {"PATH": path, "WANDB_RUN_ID": f"point{index}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, -1)
    }
    for process in started.values():
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    return {index: offline_runs(folder / "runs" / "sweep" / f"point{index}")[0] for index in started}


def test_the_sweep_is_over_all_outer_gradients_rates_and_steps() -> None:
    methods = {point[0].removeprefix("litmaml.outer.") for point in POINTS}
    assert methods == {"SecondOrder", "FirstOrder", "FiniteDifference", "GaussianSmoothing", "ZerothOrder"}
    assert SWEEP["method"] == "grid"
    assert len(POINTS) == 30


@pytest.mark.slow
def test_a_point_is_the_run_that_the_agent_named(runs: dict[int, OfflineRun], point: int) -> None:
    outer_gradient, lr, steps = POINTS[point]
    run = runs[point]
    assert run.id == f"point{point}"
    model = run.config["model"]
    assert model["outer_gradient"]["class_path"] == outer_gradient
    assert model["inner_optimizer"]["init_args"]["lr"] == lr
    assert model["inner_steps"] == steps


def test_the_summary_has_the_metric_of_the_sweep(runs: dict[int, OfflineRun], point: int) -> None:
    best = runs[point].summary[SWEEP["metric"]["name"]]
    assert best == pytest.approx(min(runs[point].logged("val/loss")))
