"""Short meta-trainings, and a user's pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gratings import draw
from torch import nn

from litmaml.data import Episode, ImageFolderTasks, ImageFormat, Sinusoid, TaskDataModule
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP, Conv4
from quiet_trainer import quiet_trainer


def trained(folder: Path, learner: MetaLearner, data: TaskDataModule) -> Path:
    """The folder of a run with checkpoints."""
    trainer = quiet_trainer(folder, max_steps=4, limit_val_batches=0)
    trainer.fit(learner, data)
    for name in ("best", "last"):
        trainer.save_checkpoint(folder / "checkpoints" / f"{name}.ckpt")
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on gratings of three classes, 28 x 28, with batch norm."""
    folder = tmp_path_factory.mktemp("run")
    draw(folder / "images", [f"class {k}" for k in range(15)], each=4)
    tasks = ImageFolderTasks(str(folder / "images"), ImageFormat(28), train=Episode(ways=3, shots=1, queries=2))
    torch.manual_seed(0)
    learner = MetaLearner(Conv4(ways=3, filters=8), SGD(lr=0.2), test_inner_steps=3)
    return trained(folder, learner, TaskDataModule(tasks, meta_batch=4, train_tasks=16, val_tasks=4))


@pytest.fixture(scope="session")
def sinusoid_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of regression."""
    torch.manual_seed(0)
    learner = MetaLearner(MLP(), SGD(lr=0.01), loss=nn.MSELoss(), inner_steps=5)
    data = TaskDataModule(Sinusoid(), meta_batch=4, train_tasks=16, val_tasks=4)
    return trained(tmp_path_factory.mktemp("sinusoid"), learner, data)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes, with names as people give them: data (3 images each), query (4 each) and flat (unlabelled)."""
    folder = tmp_path_factory.mktemp("images")
    names = ["Blaue Meise", "ворона", "鶴", 'a|b, "c" $x$']
    draw(folder / "data", names, each=3)
    draw(folder / "query", names, each=4, seed=100)
    (folder / "flat").mkdir()
    for k, file in enumerate(sorted((folder / "query").rglob("*.png"))):
        (folder / "flat" / f"{k}.png").write_bytes(file.read_bytes())
    return folder
