"""Parts that are in evaluation while the rest trains are so again in a learner that is loaded or goes on."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from oracles import assert_close
from torch import Tensor, nn

from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.diagnosis import diagnose
from litmaml.inner import SGD
from litmaml.learner.initial_weights import start_from
from litmaml.learner.meta_learner import MetaLearner
from litmaml.outer import FiniteDifference
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.weights_record import WEIGHTS_KEY
from litmaml.weights import Params
from quiet_trainer import quiet_trainer


class Body(nn.Module):
    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate
        self.first, self.dropout, self.last = nn.Linear(1, 8), nn.Dropout(rate), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.last(self.dropout(torch.tanh(self.first(x))))
        return predicted


NAME = "model.dropout"

pytestmark = pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")  # which is meant


def learner(off: bool = True, **settings: Any) -> MetaLearner:
    torch.manual_seed(0)
    model = Body()
    model.dropout.train(not off)
    return MetaLearner(model, SGD(0.05), loss=nn.MSELoss(), **settings)


def data() -> TaskDataModule:
    return TaskDataModule(Sinusoid(Episode(shots=5, queries=5)), meta_batch=4, train_tasks=8, val_tasks=4, test_tasks=4)


class Save(Callback):
    """At the end of a validation, when everything is in evaluation."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert not pl_module.training
        trainer.save_checkpoint(self.file)


def saved(folder: Path, module: MetaLearner, in_validation: bool = False) -> Path:
    file = folder / "last.ckpt"
    options: dict[str, Any] = {"callbacks": [Save(file)]} if in_validation else {"limit_val_batches": 0}
    trainer = quiet_trainer(folder, max_epochs=1, num_sanity_val_steps=0, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        trainer.fit(module, data())
    if not in_validation:
        trainer.save_checkpoint(file)
    return file


def gradients(module: MetaLearner) -> Params:
    return module.meta_gradient(Sinusoid(Episode(shots=5, queries=5)).sample("train", range(3), 0)).gradients


@pytest.mark.parametrize("in_validation", [False, True])
@pytest.mark.parametrize("off", [False, True])
def test_the_loaded_learner_has_the_modes_of_the_saved_one(off: bool, in_validation: bool, tmp_path: Path) -> None:
    module = learner(off)
    again = MetaLearner.load_from_checkpoint(saved(tmp_path, module, in_validation))
    assert again.evaluated == module.evaluated == ([NAME] if off else [])
    assert again.inner_loop.model.training
    assert again.inner_loop.model.dropout.training != off  # type: ignore[union-attr]
    assert_close(gradients(again), gradients(module))


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("here", [False, True])
def test_a_run_goes_on_in_the_modes_of_its_checkpoint(
    here: bool, there: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(tmp_path, learner(there))
    module = learner(here)
    caplog.set_level(logging.INFO)
    quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(module, data(), ckpt_path=file)
    assert module.evaluated == ([NAME] if there else [])
    where = "in the checkpoint and not here" if there else "here and not in the checkpoint"
    assert (f"{NAME} in evaluation {where}: each part takes the mode" in caplog.text) == (here != there)


def test_a_resumed_run_ends_where_the_undisturbed_one_does(tmp_path: Path) -> None:
    """Though the learner that it is given has its dropout on."""
    whole = learner()
    quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(whole, data())
    resumed = learner(off=False)
    file = saved(tmp_path, learner())
    quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(resumed, data(), ckpt_path=file)
    for name, weight in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight)


def test_a_model_that_is_given_takes_the_modes_and_it_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = saved(tmp_path, learner())
    caplog.set_level(logging.INFO)
    assert MetaLearner.load_from_checkpoint(file, model=Body()).evaluated == [NAME]
    assert f"{NAME} in evaluation in the checkpoint and not here" in caplog.text


def test_starting_weights_leave_the_modes_alone(tmp_path: Path) -> None:
    file = saved(tmp_path, learner())
    module = learner(off=False)
    with pytest.warns(UserWarning, match=rf"init_weights: {NAME} in evaluation in the .* keeps its own modes"):
        start_from(module, str(file))
    assert module.evaluated == []
    start_from(learner(), str(file))


@pytest.mark.parametrize("off", [False, True])
def test_training_goes_on_as_before_an_evaluation(off: bool, tmp_path: Path) -> None:
    module = learner(off).eval()
    file = saved(tmp_path, module)
    assert module.training
    assert module.inner_loop.model.dropout.training != off  # type: ignore[union-attr]
    assert read_checkpoint(file)[WEIGHTS_KEY]["evaluated"] == module.evaluated == ([NAME] if off else [])


def test_an_evaluated_learner_is_saved_with_the_modes_of_its_training(tmp_path: Path) -> None:
    module = learner()
    trainer = quiet_trainer(tmp_path)
    trainer.test(module.eval(), data(), verbose=False)
    trainer.save_checkpoint(tmp_path / "tested.ckpt")
    assert MetaLearner.load_from_checkpoint(tmp_path / "tested.ckpt").evaluated == [NAME]


def test_a_diagnosis_leaves_the_modes_alone() -> None:
    module = learner()
    diagnose(module, Sinusoid(Episode(shots=5, queries=5)).sample("train", range(4), 0), meta_batch=4)
    assert module.training
    assert module.evaluated == [NAME]


def test_parts_that_are_not_there(tmp_path: Path) -> None:
    file = saved(tmp_path, learner())
    content = torch.load(file, weights_only=True)
    content[WEIGHTS_KEY]["evaluated"] = ["model.nothing"]
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"model: it has no part 'model.nothing', which the checkpoint keeps in eval"):
        MetaLearner.load_from_checkpoint(file)
    content[WEIGHTS_KEY]["evaluated"] = [1]
    torch.save(content, file)
    with pytest.raises(ValueError, match="its record of parts in evaluation is no list of names"):
        MetaLearner.load_from_checkpoint(file)


def test_checkpoints_of_before_modes_were_recorded(tmp_path: Path) -> None:
    file = saved(tmp_path, learner())
    content = torch.load(file, weights_only=True)
    del content[WEIGHTS_KEY]["evaluated"]
    torch.save(content, file)
    assert MetaLearner.load_from_checkpoint(file).evaluated == []


def test_dropout_in_evaluation_is_none(tmp_path: Path) -> None:
    """As in a pretrained body: any outer gradient takes it, tasks are computed together and its features once."""
    module = learner(outer_gradient=FiniteDifference(), fast_weights=["last.*"])
    for each in (module, MetaLearner.load_from_checkpoint(saved(tmp_path, module))):
        gradients(each)
        assert not each.inner_loop.draws
        assert each.inner_loop.constant.of(each.inner_loop.model) is not None
    with pytest.raises(ValueError, match="draws anew in each probe"):
        learner(off=False, outer_gradient=FiniteDifference())
