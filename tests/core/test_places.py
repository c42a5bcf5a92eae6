"""Parameters that stand in several places, and modules that do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch.nn import functional

from cases import UNSAMPLED, made
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.inner.places import aliases
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.outer import OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf


class SharedModules(nn.Module):
    """One PReLU after two layers, one block twice, and the first layer's weight again as a second layer's."""

    def __init__(self) -> None:
        super().__init__()
        prelu, block = nn.PReLU(), nn.Linear(4, 4)
        self.first, self.last = nn.Linear(1, 4), nn.Linear(4, 1, bias=False)
        self.body = nn.Sequential(self.first, prelu, block, prelu, block, nn.Tanh())
        self.again = block
        self.last.weight = nn.Parameter(torch.randn(1, 4))
        self.tied = nn.Linear(4, 1)
        self.tied.weight = self.last.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        predicted: Tensor = self.last(hidden) * 0.5 + self.tied(torch.sin(self.again(hidden)))
        return predicted


class WrittenOut(nn.Module):
    """The same function of the same parameters, each in one place."""

    def __init__(self, model: SharedModules) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({n.replace(".", "/"): p for n, p in model.named_parameters()})

    def forward(self, x: Tensor) -> Tensor:
        w: Any = self.weights
        slope, block = w["body/1/weight"], (w["body/2/weight"], w["body/2/bias"])
        hidden = functional.prelu(functional.linear(x, w["first/weight"], w["first/bias"]), slope)
        hidden = functional.prelu(functional.linear(hidden, *block), slope)
        hidden = torch.tanh(functional.linear(hidden, *block))
        last = functional.linear(hidden, w["last/weight"])
        tied = functional.linear(torch.sin(functional.linear(hidden, *block)), w["last/weight"], w["tied/bias"])
        return last * 0.5 + tied


def test_aliases() -> None:
    model = SharedModules()
    assert aliases(model) == {"tied.weight": "last.weight"}
    assert aliases(nn.Sequential(nn.Linear(1, 1), nn.ReLU())) == {}
    module_twice = nn.Sequential(layer := nn.Linear(2, 2), layer)
    assert aliases(module_twice) == {}
    assert aliases(nn.ParameterList([layer.bias, layer.bias])) == {"1": "0"}


@pytest.mark.parametrize(
    ("pattern", "adapted"),
    [
        ("tied.*", {"last.weight", "tied.bias"}),
        ("tied.weight", {"last.weight"}),
        ("again.*", {"body.2.weight", "body.2.bias"}),
        ("last.*", {"last.weight"}),
    ],
)
def test_a_pattern_fits_by_every_name_of_a_weight(pattern: str, adapted: set[str]) -> None:
    loop = InnerLoop(SharedModules(), nn.MSELoss(), SGD(0.1), [pattern], 1)
    assert {*loop.fast_names} == adapted
    with pytest.raises(ValueError, match=r"fast_weights: 'tie.\*' fits none of the model's trainable"):
        InnerLoop(SharedModules(), nn.MSELoss(), SGD(0.1), [pattern, "tie.*"], 1)


def test_a_model_of_copies_is_refused() -> None:
    model = nn.Sequential(nn.DataParallel(nn.Linear(1, 1)))
    with pytest.raises(ValueError, match=r"model: holds a DataParallel, .* give what it wraps \(.module\)"):
        InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], 1)


@pytest.mark.parametrize("outer_gradient", made(UNSAMPLED))
@pytest.mark.parametrize("chunk", [1, 2, None])
@pytest.mark.parametrize("fast", ["*", "body.*"])
def test_the_gradient(outer_gradient: OuterGradient, chunk: int | None, fast: str) -> None:
    model, tasks = SharedModules(), random_tasks(3)
    before = {name: (weight, weight.clone()) for name, weight in model.named_parameters(remove_duplicate=False)}
    loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), [fast], 2)
    assert try_first_batch(loop, tasks, outer_gradient) == []
    assert (fast == "*") == ("last.weight" in loop.fast_names)
    assert "first.weight" in loop.fast_names  # body.0.weight by another name
    written_out = ["weights." + name.replace(".", "/") for name in loop.fast_names]
    plain = InnerLoop(WrittenOut(model), nn.MSELoss(), SGD(0.1), written_out, 2)
    found, true = (
        MetaGradientOf(loop, outer_gradient, 2, chunk)(tasks),
        MetaGradientOf(plain, outer_gradient, 2, 1)(tasks),
    )
    renamed = {f"model.weights.{n.removeprefix('model.').replace('.', '/')}": g for n, g in found.gradients.items()}
    assert set(renamed) == set(true.gradients)
    assert relative({name: renamed[name] for name in true.gradients}, true.gradients) < 1e-9
    # Everything is in its place again, and as it was.
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is weight and torch.equal(weight, value) for name, (weight, value) in before.items())


def test_training_moves_a_shared_module() -> None:
    model, tasks = SharedModules(), random_tasks(3)
    loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], 2)
    gradients = MetaGradientOf(loop, SecondOrder(), 2)(tasks).gradients
    for name in ("body.1.weight", "body.2.weight", "last.weight"):
        assert gradients[f"model.{name}"].abs().max() > 0
