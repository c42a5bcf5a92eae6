"""What a checkpoint records makes the same learner again, or is left out of it with a word."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litmaml.data import Sinusoid, TaskDataModule
from litmaml.inner import SGD
from litmaml.meta_learner import MetaLearner
from litmaml.models import MLP
from quiet_trainer import quiet_trainer


class Scaled(nn.Module):
    """Keeps the reciprocal of its argument under the argument's name."""

    def __init__(self, temperature: float = 10.0) -> None:
        super().__init__()
        self.temperature = 1 / temperature
        self.head = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.head(x) * self.temperature
        return predicted


class Wider(nn.Module):
    def __init__(self, hidden: int = 2) -> None:
        super().__init__()
        self.hidden = 2 * hidden
        self.body, self.head = nn.Linear(1, self.hidden), nn.Linear(self.hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.head(torch.tanh(self.body(x)))
        return predicted


class ScaledLoss(nn.Module):
    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = scale**2

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self.scale * (predictions - targets).square().mean()


class Honest(nn.Module):
    """Random numbers, a number that is made whole, and dropout: nothing of that is another model."""

    def __init__(self, hidden: int = 4, rate: float = 0.5) -> None:
        super().__init__()
        self.hidden, self.rate = max(int(hidden), 1), rate
        self.body, self.head = nn.Linear(1, self.hidden), nn.Linear(self.hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.head(nn.functional.dropout(self.body(x), self.rate, self.training))
        return predicted


def fitted(folder: Path, model: nn.Module, loss: nn.Module | None = None, **changes: Any) -> Path:
    learner = MetaLearner(model, SGD(0.01), loss=loss or nn.MSELoss())
    data = TaskDataModule(Sinusoid(shots=5, queries=5), meta_batch=4, train_tasks=8, val_tasks=4, test_tasks=4)
    trainer = quiet_trainer(folder, **{"max_epochs": 1} | changes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(learner, data)
    file = folder / "last.ckpt"
    trainer.save_checkpoint(file)
    return file


@pytest.mark.parametrize(
    ("model", "why"),
    [(Scaled(0.1), r"gives other numbers by .*an attribute has an argument's name"), (Wider(3), "size mismatch|Error")],
)
def test_a_model_whose_attribute_is_not_its_argument(model: nn.Module, why: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=rf"checkpoints will not rebuild model by themselves: .*({why})"):
        file = fitted(tmp_path, model)
    with pytest.raises(ValueError, match=r"model: the checkpoint has no recipe for it; pass model="):
        MetaLearner.load_from_checkpoint(file)
    x = torch.randn(3, 1)
    again = MetaLearner.load_from_checkpoint(file, model=type(model)(0.1 if isinstance(model, Scaled) else 3))
    assert torch.equal(again.inner_loop.model(x), model(x))


def test_a_loss_whose_attribute_is_not_its_argument(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="checkpoints will not rebuild loss by themselves"):
        fitted(tmp_path, MLP(hidden=[4]), ScaledLoss(3.0))


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("model", [MLP(hidden=[4]), Honest(), nn.Sequential(nn.Linear(1, 1))])
def test_an_honest_model_is_recorded(model: nn.Module, precision: str, tmp_path: Path) -> None:
    described = not isinstance(model, nn.Sequential)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        file = fitted(tmp_path, model, precision=precision)
    assert described == (not any("will not rebuild model" in str(word.message) for word in said))
    if described:
        x = torch.randn(3, 1)
        again = MetaLearner.load_from_checkpoint(file).inner_loop.model
        weights = next(again.parameters())
        torch.testing.assert_close(
            again.eval()(x.to(weights)), model.eval()(x.to(next(model.parameters()))).to(weights)
        )
