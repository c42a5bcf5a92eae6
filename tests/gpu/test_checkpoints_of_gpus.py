"""Runs that were saved on a GPU, on a machine that has none: their files name it beside every tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from litmaml import MetaLearner, TaskDataModule
from litmaml.data import Episode, Sinusoid
from litmaml.inner import SGD
from litmaml.models import MLP
from quiet_trainer import quiet_trainer

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]


def learner() -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(MLP(hidden=[4]), SGD(0.01, learn="tensor"), loss=nn.MSELoss())


def data() -> TaskDataModule:
    return TaskDataModule(Sinusoid(Episode(shots=4, queries=4)), meta_batch=2, train_tasks=8, val_tasks=2)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint after two steps, of tensors on the GPU with number 1."""
    trainer, path = quiet_trainer(tmp_path, max_steps=2, limit_val_batches=0), tmp_path / "gpu.ckpt"
    trainer.fit(learner(), data())
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:1")
        trainer.save_checkpoint(path)
    with pytest.raises(RuntimeError, match="deserialize object on a CUDA device"):
        torch.load(path, weights_only=True)
    return path


def test_a_learner_is_loaded_to_the_cpu(saved: Path) -> None:
    loaded = MetaLearner.load_from_checkpoint(saved)
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}


def test_a_run_goes_on_as_if_it_had_been_there(saved: Path, tmp_path: Path) -> None:
    ends: list[dict[str, Any]] = []
    for path in (None, str(saved)):
        going = learner()
        quiet_trainer(tmp_path, max_steps=4, limit_val_batches=0).fit(going, data(), ckpt_path=path, weights_only=False)
        ends.append(going.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], part) for name, part in ends[1].items())
