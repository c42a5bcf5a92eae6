"""What a checkpoint records makes the same learner again, or is left out of it with a word."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchmetrics import Metric

from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
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
    data = TaskDataModule(Sinusoid(Episode(shots=5, queries=5)), meta_batch=4, train_tasks=8, val_tasks=4, test_tasks=4)
    trainer = quiet_trainer(folder, **{"max_epochs": 1} | changes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(learner, data)
    file = folder / "last.ckpt"
    trainer.save_checkpoint(file)
    return file


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Scaled(0.1), r"gives other numbers by .*with another temperature; keep each argument"),
        (Wider(3), "size mismatch|Error"),
    ],
)
def test_a_model_whose_attribute_is_not_its_argument(model: nn.Module, why: str, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=rf"checkpoints will not rebuild model by themselves: .*({why})"):
        file = fitted(tmp_path, model)
    with pytest.raises(ValueError, match=r"model: the checkpoint has no recipe for it; pass model="):
        MetaLearner.load_from_checkpoint(file)
    x = torch.randn(3, 1)
    again = MetaLearner.load_from_checkpoint(file, model=type(model)(0.1 if isinstance(model, Scaled) else 3))
    assert torch.equal(again.inner_loop.model(x), model(x))


class Annealed(nn.Module):
    """A number that is no argument, and a table that is drawn and not kept."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head, self.scale, self.calls = nn.Linear(1, 1), 1.0, 0
        self.register_buffer("table", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.head(x) * self.scale * self.table
        return predicted


class Anneal(Callback):
    def __init__(self, change: Callable[[Annealed], None]) -> None:
        self.change = change

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *others: Any) -> None:
        assert isinstance(pl_module, MetaLearner)
        assert isinstance(pl_module.inner_loop.model, Annealed)
        self.change(pl_module.inner_loop.model)


def scaled(model: Annealed) -> None:
    model.scale += 0.5


def redrawn(model: Annealed) -> None:
    model.table += 1


def counted(model: Annealed) -> None:
    model.calls += 1


@pytest.mark.parametrize(("change", "name"), [(scaled, "scale"), (redrawn, "table")])
@pytest.mark.parametrize("before", [False, True])
def test_what_training_changes_outside_of_weights(
    change: Callable[[Annealed], None], name: str, before: bool, tmp_path: Path
) -> None:
    """By a callback, and before a run that takes no step."""
    model = Annealed()
    if before:
        change(model)
    changes = {"limit_train_batches": 0} if before else {"callbacks": [Anneal(change)]}
    why = rf"(gives other numbers by|is another one) .*\(with another {name}; keep .* in a registered buffer"
    with pytest.warns(UserWarning, match=rf"checkpoints will not rebuild model by themselves: .*{why}"):
        file = fitted(tmp_path, model, limit_val_batches=0, **changes)
    with pytest.raises(ValueError, match="model: the checkpoint has no recipe for it"):
        MetaLearner.load_from_checkpoint(file)


def test_what_changes_without_effect_is_no_other_model(tmp_path: Path) -> None:
    model = Annealed()
    file = fitted(tmp_path, model, callbacks=[Anneal(counted)])
    x = torch.randn(3, 1)
    assert model.calls == 2
    assert torch.equal(MetaLearner.load_from_checkpoint(file).inner_loop.model(x), model(x))


class Caching(nn.Module):
    """Keeps its last activations: of several tasks at once they are no tensors any more."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.last = torch.tanh(self.body(x))
        predicted: Tensor = self.head(self.last)
        return predicted


@pytest.mark.parametrize("steps", [0, 2])
def test_a_model_that_keeps_its_last_activations_is_recorded(steps: int, tmp_path: Path) -> None:
    model = Caching()
    file = fitted(tmp_path, model, limit_train_batches=steps)
    x = torch.randn(3, 1)
    assert torch.equal(MetaLearner.load_from_checkpoint(file).inner_loop.model(x), model(x))


SHARED: dict[str, nn.Module] = {}


class Registered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 1)
        SHARED["head"] = self.head

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = SHARED["head"](x)
        return predicted


def test_a_constructor_that_registers_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model: to make another one .* changes what the model here predicts.*; keep"):
        fitted(tmp_path, Registered())


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


class Unlike(nn.Module):
    """Another function in training, in evaluation, and with its head alone in evaluation: one of them by a number."""

    table: Tensor

    def __init__(self, where: str = "evaluation") -> None:
        super().__init__()
        self.where, self.temperature = where, 1.0
        self.head = nn.Linear(1, 1)
        self.register_buffer("table", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mode = "evaluation" if not self.training else "training" if self.head.training else "between"
        predicted: Tensor = self.head(x)
        return predicted * self.temperature * self.table if mode == self.where else predicted


@pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode at the start of training")
@pytest.mark.parametrize("name", ["temperature", "table"])
@pytest.mark.parametrize(
    ("where", "seen"), [("training", "training"), ("evaluation", "evaluation"), ("between", "training")]
)
def test_what_counts_in_one_mode_only(where: str, seen: str, name: str, tmp_path: Path) -> None:
    model = Unlike(where)
    if name == "table":
        model.table *= 3
    else:
        model.temperature = 2.0
    model.head.train(where != "between")
    with pytest.warns(UserWarning, match=rf"not rebuild model .* other numbers by .* in {seen} \(with another {name};"):
        fitted(tmp_path, model, limit_val_batches=0)


def test_the_modes_may_change_during_training(tmp_path: Path) -> None:
    """After the record was compared."""

    class Freeze(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.inner_loop.model.head.eval()  # type: ignore[union-attr]

    model = Unlike("between")
    model.temperature = 2.0
    with pytest.warns(UserWarning, match=r"not rebuild model .* in training \(with another temperature"):
        fitted(tmp_path, model, limit_val_batches=0, callbacks=[Freeze()])


class SingleOnly(nn.Module):
    """Takes no float64, and is off by its attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self.head = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        predicted: Tensor = self.head(x) * self.scale
        return predicted


@pytest.mark.parametrize("scale", [1.005, 1.0])
def test_a_model_in_single_precision_is_compared_by_it(scale: float, tmp_path: Path) -> None:
    model = SingleOnly()
    model.scale = scale
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fitted(tmp_path, model, limit_val_batches=0)
    assert any("will not rebuild model" in str(word.message) for word in said) == (scale != 1)


class OfTwoSizes(nn.Module):
    """Two outputs, one of which is a million times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self.head = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        large, small = self.head(x).unbind(1)
        return torch.stack([1e6 * large, self.scale * small], 1)


class OfTheSum(nn.Module):
    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (1e-6 * predictions.sum(1, keepdim=True) - targets).square().mean()


def test_each_output_is_judged_by_its_own_size(tmp_path: Path) -> None:
    model = OfTwoSizes()
    model.scale = 1.01
    with pytest.warns(UserWarning, match=r"not rebuild model .* \(with another scale"):
        fitted(tmp_path, model, OfTheSum(), limit_val_batches=0)


class Times(Metric):
    """Keeps the square of its argument under the argument's name."""

    total: Tensor

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor**2
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.total = self.total + self.factor * (predictions - targets).abs().mean()

    def compute(self) -> Tensor:
        return self.total


class Count(Metric):
    """Gives a whole number."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.total = self.total + len(predictions)

    def compute(self) -> Tensor:
        return self.total


@pytest.mark.parametrize("factor", [2.0, 1.0])
def test_a_metric_whose_attribute_is_not_its_argument(factor: float, tmp_path: Path) -> None:
    metrics = {"mine": Times(factor), "number": Count()}
    learner = MetaLearner(MLP(hidden=[4]), SGD(0.01), loss=nn.MSELoss(), metrics=metrics)
    data = TaskDataModule(Sinusoid(Episode(shots=5, queries=5)), meta_batch=4, train_tasks=8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(learner, data)
    found = [str(word.message) for word in said if "will not rebuild metrics" in str(word.message)]
    assert len(found) == (factor != 1)
    assert factor == 1 or "gives another value by" in found[0]


class Kinds(nn.Module):
    """Weights of several dtypes, the first of which is not that of the others."""

    def __init__(self, dtype: str = "complex64") -> None:
        super().__init__()
        self.dtype = dtype
        self.scale = nn.Parameter(torch.ones(1, dtype=getattr(torch, dtype)), requires_grad=dtype == "complex64")
        self.head = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        scaled = x.to(self.scale.dtype) * self.scale
        predicted: Tensor = self.head((scaled.real if scaled.is_complex() else scaled).to(x.dtype))
        return predicted


@pytest.mark.parametrize("dtype", ["complex64", "bfloat16"])
def test_weights_of_several_dtypes_come_back(dtype: str, tmp_path: Path) -> None:
    model = Kinds(dtype)
    again = MetaLearner.load_from_checkpoint(fitted(tmp_path, model)).inner_loop.model
    assert {name: w.dtype for name, w in again.named_parameters()} == {n: w.dtype for n, w in model.named_parameters()}
    x = torch.randn(3, 1)
    assert torch.equal(again(x), model(x))
