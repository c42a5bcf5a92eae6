"""Weights that are frozen or tied on the model object are so again in the learner that a checkpoint makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_close
from torch import Tensor, nn

from litmaml.cli.main import main
from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.finetuning.adaptation import adapt
from litmaml.finetuning.adapted_model import load
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.weights_record import WEIGHTS_KEY
from litmaml.weights import Params
from quiet_trainer import quiet_trainer

KEPT = Path(__file__).parents[1] / "fixtures" / "version_0.1.ckpt"


class Network(nn.Module):
    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.hidden = hidden
        self.first, self.second, self.third = nn.Linear(1, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.third):
            x = torch.tanh(layer(x))
        predicted: Tensor = self.last(x)
        return predicted


def freeze(model: Network) -> None:
    model.first.requires_grad_(False)


def tie(model: Network) -> None:
    model.third.weight = model.second.weight


def share(model: Network) -> None:
    model.third = model.second


def nothing(model: Network) -> None:
    pass


CHANGES = [freeze, tie, share]
Change = Callable[[Network], None]


def learner(change: Change, **others: Any) -> MetaLearner:
    torch.manual_seed(0)
    model = Network()
    change(model)
    defaults: dict[str, Any] = {"loss": nn.MSELoss(), "inner_steps": 3}
    return MetaLearner(model, SGD(0.05, learn="parameter"), **defaults | others)


def data() -> TaskDataModule:
    return TaskDataModule(Sinusoid(Episode(shots=5, queries=5)), meta_batch=4, train_tasks=8, val_tasks=4, test_tasks=4)


def saved(folder: Path, module: MetaLearner) -> Path:
    trainer = quiet_trainer(folder, max_epochs=1, limit_val_batches=0)
    trainer.fit(module, data())
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def gradients(module: MetaLearner) -> Params:
    return module.meta_gradient(Sinusoid(Episode(shots=5, queries=5)).sample("train", range(3), 0)).gradients


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("patterns", [["*"], ["last.*", "second.*"]])
def test_the_loaded_learner_is_the_saved_one(change: Change, patterns: list[str], tmp_path: Path) -> None:
    module = learner(change, fast_weights=patterns)
    file = saved(tmp_path, module)
    again = MetaLearner.load_from_checkpoint(file)
    assert again.inner_loop.fast_names == module.inner_loop.fast_names
    assert again.inner_loop.slow_names == module.inner_loop.slow_names
    assert_close(gradients(again), gradients(module))
    x = torch.randn(6, 1)
    of_learner, of_file = (adapt(source, x, x.sin()) for source in (module, file))
    assert torch.equal(of_learner(x), of_file(x))
    of_file.save(tmp_path / "adapted")
    torch.testing.assert_close(load(tmp_path / "adapted")(x), of_file(x))


@pytest.mark.parametrize("change", CHANGES)
def test_another_learner_is_refused(change: Change, tmp_path: Path) -> None:
    """By Lightning's ways of loading, the command line's and with a model that is given."""
    file = saved(tmp_path, learner(change))
    refused = pytest.raises(
        ValueError, match=r"model: .*(frozen in the checkpoint and not here|is one weight with).*; "
    )
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    for run in (trainer.fit, trainer.validate, trainer.test, trainer.predict):
        with refused:
            run(learner(nothing), datamodule=data(), ckpt_path=file)
    with refused:
        MetaLearner.load_from_checkpoint(file, model=Network())
    with refused:
        main(["test", "--ckpt_path", str(file), "--trainer.default_root_dir", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match=r"configuration disagree: model: .* in the checkpoint and not here"):
        main(["diagnose", "--checkpoint", str(file), "--trainer.default_root_dir", str(tmp_path / "run")])


@pytest.mark.parametrize("change", CHANGES)
def test_the_reverse_is_refused(change: Change, tmp_path: Path) -> None:
    file = saved(tmp_path, learner(nothing))
    with pytest.raises(ValueError, match=r"model: .*(frozen here and not in the checkpoint|is one weight with).*; "):
        quiet_trainer(tmp_path).test(learner(change), data(), ckpt_path=file)


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_learner_goes_on(change: Change, tmp_path: Path) -> None:
    file = saved(tmp_path, learner(change))
    trainer = quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    trainer.fit(learner(change), data(), ckpt_path=file)
    assert trainer.global_step == 4
    given = Network()
    change(given)
    again = MetaLearner.load_from_checkpoint(file, model=given)
    assert again.inner_loop.model is given


@pytest.mark.parametrize(
    "patterns",
    [{"per_step_weights": ["second.*"]}, {"frozen_weights": ["second.*"], "per_step_weights": ["third.weight"]}],
    ids=str,
)
@pytest.mark.parametrize("given", [False, True])
def test_patterns_hold_in_the_loaded_learner(given: bool, patterns: dict[str, list[str]], tmp_path: Path) -> None:
    trained = learner(nothing, **patterns)
    path = saved(tmp_path, trained)
    found = MetaLearner.load_from_checkpoint(path, **({"model": Network()} if given else {}))
    assert found.inner_loop.rows == trained.inner_loop.rows != []
    assert found.inner_loop.slow_names == trained.inner_loop.slow_names
    assert_close(gradients(found), gradients(trained))
    x = torch.linspace(-1, 1, 6)[:, None]
    assert_close(adapt(path, x, x.sin())(x), adapt(trained, x, x.sin())(x))


def test_what_to_adapt_can_be_said_anew(tmp_path: Path) -> None:
    module = MetaLearner(Network(), SGD(), loss=nn.MSELoss(), fast_weights=["first.*"])
    module.inner_loop.model.first.requires_grad_(True)
    file = saved(tmp_path, module)
    again = MetaLearner.load_from_checkpoint(file, model=Network(), fast_weights=["last.bias"], inner_optimizer=SGD())
    assert again.inner_loop.fast_names == ["last.bias"]


def test_another_model_is_told_as_that_and_not_by_what_is_frozen(tmp_path: Path) -> None:
    file = saved(tmp_path, MetaLearner(MLP(hidden=[4]), SGD(), loss=nn.MSELoss()))
    with pytest.raises(ValueError, match="weights of another architecture than the model") as told:
        MetaLearner.load_from_checkpoint(file, model=Network())
    assert "frozen" not in str(told.value)


def test_starting_weights_say_what_was_frozen(tmp_path: Path) -> None:
    module = MetaLearner(MLP(hidden=[40, 40]), SGD(), loss=nn.MSELoss())
    file = saved(tmp_path, module)
    config = str(Path(__file__).parents[2] / "configs" / "sinusoid.yaml")
    content = torch.load(file, weights_only=True)
    content[WEIGHTS_KEY]["fast"].remove("head.bias")
    torch.save(content, file)
    run = ["fit", "-c", config, "--init_weights", str(file), "--trainer.default_root_dir", str(tmp_path / "run")]
    with pytest.warns(UserWarning, match=r"init_weights: head.bias is frozen in the checkpoint and not here; this run"):
        main([*run, "--trainer.fast_dev_run=true"])


def test_older_checkpoints_record_nothing_of_it() -> None:
    assert WEIGHTS_KEY not in read_checkpoint(KEPT)
    assert MetaLearner.load_from_checkpoint(KEPT).inner_loop.slow_names == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "its record of weights is none"),
        ({"fast": [], "slow": []}, "its record of weights is none"),
        ({"fast": "head", "slow": [], "tied": {}}, "its record of fast weights is no list of names"),
        ({"fast": [], "slow": [1], "tied": {}}, "its record of slow weights is no list of names"),
        ({"fast": [], "slow": [], "tied": ["a"]}, "its record of shared weights is no dictionary of names"),
        ({"fast": [], "slow": [], "tied": {"a": 1}}, "its record of shared weights is no dictionary of names"),
        ({"fast": [], "slow": [], "tied": {"a": "b"}}, "model: 'a' and 'b' cannot be one weight"),
        ({"fast": [], "slow": [], "tied": {}}, "model: none of its parameters is trainable"),
    ],
)
def test_a_damaged_record(record: Any, message: str, tmp_path: Path) -> None:
    content = torch.load(KEPT, weights_only=True)
    content[WEIGHTS_KEY] = record
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(ValueError, match=message):
        MetaLearner.load_from_checkpoint(tmp_path / "damaged.ckpt")
