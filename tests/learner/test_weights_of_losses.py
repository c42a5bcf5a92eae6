"""Losses that weigh classes: recorded, made again, and replaced by what is typed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import litmaml
from litmaml.data import Episode, TaskDataModule, TaskDistribution
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.tasks import Batch, Split, Tasks, stacks_of
from quiet_trainer import quiet_trainer

WEIGHTS = torch.tensor([0.2, 1.0, 5.0])
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "cross entropy": lambda: nn.CrossEntropyLoss(weight=WEIGHTS),
    "smoothed": lambda: nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.1),
    "yes or no": lambda: nn.BCEWithLogitsLoss(pos_weight=WEIGHTS),
    "one weight of yes": lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor(7.0)),
    "each weighted": lambda: nn.BCEWithLogitsLoss(weight=WEIGHTS[None]),
}


class Rows(TaskDistribution):
    """Rows of four numbers: which of three classes, each of them there, or which labels they have."""

    def __init__(self, yes_or_no: bool = False) -> None:
        super().__init__(Episode(shots=2, queries=2))
        self.yes_or_no = yes_or_no

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return {"split": split}

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        def batch(examples: int) -> Batch:
            x = torch.randn(len(numbers), examples, 4, generator=draw)
            if self.yes_or_no:
                return Batch(x, (x[..., :3] > 0).float())
            labels = (torch.arange(examples) % 3).expand(x.shape[:2])
            return Batch(x + functional.one_hot(labels, 4), labels)

        draw = torch.Generator().manual_seed(seed + 1000 * numbers[0] + ["train", "val", "test"].index(split))
        return Tasks((batch(6),), batch(6), torch.tensor([*numbers]))


def data(loss: nn.Module) -> TaskDataModule:
    return TaskDataModule(Rows(isinstance(loss, nn.BCEWithLogitsLoss)), 2, train_tasks=4, val_tasks=2, test_tasks=4)


def trained(folder: Path, loss: nn.Module) -> tuple[MetaLearner, Path]:
    torch.manual_seed(0)
    learner = MetaLearner(MLP(4, 3), SGD(0.1), loss=loss, metrics={})
    trainer = quiet_trainer(folder, max_epochs=1, limit_val_batches=0)
    trainer.fit(learner, data(loss))
    trainer.save_checkpoint(folder / "last.ckpt")
    return learner, folder / "last.ckpt"


def loss_in_a_test(learner: MetaLearner, folder: Path) -> float:
    quiet_trainer(folder).test(learner, data(learner.inner_loop.loss), verbose=False)
    return learner.results["loss"][-1].mean


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_with_weights_comes_back_from_the_checkpoint(name: str, tmp_path: Path) -> None:
    learner, file = trained(tmp_path, LOSSES[name]())
    again = MetaLearner.load_from_checkpoint(file)
    assert again.inner_loop.loss.state_dict().keys() == learner.inner_loop.loss.state_dict().keys() != {}.keys()
    assert loss_in_a_test(again, tmp_path) == loss_in_a_test(learner, tmp_path)
    (tasks,) = stacks_of(data(learner.inner_loop.loss).tasks.sample("test", range(1), 0))
    x, y = tasks.query.inputs[0], tasks.query.targets[0]
    first, second = (litmaml.adapt(one, x, y, steps=2) for one in (learner, file))
    torch.testing.assert_close(first(x), second(x))
    trainer = quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    trainer.fit(again, data(again.inner_loop.loss), ckpt_path=file)  # as resuming does
    assert trainer.global_step == 4


@pytest.mark.parametrize("given", [None, torch.tensor([3.0, 0.1, 1.0])])
def test_the_weights_that_are_given_take_the_place_of_those_recorded(given: Tensor | None, tmp_path: Path) -> None:
    learner, file = trained(tmp_path, LOSSES["cross entropy"]())
    other = MetaLearner.load_from_checkpoint(file, loss=nn.CrossEntropyLoss(weight=given))
    weight = other.inner_loop.loss.weight
    assert weight is None if given is None else torch.equal(weight, given)  # type: ignore[arg-type]
    assert loss_in_a_test(other, tmp_path) != loss_in_a_test(learner, tmp_path)
    for name, value in learner.inner_loop.model.state_dict().items():
        assert torch.equal(other.inner_loop.model.state_dict()[name], value)


def test_what_a_loss_of_ones_own_has_computed_is_loaded(tmp_path: Path) -> None:
    class Counting(nn.MSELoss):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

    learner, other = (MetaLearner(MLP(4, 3), loss=Counting()) for _ in range(2))
    learner.inner_loop.loss.seen.fill_(5)  # type: ignore[operator]  # a buffer
    other.load_state_dict(learner.state_dict())
    assert other.inner_loop.loss.seen == 5
