"""A model with running statistics under each policy, from meta-training to the exported file."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml
from gratings import draw
from torch import Tensor, nn

import litmaml
from litmaml.data import Episode, ImageFolderTasks, ImageFormat, TaskDataModule
from litmaml.finetuning.export import export_onnx
from litmaml.inner import SGD
from litmaml.inner.batch_norms import normalisation_policy
from litmaml.learner.initial_weights import start_from
from litmaml.learner.meta_learner import MetaLearner
from quiet_trainer import quiet_trainer

POLICIES = {
    "batch": "batch statistics (transductive)",
    "frozen": "frozen statistics (inductive)",
    "group": "group norm",
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),  # which is meant
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Pretrained(nn.Module):
    """A network with running statistics; ``evaluated`` of itself, as a frozen body of one's own is."""

    def __init__(self, ways: int = 3, evaluated: bool = False) -> None:
        super().__init__()
        self.ways, self.evaluated = ways, evaluated
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.BatchNorm2d(8), nn.Flatten()
        )
        self.head = nn.Linear(288, ways)
        if evaluated:
            self.body.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def pretrained() -> Pretrained:
    """With statistics of images."""
    torch.manual_seed(0)
    model = Pretrained()
    for _ in range(30):
        model(torch.rand(16, 1, 28, 28))
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaskDataModule:
    folder = draw(tmp_path_factory.mktemp("gratings"), [f"class {k}" for k in range(15)], each=4)
    tasks = ImageFolderTasks(str(folder), ImageFormat(28), train=Episode(ways=3, shots=1, queries=2))
    return TaskDataModule(tasks, meta_batch=4, train_tasks=16, val_tasks=4, test_tasks=8)


def trained(folder: Path, learner: MetaLearner, data: TaskDataModule) -> Path:
    trainer = quiet_trainer(folder, max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(learner, data)
    trainer.save_checkpoint(folder / "best.ckpt")
    return folder / "best.ckpt"


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


@pytest.mark.parametrize("policy", [pytest.param(p, marks=[pytest.mark.slow] * (p == "group")) for p in POLICIES])
def test_from_meta_training_to_the_exported_file(policy: Any, data: TaskDataModule, tmp_path: Path) -> None:
    learner = MetaLearner(pretrained(), SGD(0.1), test_inner_steps=3, batch_norm=policy)
    assert learner.normalisation == POLICIES[policy]
    before = statistics(learner.inner_loop.model)
    file = trained(tmp_path, learner, data)
    after = statistics(learner.inner_loop.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    again = MetaLearner.load_from_checkpoint(file)
    assert (again.batch_norm, again.normalisation, again.evaluated) == (policy, POLICIES[policy], learner.evaluated)
    results = []
    for one in (learner, again):
        quiet_trainer(tmp_path).test(one, data, verbose=False)
        results.append(one.results["loss"])
    assert results[0] == results[1]

    torch.manual_seed(1)
    x, y = torch.rand(12, 1, 28, 28), torch.arange(12) % 4
    for inputs, targets in ((x, y), (x[y < 3], y[y < 3])):  # with another number of classes, and with as many
        model = litmaml.adapt(file, inputs, targets, steps=2)
        assert POLICIES["frozen" if policy == "batch" else policy] == normalisation_policy(model)
        wanted = model(x).detach()
        torch.testing.assert_close(torch.cat([model(one[None]) for one in x]), wanted, rtol=1e-4, atol=1e-5)
        model.save(tmp_path / "adapted")
        loaded = litmaml.load(tmp_path / "adapted")
        torch.testing.assert_close(loaded(x), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(loaded)(x), wanted, rtol=1e-5, atol=1e-5)
    export_onnx(loaded, x[:5], tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(None, {"inputs": x.numpy()})[0])
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by", ["the model's class", "the user"])
def test_a_model_in_evaluation_comes_back_from_its_checkpoint(by: str, data: TaskDataModule, tmp_path: Path) -> None:
    model = Pretrained(evaluated=True) if by == "the model's class" else Pretrained().eval()
    model.load_state_dict(pretrained().state_dict())
    learner = MetaLearner(model, SGD(0.1))
    before = statistics(model)
    file = trained(tmp_path, learner.train(), data)  # which puts every part into training
    assert all(torch.equal(before[name], value) for name, value in statistics(model).items())
    again = MetaLearner.load_from_checkpoint(file)
    assert again.normalisation == learner.normalisation == "frozen statistics (inductive)"
    x = torch.rand(6, 1, 28, 28)
    first, second = (litmaml.adapt(one, x, torch.arange(6) % 3, steps=2) for one in (learner, file))
    torch.testing.assert_close(first(x), second(x))


def test_a_folder_with_another_policy_is_refused(data: TaskDataModule, tmp_path: Path) -> None:
    learner = MetaLearner(pretrained(), SGD(0.1), batch_norm="group")
    x = torch.rand(6, 1, 28, 28)
    litmaml.adapt(trained(tmp_path, learner, data), x, torch.arange(6) % 3).save(tmp_path / "adapted")
    file = tmp_path / "adapted" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    assert config["batch_norm"] == "group"
    file.write_text(yaml.safe_dump(config | {"batch_norm": ["group"]}))
    with pytest.raises(ValueError, match=r"batch_norm: cannot be a list of 1"):
        litmaml.load(tmp_path / "adapted")
    del config["batch_norm"]
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="model"):  # of running statistics that group norm has not
        litmaml.load(tmp_path / "adapted")


def test_starting_weights_under_the_same_policy(data: TaskDataModule, tmp_path: Path) -> None:
    learner = MetaLearner(pretrained(), SGD(0.1), batch_norm="frozen")
    file = trained(tmp_path, learner, data)
    fresh = MetaLearner(Pretrained(), SGD(0.1), batch_norm="frozen")
    start_from(fresh, str(file))
    for name, value in learner.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)


def test_statistics_of_nothing_are_told_once_training_begins(data: TaskDataModule, tmp_path: Path) -> None:
    untrained = MetaLearner(Pretrained(), SGD(0.1), batch_norm="frozen")
    with pytest.warns(UserWarning, match=r"batch_norm: frozen, and the running statistics are those of new layers"):
        quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(untrained, data)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "batch_norm: frozen")
        MetaLearner(Pretrained(), SGD(0.1), batch_norm="frozen")


def test_statistics_over_processes_are_refused(tmp_path: Path) -> None:
    learner = MetaLearner(pretrained(), batch_norm="batch")
    learner.trainer = quiet_trainer(tmp_path, devices=2, strategy="ddp_fork", sync_batchnorm=True)
    with pytest.raises(ValueError, match=r"trainer.sync_batchnorm: batch norm would take the statistics of several"):
        learner.setup("fit")
