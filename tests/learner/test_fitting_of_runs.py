"""A run that goes on from a checkpoint takes as many tasks at once as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from litmaml import MetaLearner, TaskDataModule
from litmaml.data import Sinusoid
from litmaml.models import MLP
from litmaml.outer import memory as module
from quiet_trainer import quiet_trainer


def learner_and_data() -> tuple[MetaLearner, TaskDataModule]:
    learner = MetaLearner(MLP(hidden=[8]), loss=torch.nn.MSELoss())
    return learner, TaskDataModule(Sinusoid(), 8, train_tasks=8, val_tasks=4)


def test_a_checkpoint_keeps_the_room_for_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 10**9)
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(*learner_and_data())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert not MetaLearner.load_from_checkpoint(tmp_path / "run.ckpt").meta_gradient.fitting.state(), "no run goes on"
    monkeypatch.setattr(module, "free_memory", lambda device: 2 * 10**9)
    learner, data = learner_and_data()
    quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(learner, data, ckpt_path=tmp_path / "run.ckpt")
    assert learner.meta_gradient.fitting.state() == {"room": pytest.approx(8e8)}
