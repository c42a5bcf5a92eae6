"""Heads that start in each task anew through a whole run: training, checkpoint, tests of more classes, fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import litmaml
from litmaml import MetaLearner
from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.inner import SGD
from litmaml.inner.task_head import HeadStart
from litmaml.models import MLP
from litmaml.tasks import Batch, MetaBatch, Tasks
from quiet_trainer import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step`"),
    pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`"),
]
STARTS = pytest.mark.parametrize("start", ["zero", "prototypes"])


class Backwards(nn.Module):
    """Its head is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(5, 2), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.body(x)))
        return logits


def tasks_of(ways: int, size: int = 4, first: int = 0, shots: int = 3) -> Tasks:
    draw = torch.Generator().manual_seed(100 * ways + first)
    centres = 2 * torch.randn(size, ways, 4, generator=draw)

    def batch() -> Batch:
        labels = torch.arange(ways).repeat(shots).expand(size, -1)
        noise = torch.randn(size, ways * shots, 4, generator=draw)
        return Batch(centres.repeat(1, shots, 1) + 0.3 * noise, labels)

    return Tasks((batch(),), batch(), torch.arange(first, first + size))


def served(batches: Sequence[MetaBatch]) -> DataLoader[MetaBatch]:
    return DataLoader([*batches], batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def learner_of(start: HeadStart, model: nn.Module | None = None, head: str | None = None) -> MetaLearner:
    torch.manual_seed(0)
    model = MLP(inputs=4, outputs=4, hidden=[6]) if model is None else model
    return MetaLearner(
        model,
        SGD(lr=0.1, learn="parameter"),
        inner_steps=2,
        optimizer=lambda w: torch.optim.Adam(w, 0.01),
        head=head,
        head_start=start,
    )


def fitted(start: HeadStart, folder: Path) -> MetaLearner:
    learner = learner_of(start)
    trainer = quiet_trainer(folder, max_epochs=1, log_every_n_steps=1)
    # Stacks of two and four classes, and one of both.
    mixed = (tasks_of(2, first=10), tasks_of(4, first=20))
    trainer.fit(learner, served([tasks_of(3), mixed, tasks_of(3, first=30)]), served([tasks_of(3, first=40)]))
    trainer.save_checkpoint(folder / "run.ckpt")
    return learner


@STARTS
@pytest.mark.filterwarnings("ignore:targets")
def test_a_run_trains_what_is_before_the_head(start: HeadStart, tmp_path: Path) -> None:
    begun = {name: weight.clone() for name, weight in learner_of(start).inner_loop.named_parameters()}
    learner = fitted(start, tmp_path)
    moved = {n for n, weight in learner.inner_loop.named_parameters() if not torch.equal(weight, begun[n])}
    rates = {name for name in begun if name.startswith("learnt.")}
    assert moved == {"model.body.1.weight", "model.body.1.bias"} | rates
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert len(saved["optimizer_states"][0]["state"]) == len(moved), "what is not trained has no state"
    shapes = {name: tuple(rate.shape) for name, rate in learner.inner_loop.learnt.named_parameters()}
    assert shapes["rate/head/weight"] == (1, 6), "a rate for each feature, whatever the classes"

    again = MetaLearner.load_from_checkpoint(tmp_path / "run.ckpt")
    assert again.inner_loop.head == learner.inner_loop.head
    given = MetaLearner.load_from_checkpoint(tmp_path / "run.ckpt", model=learner.inner_loop.model)
    # Tasks of more classes than the model has outputs, beside some of fewer.
    for ways in (7, 2):
        results = []
        for one in (learner, again, given):
            quiet_trainer(tmp_path).test(one, served([tasks_of(ways), tasks_of(ways, first=50)]), verbose=False)
            results.append({name: curve[-1].mean for name, curve in one.results.items()})
        assert results[0] == results[1] == results[2]
        assert results[0]["accuracy"] > 1.5 / ways
        assert learner.baseline_results["nearest_class_mean"]["accuracy"].mean > 1.5 / ways
    resumed = learner_of(start)
    quiet_trainer(tmp_path, max_epochs=2).fit(resumed, served([tasks_of(3)]), ckpt_path=tmp_path / "run.ckpt")


@STARTS
def test_fine_tuning_starts_the_head_by_the_whole_support_set(start: HeadStart, tmp_path: Path) -> None:
    """300 examples, of which the gradient is taken in two parts."""
    learner = learner_of(start)
    (support,), query = tasks_of(6, size=1, shots=50)[:2]
    x, y = support.inputs[0], support.targets[0]
    tuner = FineTuner(learner, x[:2], 6, steps=2)
    first, *_, last = tuner.path(x, y)
    weight = first.weights["head.weight"][0]
    assert weight.shape == (6, 6)
    if start == "zero":
        assert not weight.any()
    else:
        features = learner.inner_loop.model.get_submodule("body")(x)
        means = torch.stack([features[y == k].mean(0) for k in range(6)])
        torch.testing.assert_close(weight, 2 * means)
        torch.testing.assert_close(first.weights["head.bias"][0], -means.square().sum(1))
        assert first.accuracy is not None
        assert first.accuracy > 0.5
    adapted = litmaml.adapt(learner, x, y, steps=2)
    torch.testing.assert_close(adapted(x), tuner.predict(last.weights, x))
    adapted.save(tmp_path)
    torch.testing.assert_close(litmaml.load(tmp_path)(query.inputs[0]), adapted(query.inputs[0]))


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
def test_a_head_that_is_not_registered_last_has_to_be_named(tmp_path: Path) -> None:
    guessed = learner_of("prototypes", Backwards())
    with pytest.raises(ValueError, match="the last layer that is registered is body, but the logits come from head"):
        quiet_trainer(tmp_path, max_steps=1).fit(guessed, served([tasks_of(2)]))
    named = learner_of("prototypes", Backwards(), "head")
    trainer = quiet_trainer(tmp_path, max_steps=1)
    trainer.fit(named, served([tasks_of(2)]))
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = MetaLearner.load_from_checkpoint(tmp_path / "run.ckpt")
    assert again.inner_loop.begun == named.inner_loop.begun == ("head.weight", "head.bias")


@pytest.mark.parametrize("start", ["learnt", "zero", "prototypes"])
def test_another_layer_than_gives_the_logits_cannot_be_named(start: HeadStart, tmp_path: Path) -> None:
    """Also where it is as wide as they are; else tests would take its inputs for features."""
    model = MLP(inputs=4, outputs=4, hidden=[4])
    wrong = r"head: the logits come from head, got 'body\.1'; name that, or leave it out"
    with pytest.raises(ValueError, match=wrong):
        quiet_trainer(tmp_path, max_steps=1).fit(learner_of(start, model, "body.1"), served([tasks_of(3)]))
    learner, (x, y) = learner_of(start, model), tasks_of(3, size=1).query
    with pytest.raises(ValueError, match=wrong):
        litmaml.adapt(learner, x[0], y[0], head="body.1")
    litmaml.adapt(learner, x[0], y[0], head="head", steps=1)


def test_a_head_that_cannot_be_told_can_be_named(tmp_path: Path) -> None:
    class Summed(Backwards):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = super().forward(x) + x[:, :2]
            return logits

    learner = learner_of("zero", Summed(), "head")
    with pytest.warns(UserWarning, match="checkpoints will not rebuild model"):
        quiet_trainer(tmp_path, max_steps=1).fit(learner, served([tasks_of(2)]))


@STARTS
@pytest.mark.filterwarnings("ignore:targets")
def test_a_loss_that_weighs_classes_needs_as_many_in_each_task(start: HeadStart, tmp_path: Path) -> None:
    torch.manual_seed(0)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    learner = MetaLearner(MLP(inputs=4, outputs=3, hidden=[6]), SGD(lr=0.1), loss=loss, head_start=start)
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    with pytest.raises(ValueError, match="loss: its weight is for 3 classes, and task 20 has 2, as many as its head"):
        trainer.fit(learner, served([tasks_of(3), tasks_of(2, first=20)]))


def test_without_anything_to_train_there_is_no_training(tmp_path: Path) -> None:
    learner = MetaLearner(MLP(inputs=4, outputs=4, hidden=[6]), frozen_weights=["body.*"], head_start="zero")
    with pytest.raises(
        ValueError, match=r"model: the outer loop has nothing to train.*litmaml test -c CONFIG --ckpt_path=none"
    ):
        quiet_trainer(tmp_path, max_steps=1).fit(learner, served([tasks_of(3)]))
    quiet_trainer(tmp_path).test(learner, served([tasks_of(3)]), verbose=False)
    assert learner.results["accuracy"][-1].mean > 0


def test_training_tasks_have_at_most_as_many_classes_as_the_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model: its head gives 4 logits, and a training task has 5 classes; give it"):
        quiet_trainer(tmp_path, max_steps=1).fit(learner_of("zero"), served([tasks_of(5)]))


def test_what_is_measured_at_one_start_of_all_tasks_is_refused() -> None:
    with pytest.raises(ValueError, match="head_start: what is measured at the weights that all tasks start from"):
        learner_of("prototypes").inner_loop.shared_start(1)
