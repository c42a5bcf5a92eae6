"""Models of timm: made by name, meta-trained, made again from a checkpoint alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import relative
from torch import nn
from unrolling import unrolled
from update_rules import sgd

import litmaml
from litmaml.data import Episode, Glyphs, TaskDataModule
from litmaml.inner import SGD
from litmaml.inner.batch_norms import normalisation_policy, settle
from litmaml.inner.loop import InnerLoop
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import LoRA, Timm
from litmaml.outer import FirstOrder, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.runs.admission import admit
from litmaml.runs.proportion import check_size
from litmaml.runs.recipe import build, describe
from litmaml.tasks import Batch, Tasks
from quiet_trainer import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:batch_norm. frozen, and the running statistics"),  # of random weights
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning"),  # timm's
]
PLACES = ["hf-hub:timm/resnet18", "local-dir:/tmp", "resnet18.hf-hub:a/b", "../resnet18", "", "resnet18 "]


def test_without_timm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"litmaml.models.Timm needs timm \(.*\): pip install 'litmaml\[timm\]'"):
        Timm("resnet18")
    monkeypatch.delitem(sys.modules, "timm")
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"a torchvision that fits torch \(operator torchvision::nms.*0\.\(N \+ 15\)"):
        Timm("resnet18")


@pytest.mark.parametrize("name", PLACES)
def test_places_are_no_names_whoever_gives_them(name: str) -> None:
    """Neither the user nor a checkpoint; nothing is imported to tell."""
    for pretrained in (True, False):
        with pytest.raises(ValueError, match=r"name: timm has no model .* are not taken\)"):
            Timm(name, pretrained=pretrained)
        recipe = {"class_path": "litmaml.models.Timm", "init_args": {"name": name, "pretrained": pretrained}}
        with pytest.raises(ValueError, match="model: name: timm has no model"):
            build(recipe, nn.Module, "model")


@pytest.fixture
def timm() -> Any:
    return pytest.importorskip("timm", reason="needs timm and a torchvision that fits torch")


SMALL = {"test_resnet": None, "test_efficientnet": None, "vit_tiny_patch16_224": 28}


@pytest.mark.parametrize("name", SMALL)
def test_from_meta_training_to_an_adapted_model(timm: Any, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy: Any = {"test_resnet": "frozen", "test_efficientnet": "group"}.get(name)
    learner = MetaLearner(
        Timm(name, ways=3, channels=1, size=SMALL[name]),
        SGD(0.01),
        FirstOrder(),
        fast_weights=["head.*"],
        batch_norm=policy,
    )
    data = TaskDataModule(Glyphs(Episode(ways=3, shots=1, queries=1)), 2, train_tasks=2, val_tasks=2)
    trainer = quiet_trainer(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(learner, data)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert saved["hyper_parameters"]["model"]["init_args"]["name"] == name
    saved["hyper_parameters"]["model"]["init_args"]["pretrained"] = True  # as one that began with them has it
    torch.save(saved, tmp_path / "x.ckpt")
    again = MetaLearner.load_from_checkpoint(tmp_path / "x.ckpt")
    assert not again.inner_loop.model.pretrained
    for key, value in learner.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    x = torch.rand(8, 1, 28, 28)
    model = litmaml.adapt(tmp_path / "x.ckpt", x, torch.arange(8) % 4, steps=1)
    model.save(tmp_path / "adapted")
    torch.testing.assert_close(litmaml.load(tmp_path / "adapted")(x), model(x))


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "swin_tiny_patch4_window7_224", "efficientnet_b0"])
def test_larger_ones_are_in_proportion_to_their_weights(timm: Any, name: str) -> None:
    model = Timm(name)
    check_size({"model": admit(describe(model), (nn.Module,), "model")}, model.state_dict(), "")
    with pytest.raises(ValueError, match=r"the file has 5; they were not made|too many for the weights in the file"):
        check_size({"model": admit(describe(model), (nn.Module,), "model")}, {"head.bias": torch.zeros(5)}, "")


@pytest.mark.parametrize("policy", ["batch", "frozen", "group"])
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_the_gradient_under_each_policy(timm: Any, name: str, policy: Any) -> None:
    """Of one batch norm per convolution, mostly with the activation in it."""
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        body = timm.create_model(name, num_classes=2, act_layer="silu")
        for buffer_name, buffer in body.named_buffers():
            if "running" in buffer_name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        settle(body, policy)
        tasks = Tasks(
            (Batch(torch.randn(2, 3, 3, 32, 32), torch.arange(6).reshape(2, 3) % 2),),
            Batch(torch.randn(2, 3, 3, 32, 32), torch.arange(6).reshape(2, 3) % 2),
            torch.arange(2),
        )
        loop = InnerLoop(body, nn.CrossEntropyLoss(), SGD(0.01), ["*"], 2)
        true = unrolled(loop, tasks, 2, loop.fast_names, sgd())
        for chunk in (1, 2):
            found = MetaGradientOf(loop, SecondOrder(), 2, chunk)(tasks)
            assert relative(found.gradients, true.gradients) < 1e-10
    finally:
        torch.set_default_dtype(torch.float32)


def test_every_batch_norm_of_a_norm_with_activation_is_found(timm: Any) -> None:
    for policy, text in (("batch", "batch statistics"), ("frozen", "frozen statistics"), ("group", "group norm")):
        model = Timm("efficientnet_lite0")
        names = {name for name, _ in model.named_parameters()}
        learner = MetaLearner(model, batch_norm=policy)  # type: ignore[arg-type]
        assert normalisation_policy(model).startswith(text)
        assert "," not in learner.normalisation
        assert {name for name, _ in model.named_parameters()} == names
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 5)


def test_weights_from_a_file(timm: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "weights.pth")
    model = Timm("resnet18", pretrained=str(tmp_path / "weights.pth"))
    wanted = torch.load(tmp_path / "weights.pth")
    assert all(torch.equal(value, wanted[name]) for name, value in model.body.state_dict().items())
    assert build(describe(model), nn.Module, "model").pretrained is False
    grey = Timm("resnet18", pretrained=str(tmp_path / "weights.pth"), channels=1)
    torch.testing.assert_close(grey.body.conv1.weight[:, 0], wanted["conv1.weight"].sum(1))
    torch.save({f"_{name}": value for name, value in wanted.items()}, tmp_path / "others.pth")
    with pytest.raises(ValueError, match=r"others.pth' has no weights for conv1.weight, bn1.weight, .* more of"):
        Timm("resnet18", pretrained=str(tmp_path / "others.pth"))
    with pytest.raises(ValueError, match=r"pretrained: has to be true, false or a file of weights, and there is no 'a"):
        Timm("resnet18", pretrained="a.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "nothing"}, r"name: timm has no model 'nothing'; see timm.list_models\(\)"),
        ({"name": "resnet18.nothing"}, r"name: timm cannot make resnet18.nothing .*Invalid pretrained tag"),
        ({"name": "resnet18", "size": 84}, r"size=84 \(.*img_size.*; leave size out"),
        ({"name": "resnet18", "ways": 0}, "ways: has to be at least 1, got 0"),
    ],
)
def test_what_timm_cannot_make(timm: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timm(**arguments)


def test_low_rank_changes_of_a_vision_transformer(timm: Any) -> None:
    """As docs/pretrained.md has it; what is made of its record loads nothing either."""
    model = LoRA(Timm("test_vit", size=160), ["*.qkv", "*.proj"], rank=2, trained=["head.*"])
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert len(trained) == 2 * 2 * len(model.model.body.blocks) + 2  # type: ignore[arg-type, union-attr]
    recipe = describe(model)
    recipe["init_args"]["model"]["init_args"]["pretrained"] = True
    again = build(recipe, nn.Module, "model")
    again.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(again(x), model(x))
