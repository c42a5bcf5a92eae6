"""What may be set in a learner that is there, and what would only look as if it were set."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from litmaml import MetaLearner, TaskDataModule
from litmaml.data import Episode, Sinusoid
from litmaml.inner import SGD
from litmaml.models import MLP
from litmaml.outer import FirstOrder, OuterLoss, SecondOrder


def learner(**arguments: Any) -> MetaLearner:
    return MetaLearner(MLP(1, 1, hidden=[4]), SGD(lr=0.1), SecondOrder(), torch.nn.MSELoss(), **arguments)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inner_optimizer", SGD(lr=1.0)),
        ("outer_gradient", FirstOrder()),
        ("outer_loss", OuterLoss()),
        ("inner_steps", 3),
        ("tasks_per_chunk", 2),
        ("fast_weights", ["head.*"]),
    ],
)
def test_what_has_gone_into_parts_is_not_set(name: str, value: object) -> None:
    made = learner()
    with pytest.raises(AttributeError, match=rf"^{name}: is fixed .*MetaLearner\(model, \.\.\., {name}="):
        setattr(made, name, value)
    assert "1 inner step of SGD(lr=0.1), outer gradient SecondOrder()" in repr(made)
    assert made.inner_steps == made.meta_gradient.steps == 1


def test_what_is_set_is_in_checkpoints(tmp_path: Path) -> None:
    made = learner()
    made.test_inner_steps, made.on_nonfinite = 4, "skip"
    trainer = Trainer(default_root_dir=tmp_path, logger=False, accelerator="cpu")
    trainer.strategy.connect(made)
    trainer.save_checkpoint(tmp_path / "made.ckpt")
    loaded = MetaLearner.load_from_checkpoint(tmp_path / "made.ckpt")
    assert loaded.evaluation_steps == 4
    assert loaded.on_nonfinite == "skip"


def test_a_copy_is_a_learner_of_its_own() -> None:
    made = learner(test_inner_steps=2)
    other = copy.deepcopy(made)
    other.test_inner_steps = 5
    assert (made.hparams["test_inner_steps"], other.hparams["test_inner_steps"]) == (2, 5)


def test_another_learner_goes_on_with_the_weights() -> None:
    made = learner()
    other = MetaLearner(made.inner_loop.model, SGD(lr=0.1), FirstOrder(), torch.nn.MSELoss(), inner_steps=3)
    assert other.inner_loop.model is made.inner_loop.model
    assert other.meta_gradient.steps == 3


def test_an_earlier_trainer_tests_after_a_later_one_with_data_alone(tmp_path: Path) -> None:
    made, data = learner(), TaskDataModule(Sinusoid(Episode(shots=2, queries=2)), 2, train_tasks=4, val_tasks=2)
    data.test_tasks = 2
    quiet: dict[str, Any] = {"logger": False, "accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 1}
    first = Trainer(default_root_dir=tmp_path / "first", enable_model_summary=False, **quiet)
    first.fit(made, data)
    first.test(made, data, verbose=False)
    Trainer(enable_checkpointing=False, enable_model_summary=False, **quiet).fit(made, data)
    with pytest.raises(ValueError, match=r"^data: test was given none; write trainer\.test\(learner, data\)"):
        first.test(
            ckpt_path="best", verbose=False
        )  # which reads the best weights first, with data that the later trainer has by now
    made.evaluated_tasks = 0
    first.test(datamodule=data, ckpt_path="best", verbose=False)
    assert made.evaluated_tasks == 2


def test_data_that_are_no_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^tasks: takes a distribution of tasks, got list; give such as DatasetTasks"):
        TaskDataModule([1, 2])  # type: ignore[arg-type]
