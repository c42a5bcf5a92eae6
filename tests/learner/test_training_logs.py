"""What a line of the training log says is of the step that it stands at."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.tasks import stacks_of


@pytest.fixture
def learner() -> MetaLearner:
    """A learner whose weights stay where they are."""
    torch.manual_seed(0)
    return MetaLearner(
        MLP(1, 1, hidden=[6], activation="tanh"), loss=nn.MSELoss(), optimizer=lambda w: torch.optim.SGD(w, lr=0.0)
    )


@pytest.mark.parametrize("accumulated", [1, 2])
def test_lines_are_of_their_own_step(learner: MetaLearner, accumulated: int, tmp_path: Path) -> None:
    data = TaskDataModule(
        Sinusoid(Episode(shots=5, queries=5)), meta_batch=2, train_tasks=14 * accumulated, val_tasks=1
    )
    logger = CSVLogger(tmp_path, name="")
    Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=logger,
        log_every_n_steps=3,
        accumulate_grad_batches=accumulated,
        gradient_clip_val=1e-3,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(learner, data)
    (file,) = tmp_path.glob("version_*/metrics.csv")
    lines = [line for line in csv.DictReader(file.read_text().splitlines()) if line["train/gradient_norm"]]
    assert [line["step"] for line in lines] == ["2", "5"]
    for line in lines:
        last = int(line["step"]) * accumulated + accumulated - 1
        numbers = [range(2 * b, 2 * b + 2) for b in range(last - accumulated + 1, last + 1)]
        batches = [stack for each in numbers for stack in stacks_of(data.tasks.sample("train", each, seed=0))]
        gradients = [learner.meta_gradient(tasks).gradients for tasks in batches]
        mean = [torch.stack([g[name] for g in gradients]).sum(0) / accumulated for name in gradients[0]]
        norm = sum([float(part.square().sum()) for part in mean]) ** 0.5
        assert float(line["train/gradient_norm"]) == pytest.approx(norm, rel=1e-4)  # not clipped
        assert norm > 1e-3
        fast, slow = learner.inner_loop.shared_start(2)
        before = learner.inner_loop.losses(fast, slow, batches[-1].query).mean().detach()
        assert float(line["train/loss_before"]) == pytest.approx(float(before), rel=1e-4)
        assert float(line["train/meta_gradient_seconds"]) > 0
