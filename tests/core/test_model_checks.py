"""What is found in a model before it is trained."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from oracles import random_tasks, relative
from torch import nn

from cases import ONCE, OUTER, PROBING, REPEATING, UNPROBED, made
from litmaml.inner import SGD
from litmaml.inner.batch_norms import normalisation_policy, shared_statistics
from litmaml.inner.layers import kinked_layers, random_layers
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.model_checks import check_model
from litmaml.models import MLP, Conv4, ResNet12
from litmaml.outer import OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf


def name_of(thing: object) -> str:
    return type(thing).__name__


@pytest.mark.parametrize(
    ("layer", "found"),
    [
        (nn.Dropout(0.1), "0 (Dropout)"),
        (nn.Dropout(1), "0 (Dropout)"),
        (nn.Dropout2d(0.5), "0 (Dropout2d)"),
        (nn.AlphaDropout(0.5), "0 (AlphaDropout)"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "0 (MultiheadAttention)"),
        (nn.LSTM(4, 4, num_layers=2, dropout=0.1), "0 (LSTM)"),
        (nn.RReLU(), "0 (RReLU)"),
        (nn.FractionalMaxPool2d(2, output_ratio=0.5), "0 (FractionalMaxPool2d)"),
        (nn.Dropout(0.0), None),
        (nn.MultiheadAttention(4, 2), None),
        (nn.LSTM(4, 4), None),
        (nn.PairwiseDistance(p=2.0), None),
    ],
)
def test_random_layers(layer: nn.Module, found: str | None) -> None:
    assert random_layers(nn.Sequential(layer)) == ([] if found is None else [found])


def test_layers_in_evaluation_draw_nothing() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.RReLU(), nn.LSTM(4, 4, 2, dropout=0.1), nn.FractionalMaxPool2d(2, 1))
    assert random_layers(model.eval()) == ["3 (FractionalMaxPool2d)"], "which draws in each mode"


def test_random_layers_inside_others() -> None:
    encoder = nn.TransformerEncoderLayer(4, 2, 8)
    assert random_layers(encoder) == [
        "self_attn (MultiheadAttention)",
        "dropout (Dropout)",
        "dropout1 (Dropout)",
        "dropout2 (Dropout)",
    ]
    assert random_layers(nn.Dropout()) == ["model (Dropout)"]


@pytest.mark.parametrize("method", made(REPEATING))
def test_random_layers_are_refused_where_a_loss_is_evaluated_again(method: OuterGradient) -> None:
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.1), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=rf"model: 1 \(Dropout\) draws anew .*{name_of(method)}.* dropout to 0"):
        check_model(model, method)
    for other in ONCE.values():
        check_model(model, other.make())


def test_why_recomputation_does_not_suit_dropout() -> None:
    model = nn.Sequential(nn.Linear(1, 20), nn.Dropout(0.5), nn.Tanh(), nn.Linear(20, 1))
    tasks = random_tasks(1)
    plain, again = (
        MetaGradientOf(InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], 2), method, 2)(tasks)
        for method in (SecondOrder(), SecondOrder(True))
    )
    assert torch.equal(plain.losses, again.losses)
    assert relative(again.gradients, plain.gradients) > 1e-2


@pytest.mark.parametrize("method", made(OUTER))
@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(4), nn.SyncBatchNorm(4), nn.InstanceNorm1d(4, track_running_stats=True)],
    ids=name_of,
)
def test_statistics_that_tasks_would_share_are_refused(method: OuterGradient, layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(1, 4), layer, nn.Linear(4, 1))
    assert shared_statistics(model) == [f"1 ({name_of(layer)})"]
    with pytest.raises(
        ValueError,
        match=rf"model: 1 \({name_of(layer)}\) would share running statistics between tasks; set batch_norm to batch",
    ):
        check_model(model, method)


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_models_of_the_framework_pass(norm: str) -> None:
    model = Conv4(filters=4, norm=norm)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert shared_statistics(model) == []
    for unprobed in UNPROBED.values():
        check_model(model, unprobed.make())
    model.train()(torch.rand(2, 1, 28, 28))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("widths", [(64, 128, 256, 512), (64, 160, 320, 640)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_resnet12_is_that_of_the_literature(norm: Literal["batch", "group"], widths: tuple[int, ...]) -> None:
    model = ResNet12(5, widths, norm=norm)
    wide = [torch.tensor([3, *widths])[k : k + 2].tolist() for k in range(4)]
    # Three convolutions and a way around them, a scale and a shift for each; and the head.
    count = sum(9 * i * o + 18 * o * o + i * o + 8 * o for i, o in wide) + 5 * widths[-1] + 5
    assert sum(weight.numel() for weight in model.parameters()) == count
    assert shared_statistics(model) == []
    assert normalisation_policy(model) == {"batch": "batch statistics (transductive)", "group": "group norm"}[norm]
    for side, left in ((84, 5), (16, 1)):
        assert model.body[:4](torch.rand(2, 3, side, side)).shape == (2, widths[-1], left, left)
        assert model(torch.rand(2, 3, side, side)).shape == (2, 5)


def test_arguments_of_resnet12() -> None:
    for arguments, message in (
        ({"widths": (1, 2, 3)}, r"widths: has to be one for each of four blocks, got \[1, 2, 3\]"),
        ({"ways": 0}, "ways: has to be at least 1, got 0"),
        ({"widths": (4, 4, 4, 0)}, "widths: has to be at least 1, got 0"),
        ({"norm": "frozen"}, "norm: got 'frozen'; one of batch, group"),
    ):
        with pytest.raises(ValueError, match=message):
            ResNet12(**arguments)


@pytest.mark.parametrize("method", made(PROBING))
def test_kinks_under_probes_are_warned_of(method: OuterGradient) -> None:
    with pytest.warns(
        UserWarning, match=rf"{name_of(method)} across the kinks of body.2 \(MaxPool2d\), body.3 \(ReLU\)"
    ):
        check_model(Conv4(filters=4), method)
    check_model(MLP(), method)


@pytest.mark.parametrize("method", made(OUTER))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(method: OuterGradient, dtype: torch.dtype) -> None:
    model = MLP().to(dtype)
    if not method.differences:
        check_model(model, method)
        return
    with pytest.raises(
        ValueError,
        match=rf"model: body.1.weight has {dtype}, too coarse for the probes of {name_of(method)}; keep",
    ):
        check_model(model, method)


def test_kinked_layers() -> None:
    assert kinked_layers(MLP()) == []
    assert kinked_layers(MLP(hidden=[4], activation="relu")) == ["body.2 (ReLU)"]
    found = kinked_layers(Conv4(filters=4))
    assert len(found) == 8
    assert found[:2] == ["body.2 (MaxPool2d)", "body.3 (ReLU)"]
    assert kinked_layers(nn.LeakyReLU()) == ["model (LeakyReLU)"]
    assert kinked_layers(nn.Sequential(nn.GELU(), nn.Softplus(), nn.AvgPool2d(2))) == []


def test_a_kink_that_a_layer_holds_as_a_function() -> None:
    assert kinked_layers(nn.TransformerEncoderLayer(4, 1)) == ["model (TransformerEncoderLayer)"]
    assert kinked_layers(nn.TransformerEncoderLayer(4, 1, activation="gelu")) == []
    assert kinked_layers(nn.RNN(2, 3, nonlinearity="relu")) == ["model (RNN)"]
    assert kinked_layers(nn.RNN(2, 3)) == []


@pytest.mark.parametrize(
    ("model", "policy"),
    [
        (Conv4(filters=4), "batch statistics (transductive)"),
        (Conv4(filters=4, norm="group"), "group norm"),
        (Conv4(filters=4, norm="instance"), "instance norm"),
        (Conv4(filters=4, norm="none"), "none"),
        (MLP(), "none"),
        (nn.RMSNorm(4), "layer norm"),
        (nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4)), "group norm, layer norm"),
    ],
)
def test_normalisation_policy(model: nn.Module, policy: str) -> None:
    assert normalisation_policy(model) == policy
