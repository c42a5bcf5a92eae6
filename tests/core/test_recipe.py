"""Recipes: what checkpoints say of how to make an object, and what they cannot make it do."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import Accuracy, MeanAbsoluteError, MeanSquaredError, Metric, R2Score
from torchmetrics.classification import BinaryAccuracy, MulticlassAccuracy, MulticlassF1Score

from cases import INNER, OUTER
from litmaml.inner import SGD, HigherOptimizer, InnerOptimizer
from litmaml.models import MLP, Conv4
from litmaml.outer import FiniteDifference, GaussianSmoothing, OuterGradient, ZerothOrder
from litmaml.runs.recipe import build, describe, is_plain


class Wrapped(nn.Module):
    """A user's model around another."""

    def __init__(self, backbone: nn.Module, width: int = 3) -> None:
        super().__init__()
        self.backbone, self.width = backbone, width


def rectified() -> nn.Module:
    """A user's function that makes a layer."""
    return nn.ReLU()


class Makes(nn.Module):
    """A user's model that makes its layers itself."""

    def __init__(self, layer: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.layer, self.made = layer, layer()


class WithoutArguments(nn.Module):
    """A user's loss."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).abs().mean()


class Forgetful(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()


class Open(nn.Module):
    def __init__(self, **options: int) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("thing", "kind"),
    [
        (
            Conv4(ways=20, filters=8, channels=3, size=84, norm="group", pooling=False, affine=False),
            nn.Module,
        ),
        (MLP(inputs=3, outputs=2, hidden=(4, 5), activation="gelu", init="fan_in"), nn.Module),
        (Wrapped(MLP(hidden=(7,)), width=4), nn.Module),
        (WithoutArguments(), nn.Module),
        *((row.make(), InnerOptimizer) for row in INNER.values()),
        (SGD(0.2, 0.9, True, 0.1, "tensor", True), InnerOptimizer),
        (HigherOptimizer("torch.optim.Adam", {"lr": 0.1, "betas": (0.8, 0.9)}, "one", True), InnerOptimizer),
        *((row.make(7, {GaussianSmoothing: 0.1, ZerothOrder: 0.2}), OuterGradient) for row in OUTER.values()),
        (FiniteDifference(1e-3), OuterGradient),
        (nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=3), nn.Module),
        (nn.MSELoss(reduction="sum"), nn.Module),
        (nn.HuberLoss(delta=2.0), nn.Module),
        (nn.SmoothL1Loss(beta=0.5), nn.Module),
        (nn.BCEWithLogitsLoss(), nn.Module),
        (nn.NLLLoss(), nn.Module),
        (MulticlassAccuracy(average="micro"), Metric),
        (Accuracy(task="multiclass", num_classes=7, top_k=2), Metric),
        (MulticlassF1Score(5), Metric),
        (BinaryAccuracy(threshold=0.3), Metric),
        (MeanSquaredError(squared=False), Metric),
        (MeanAbsoluteError(), Metric),
        (R2Score(), Metric),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_there_and_back(thing: Any, kind: type, tmp_path: Path) -> None:
    recipe = describe(thing)
    assert is_plain(recipe)
    torch.save(recipe, tmp_path / "recipe.pt")
    made = build(torch.load(tmp_path / "recipe.pt", weights_only=True), kind, "thing")
    assert type(made) is type(thing)
    assert describe(made) == recipe
    public = {k: v for k, v in vars(thing).items() if not k.startswith("_") and is_plain(v)}
    assert {k: getattr(made, k) for k in public} == public
    if isinstance(thing, Conv4 | MLP):
        assert {n: w.shape for n, w in made.named_parameters()} == {n: w.shape for n, w in thing.named_parameters()}


def test_what_makes_a_part_is_named_with_its_arguments() -> None:
    for layer, recorded in (
        (nn.Tanh, {"class_path": "torch.nn.modules.activation.Tanh", "init_args": {}}),
        (
            functools.partial(nn.ELU, alpha=2.0),
            {"class_path": "torch.nn.modules.activation.ELU", "init_args": {"alpha": 2.0}},
        ),
        (rectified, f"{__name__}.rectified"),
    ):
        recipe = describe(Makes(layer))
        assert recipe["init_args"] == {"layer": recorded}
        assert repr(build(recipe, nn.Module, "model").made) == repr(layer())
    with pytest.raises(TypeError, match=r"<function .*<lambda> at .* is no plain value"):
        describe(Makes(lambda: nn.ReLU()))


def test_defaults_may_be_left_out() -> None:
    made = build({"class_path": "litmaml.models.MLP"}, nn.Module, "model")
    assert made.hidden == [40, 40]


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (Forgetful(), "Forgetful does not keep its argument 'width' as an attribute"),
        (Open(a=1), "Open does not keep its argument 'options' as an attribute"),
        (nn.Sequential(nn.Linear(1, 1)), "Sequential does not keep its argument 'args' as an attribute"),
        (nn.LSTM(2, 3), "LSTM does not keep its argument 'args' as an attribute"),
        (nn.TransformerEncoderLayer(4, 2), "does not keep its argument 'd_model' as an attribute"),
        (nn.Linear(2, 3), r"a tensor of shape \(3,\) is no plain value"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(4097)), r"a tensor of shape \(4097,\) is no plain value"),
        (Wrapped(nn.ReLU), "<class '.*ReLU'> is no plain value"),  # type: ignore[arg-type]
        (Wrapped(nn.MSELoss(), torch.tanh), "tanh .* is no plain value"),  # type: ignore[arg-type]
        (Wrapped(nn.MSELoss(), {1, 2}), "{1, 2} is no plain value"),  # type: ignore[arg-type]
        (Wrapped(nn.MSELoss(), torch.float32), "torch.float32 is no plain value"),  # type: ignore[arg-type]
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_what_no_recipe_can_describe(thing: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        describe(thing)


def bad(class_path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": arguments}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, "model: has no recipe .* got None"),
        ({"init_args": {}}, "model: has no recipe"),
        (bad("os.system", command="echo"), "model: 'os.system' is no Module"),
        (bad("subprocess.Popen", args=["true"]), "model: 'subprocess.Popen' is no Module"),
        (bad("builtins.eval", source="1"), "model: 'builtins.eval' is no Module"),
        (bad("litmaml.outer.FirstOrder"), "model: 'litmaml.outer.FirstOrder' is no Module"),
        (bad("torch.nn.functional.relu"), "model: 'torch.nn.functional.relu' cannot be named by a file"),
        (bad("litmaml.models.Conv5"), "model: 'litmaml.models.Conv5' is the name of no class that there is"),
        (bad("torch.nothing.Net"), "model: 'torch.nothing.Net' cannot be named by a file"),
        (bad("Net"), "model: 'Net' is not loaded.* import its module first"),
        (
            bad("litmaml.models.MLP", hidden=bad("os.system")),
            "model.hidden: is no object, got the recipe of 'os.system'",
        ),
    ],
)
def test_recipes_that_are_refused(recipe: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(recipe, nn.Module, "model")


def test_a_checkpoint_cannot_run_a_program(tmp_path: Path) -> None:
    """Not as an argument of what may be made either, and however deep."""
    proof = tmp_path / "proof"
    attack = bad("subprocess.Popen", args=[sys.executable, "-c", f"open({str(proof)!r}, 'w')"])
    assert subprocess.Popen is sys.modules["subprocess"].Popen  # it is loaded
    for recipe in (
        attack,
        bad("litmaml.models.MLP", hidden=attack),
        bad(f"{__name__}.Wrapped", backbone=bad(f"{__name__}.Wrapped", backbone=attack)),
    ):
        with pytest.raises(ValueError, match=r"(is no object, got the recipe of )?'subprocess\.Popen'( is no Module)?"):
            build(recipe, nn.Module, "model")
    assert not proof.exists()


def test_packages_that_are_not_trusted_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "untrusted_networks.py").write_text(
        f"from torch import nn\nopen({str(proof)!r}, 'w').close()\nclass Net(nn.Module): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = bad("untrusted_networks.Net")
    with pytest.raises(ValueError, match=r"'untrusted_networks.Net' is not loaded.* import untrusted_networks first"):
        build(recipe, nn.Module, "model")
    assert not proof.exists()
    monkeypatch.setitem(sys.modules, "untrusted_networks", __import__("untrusted_networks"))
    assert type(build(recipe, nn.Module, "model")).__name__ == "Net"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": [1, 2.0, None, "x", True, {"b": ()}]}, True),
        ({1: 2}, False),
        ([torch.ones(1)], False),
        ({"path": Path("x")}, False),
        (object(), False),
    ],
)
def test_plain_values(value: object, plain: bool) -> None:
    assert is_plain(value) is plain


class Switched(nn.Module):
    def __init__(self, on: bool = True, maybe: bool | None = None) -> None:
        super().__init__()
        self.on, self.maybe = on, maybe


def test_nothing_is_false_only_where_it_cannot_be_nothing() -> None:
    """torch's layers keep ``bias=False`` as None."""
    made = build(bad(f"{__name__}.Switched", on=None, maybe=None), nn.Module, "model")
    assert (made.on, made.maybe) == (False, None)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])),
        nn.BCEWithLogitsLoss(pos_weight=torch.ones(2)),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
        nn.BCEWithLogitsLoss(pos_weight=torch.rand(2, 1, 1), weight=torch.rand(3, 1, 2, 2)),
    ],
)
def test_weights_of_classes(loss: nn.Module) -> None:
    again = build(describe(loss), nn.Module, "loss")
    assert describe(again) == describe(loss)
    assert again.state_dict().keys() == loss.state_dict().keys()
    assert all(torch.equal(value, loss.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    "value",
    [[], [[]], [1, [2]], [[1, 2], [3]], ["1"], [True], 2**70, [[[[[[1.0]]]]]], {"0": 1}, [[1.0] * 3000] * 2],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_no_tensor(value: object) -> None:
    with pytest.raises(ValueError, match=r"loss\.pos_weight: cannot be "):
        build(bad("torch.nn.BCEWithLogitsLoss", pos_weight=value), nn.Module, "loss")
