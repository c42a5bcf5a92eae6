"""Short runs on little images, offline, and without a trace in the user's folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image


@pytest.fixture(scope="session")
def wandb_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an offline run whose files all lie in temporary folders."""
    folders = {name: str(tmp_path_factory.mktemp(name.lower())) for name in ("DATA", "CACHE", "CONFIG")}
    settings = {"MODE": "offline", "SILENT": "true", "DISABLE_GIT": "true", "ERROR_REPORTING": "false"}
    return {f"WANDB_{name}_DIR": path for name, path in folders.items()} | {
        f"WANDB_{name}": value for name, value in settings.items()
    }


@pytest.fixture(scope="module", autouse=True)
def offline(wandb_folders: dict[str, str]) -> Iterator[None]:
    """W&B offline."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wandb_folders.items():
            patch.setenv(name, value)
        patch.delenv("WANDB_RUN_ID", raising=False)
        yield


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration: 3 ways, 1 shot, from twenty classes of four squares in noise, with names of many kinds."""
    folder = tmp_path_factory.mktemp("experiment")
    generator = torch.Generator().manual_seed(0)
    for label in range(20):
        (folder / "images" / f"буква {label}").mkdir(parents=True)
        for k in range(4):
            pixels = torch.randint(0, 90, (16, 16), generator=generator, dtype=torch.uint8)
            pixels[label % 10 : label % 10 + 4, label // 2 : label // 2 + 4] += 150
            Image.fromarray(pixels.numpy()).save(folder / "images" / f"буква {label}" / f"{k}.png")
    config = {
        "model": {
            "model": {"class_path": "litmaml.models.Conv4", "init_args": {"ways": 3, "filters": 4, "size": 16}},
            "outer_gradient": {"class_path": "litmaml.outer.FirstOrder"},
            "test_inner_steps": 2,
        },
        "data": {
            "tasks": {
                "class_path": "litmaml.data.ImageFolderTasks",
                "init_args": {"root": str(folder / "images"), "train": {"ways": 3, "shots": 1, "queries": 2}}
                | {"image_format": {"size": 16, "channels": 1}},
            },
            "meta_batch": 2,
            "train_tasks": 8,
            "val_tasks": 5,
            "test_tasks": 7,
        },
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "log_every_n_steps": 2,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "checkpoint": {"monitor": "val/accuracy", "mode": "max"},
    }
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return file
