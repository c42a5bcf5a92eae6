"""What a run says before its first step compiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from litmaml import MetaLearner, TaskDataModule
from litmaml.data import Sinusoid
from litmaml.engine.switches import without
from litmaml.models import MLP
from quiet_trainer import quiet_trainer


@pytest.mark.parametrize("compile", [True, False])
def test_a_run_that_compiles_says_so_and_makes_the_compiler_ready(
    compile: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    ready: list[torch.device] = []
    monkeypatch.setattr("litmaml.learner.compilation.rank_zero_info", told.append)
    monkeypatch.setattr("litmaml.learner.compilation.make_ready", ready.append)
    learner = MetaLearner(MLP(1, 1), loss=torch.nn.MSELoss(), compile=compile)
    with without("program"):
        trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
        trainer.fit(learner, TaskDataModule(Sinusoid(), 4, train_tasks=4, val_tasks=4))
    assert ready == [torch.device("cpu")] * compile
    assert ["first step makes a program" in line for line in told] == [True] * compile
