"""Weights that are no ordinary ones: empty, in a scripted part, without values, with brackets in their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import random_tasks, relative
from torch import Tensor, nn

from cases import OUTER, made
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.model_checks import check_model
from litmaml.outer import OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf

METHODS = made(OUTER, samples=3)


class Network(nn.Module):
    def __init__(self, extra: nn.Parameter | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(1, 4), nn.Linear(4, 1)
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.last(torch.tanh(self.first(x)))
        return predicted if self.extra is None else predicted + self.extra.sum()


def tried(model: nn.Module, method: OuterGradient | None = None) -> InnerLoop:
    loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], 2)
    try_first_batch(loop, random_tasks(2), method or SecondOrder())
    return loop


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [None, 1])
def test_an_empty_parameter(method: OuterGradient, chunk: int | None) -> None:
    tasks = random_tasks(3)
    found, true = (
        MetaGradientOf(tried(model, method), method, 2, chunk)(tasks)
        for model in (Network(nn.Parameter(torch.empty(0, 3))), Network())
    )
    assert bool(found.finite.all())
    assert found.gradients["model.extra"].shape == (0, 3)
    others = {name: found.gradients[name] for name in true.gradients}
    assert relative(others, true.gradients) < 1e-6  # differences round


scripts = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


@scripts
@pytest.mark.parametrize("method", METHODS)
def test_a_scripted_part(method: OuterGradient) -> None:
    plain, scripted = Network(), Network()
    scripted.first = torch.jit.script(scripted.first)  # type: ignore[assignment]  # another class, as it is used
    tasks = random_tasks(3)
    found, true = (MetaGradientOf(tried(model, method), method, 2)(tasks).gradients for model in (scripted, plain))
    assert relative(found, true) < 1e-6
    assert true["model.first.weight"].any()


@scripts
def test_a_model_that_is_scripted_as_a_whole() -> None:
    with pytest.raises(ValueError, match=r"model: it is a ScriptModule.*; give the module that it was made of"):
        check_model(torch.jit.script(Network()), SecondOrder())


@pytest.mark.parametrize(
    ("model", "name"),
    [(Network().to("meta"), "first.weight"), (nn.InstanceNorm1d(2, affine=True, device="meta"), "weight")],
)
def test_a_model_without_values(model: nn.Module, name: str) -> None:
    with pytest.raises(ValueError, match=rf"model: {name} is on the meta device.*; move the model by to_empty"):
        check_model(model, SecondOrder())


def asks(self: Network, x: Tensor) -> Tensor:
    if not isinstance(self.first.weight, nn.Parameter):
        raise KeyError("first.weight")
    return Network.forward(self, x)


def swaps(self: Network, x: Tensor) -> Tensor:
    weight = self.first.weight
    self.first.weight = nn.Parameter(weight.detach().clone())
    predicted = Network.forward(self, x)
    self.first.weight = weight
    return predicted


def asserts(self: Network, x: Tensor) -> Tensor:
    assert isinstance(self.first.weight, nn.Parameter)
    return Network.forward(self, x)


@pytest.mark.parametrize(
    ("forward", "line"),
    [(asks, "KeyError: 'first.weight'"), (swaps, "TypeError: cannot assign"), (asserts, "AssertionError")],
)
def test_a_model_that_wants_its_own_parameters(forward: Callable[[Any, Tensor], Tensor], line: str) -> None:
    kind = type("Own", (Network,), {"forward": forward})
    with pytest.raises(ValueError, match=rf"model: it cannot be computed as the inner loop does.*{line}.*; let the"):
        tried(kind())


@pytest.mark.parametrize("error", [KeyError("mask"), AttributeError("mask"), AssertionError(), ZeroDivisionError()])
def test_whatever_a_forward_pass_raises(error: Exception) -> None:
    class Failing(Network):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    with pytest.raises(ValueError, match=rf"cannot take the tasks' inputs of shape .*{type(error).__name__}.*; are"):
        tried(Failing())


class Marked(torch.Tensor):
    """As libraries of images mark theirs."""


def test_outputs_of_a_subclass_of_tensors() -> None:
    class Marking(Network):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).as_subclass(Marked)

    tasks = random_tasks(3)
    found, true = (MetaGradientOf(tried(model), SecondOrder(), 2)(tasks).gradients for model in (Marking(), Network()))
    assert relative(found, true) < 1e-12


def test_names_with_brackets_are_patterns_of_themselves() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterDict({"w[0]": torch.ones(1), "w[1]": torch.ones(1), "w0": torch.ones(1)})

        def forward(self, x: Tensor) -> Tensor:
            return sum(self.weights.values()) * x

    def fast(*patterns: str) -> list[str]:
        return InnerLoop(Several(), nn.MSELoss(), SGD(), patterns, 1).fast_names

    assert fast("weights.w[0]") == ["weights.w[0]"]
    assert fast("weights.w[?]") == ["weights.w[0]", "weights.w[1]"]
    assert fast("*[1]", "*0") == ["weights.w0", "weights.w[1]"]
