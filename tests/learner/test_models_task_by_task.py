"""Models that PyTorch cannot compute for several tasks at once go through every stage by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases import ONCE, made
from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.diagnosis.diagnose import diagnose
from litmaml.inner import SGD, derivatives
from litmaml.learner.meta_learner import MetaLearner
from litmaml.outer import OuterGradient, OuterLoss, SecondOrder
from litmaml.tasks import Split, stacks_of
from quiet_trainer import quiet_trainer


class Recurrent(nn.Module):
    def __init__(self, cell: str = "LSTM") -> None:
        super().__init__()
        self.cell = cell
        layer = getattr(nn, cell)
        self.layer = layer(1, 4) if cell.endswith("Cell") else layer(1, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.cell.endswith("Cell"):
            state = None
            for _ in range(2):
                state = self.layer(x, state)
            hidden = state[0] if isinstance(state, tuple) else state
        else:
            hidden = self.layer(x[:, None])[0][:, -1]
        predicted: Tensor = self.head(hidden)
        return predicted


class Branching(nn.Module):
    """Takes a way that depends on the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        predicted: Tensor = self.head(torch.tanh(hidden) if bool(hidden.sum() > 0) else torch.sin(hidden))
        return predicted


@pytest.mark.parametrize("outer_gradient", made(ONCE))
@pytest.mark.parametrize("cell", [*("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell"), None])
@pytest.mark.parametrize("chunk", [None, 1])
def test_all_stages(cell: str | None, chunk: int | None, outer_gradient: OuterGradient, tmp_path: Path) -> None:
    learner = MetaLearner(
        Recurrent(cell) if cell else Branching(), SGD(0.01), outer_gradient, loss=nn.MSELoss(), tasks_per_chunk=chunk
    )
    data = TaskDataModule(Sinusoid(Episode(shots=5, queries=5)), meta_batch=4, train_tasks=8, val_tasks=4, test_tasks=4)
    trainer = quiet_trainer(tmp_path, max_epochs=1, log_every_n_steps=1)
    trainer.fit(learner, data)
    assert "train/loss_before" in trainer.callback_metrics
    trainer.test(learner, data, verbose=False)
    assert len(learner.results["loss"]) == 2


def test_recurrence_is_not_cudnns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has no second derivative; the setting is put back."""
    seen: list[bool] = []
    lstm = torch._VF.lstm
    loop = MetaLearner(Recurrent(), SGD(0.01), loss=nn.MSELoss()).inner_loop
    tasks = Sinusoid(Episode(shots=5, queries=5)).sample("train", range(2), 0)

    def noted(*args: Any) -> Any:
        seen.append(torch.backends.cudnn.enabled)
        return lstm(*args)

    tables: list[dict[Any, Any]] = [derivatives._IN_OTHER_FORM, derivatives._TWICE]
    for forms in tables:
        monkeypatch.setitem(forms, torch.lstm, derivatives._without_cudnn(noted))
    SecondOrder().solve(loop, OuterLoss(), *loop.start(tasks), tasks, 1)
    assert seen == [False] * 4  # support and query of two tasks
    assert torch.backends.cudnn.enabled


@pytest.mark.parametrize("model", [Recurrent(), Branching()])
def test_diagnosis(model: nn.Module) -> None:
    learner = MetaLearner(model, SGD(0.01), loss=nn.MSELoss())
    tasks = Sinusoid(Episode(shots=5, queries=5)).sample("train", range(3), 0)
    found = diagnose(learner, tasks)
    assert found.curvature.smoothness.value is not None
    assert found.curvature.smoothness.value > 0
    assert learner.inner_loop.mapped == (False if isinstance(model, Recurrent) else learner.inner_loop.mapped)


class Drawing(nn.Module):
    """Adds a random number to what a layer predicts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + torch.rand(())
        return out


def test_what_a_model_draws_is_of_the_tasks_split() -> None:
    learner = MetaLearner(Drawing(), SGD(0.01), loss=nn.MSELoss())
    learner.inner_loop.draws = True
    source = Sinusoid()
    (stack,) = stacks_of(source.sample("val", [3], 0))
    tasks = source.render(stack)
    losses = []
    splits: list[Split] = ["train", "val", "test", "val"]
    for split in splits:
        learner._evaluation.add(tasks, 1, split)
        losses.append(learner._evaluation.conclude(1, lambda _: None)[0]["loss"][-1].mean)
    assert losses[1] == losses[3]
    assert len({*losses}) == 3
