"""Data of one's own, as docs/data.md says it: from YAML alone."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from litmaml.cli.main import main

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
MODEL: dict[str, Any] = {"inner_optimizer": {"class_path": "litmaml.inner.SGD", "init_args": {"lr": 0.1}}}
TRAINER = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "default_root_dir": "run"}
pytestmark = pytest.mark.filterwarnings("ignore:.*log_every_n_steps:UserWarning")


def blocks(kind: str) -> list[str]:
    """The blocks of code of the guide, in order."""
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL)


def network(outputs: int, inputs: int) -> dict[str, Any]:
    sizes = {"inputs": inputs, "outputs": outputs, "hidden": [8]}
    return MODEL | {"model": {"class_path": "litmaml.models.MLP", "init_args": sizes}}


def tried(
    place: Path, model: Mapping[str, Any], tasks: Mapping[str, Any], tests: int = 4, told: str = ""
) -> dict[str, Any]:
    """What a test of a short run writes, of which it is told the checkpoint, and what is named."""
    data = {"tasks": tasks, "meta_batch": 2, "train_tasks": 4, "val_tasks": 2, "test_tasks": tests}
    (place / "c.yaml").write_text(yaml.safe_dump({"model": {**model}, "data": data, "trainer": TRAINER}))
    main(["fit", "-c", "c.yaml"])
    main(["test", "--ckpt_path=run", *told.split()])
    results: dict[str, Any] = json.loads((place / "run" / "test_results.json").read_text())
    return results


def test_a_distribution_in_thirty_lines(place: Path) -> None:
    code, config = blocks("python")[0], blocks("yaml")[0]
    assert len(code[code.index("class ") :].strip().splitlines()) <= 30
    (place / "sensors.py").write_text(code)
    (place / "sensors.yaml").write_text(config)
    main(
        [
            "fit",
            "-c",
            "sensors.yaml",
            "--data.val_tasks=20",
            "--data.train_tasks=500",
            "--trainer.enable_progress_bar=false",
        ]
    )
    main(["test", "--ckpt_path=runs/sensors", "--imports=sensors", "--trainer.enable_progress_bar=false"])
    found = json.loads((place / "runs" / "sensors" / "test_results.json").read_text())
    before, *_, after = (step["loss"]["mean"] for step in found["steps"])
    assert after < before / 2
    tasks = sys.modules["sensors"].Sensors()
    both, one = (tasks.sample("train", numbers, 0) for numbers in ([3, 4], [4]))
    assert torch.equal(both.query.inputs[1], one.query.inputs[0])


def test_the_guides_other_settings_are_yaml() -> None:
    for block in blocks("yaml"):
        assert isinstance(yaml.safe_load(block), dict)


DATASET = """
import torch
from torch.utils.data import Dataset


class Kinds(Dataset):
    def __init__(self, kinds: int = 12):
        self.kinds, self.targets = kinds, [k // 6 for k in range(6 * kinds)]

    def __len__(self):
        return 6 * self.kinds

    def __getitem__(self, k):
        return torch.tensor([k // 6, k % 6]).float(), k // 6


def made():
    return Kinds(15)
"""


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        ({"class_path": "mine.Kinds"}, "--imports=mine"),
        pytest.param("mine.made", "-c run/config.yaml", marks=pytest.mark.slow),
    ],
)
def test_a_dataset_by_its_class_or_function(place: Path, dataset: object, told: str) -> None:
    (place / "mine.py").write_text(DATASET)
    given = {"dataset": dataset, "train": {"ways": 2, "shots": 1, "queries": 2}}
    tasks = {"class_path": "litmaml.data.DatasetTasks", "init_args": given}
    found = tried(place, network(2, 2), tasks, told=told)
    assert (found["protocol"]["dataset"], found["protocol"]["classes"]) == ("Kinds", 2 if "=" in told else 3)


def test_any_way_any_shot(place: Path) -> None:
    (place / "mine.py").write_text(DATASET)
    inner = {"dataset": {"class_path": "mine.Kinds", "init_args": {"kinds": 20}}, "train": {"ways": 2, "queries": 2}}
    given = {"tasks": {"class_path": "litmaml.data.DatasetTasks", "init_args": inner}, "ways": [2, 4], "shots": [1, 3]}
    model = network(4, 2) | {"head_start": "prototypes"}
    found = tried(place, model, {"class_path": "litmaml.data.AnyWay", "init_args": given}, 9, "--imports=mine")
    assert (found["protocol"]["ways"], found["protocol"]["shots"]) == ("2 to 4", "1 to 3")
    assert found["steps"][-1]["accuracy"]["mean"] > 0.6
