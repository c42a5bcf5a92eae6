"""The same meta-gradients from learn2learn and higher."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import higher
import pytest
import torch
from oracles import random_tasks, relative
from torch import nn

from cases import TWICE, made
from litmaml.inner import SGD, HigherOptimizer, InnerOptimizer
from litmaml.inner.loop import InnerLoop
from litmaml.models import MLP, Conv4
from litmaml.outer import OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

WAYS, STEPS = 3, 2


@pytest.fixture
def images() -> Tasks:
    """Three-way tasks with two images a class in the support and three in the query."""

    def batch(shots: int) -> Batch:
        labels = torch.arange(WAYS).repeat_interleave(shots).expand(2, WAYS * shots)
        return Batch(torch.rand(2, WAYS * shots, 1, 16, 16), labels)

    return Tasks((batch(2),), batch(3), torch.arange(2))


@pytest.fixture
def conv4() -> Conv4:
    """With affine BatchNorm whose scales and shifts are no longer one and zero."""
    model = Conv4(ways=WAYS, filters=6, size=16)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return model


def system(
    model: nn.Module, tasks: Tasks, loss: nn.Module, inner: InnerOptimizer, outer: OuterGradient, chunk: int
) -> Params:
    """By the model's own names."""
    loop = InnerLoop(model, loss, inner, ["*"], STEPS)
    gradients = MetaGradientOf(loop, outer, STEPS, chunk)(tasks).gradients
    return {name.removeprefix("model."): gradient for name, gradient in gradients.items()}


def by_higher(model: nn.Module, tasks: Tasks, loss: nn.Module, optimizer: torch.optim.Optimizer) -> Params:
    names = [name for name, _ in model.named_parameters()]
    total = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for task in range(tasks.size):
        with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (adapted, steps):
            for _ in range(STEPS):
                steps.step(loss(adapted(tasks.support[0].inputs[task]), tasks.support[0].targets[task]))
            outer = loss(adapted(tasks.query.inputs[task]), tasks.query.targets[task]) / tasks.size
            for name, part in zip(names, torch.autograd.grad(outer, [*model.parameters()]), strict=True):
                total[name] += part
    return total


OUTERS = pytest.mark.parametrize("outer", made(TWICE))
CHUNKS = pytest.mark.parametrize("chunk", [2, 1], ids=["batched", "looped"])


@OUTERS
@CHUNKS
def test_learn2learn_on_conv4_with_batch_norm(
    outer: OuterGradient, chunk: int, images: Tasks, conv4: Conv4, learn2learn: ModuleType
) -> None:
    loss = nn.CrossEntropyLoss()
    maml = learn2learn.algorithms.MAML(conv4, lr=0.4)
    total = torch.zeros(())
    for task in range(2):
        learner = maml.clone()
        for _ in range(STEPS):
            learner.adapt(loss(learner(images.support[0].inputs[task]), images.support[0].targets[task]))
        total = total + loss(learner(images.query.inputs[task]), images.query.targets[task]) / 2
    names = [name for name, _ in conv4.named_parameters()]
    true = dict(zip(names, torch.autograd.grad(total, [*conv4.parameters()]), strict=True))
    assert relative(system(conv4, images, loss, SGD(0.4), outer, chunk), true) < 1e-10


@OUTERS
@CHUNKS
def test_higher_on_conv4_with_batch_norm(outer: OuterGradient, chunk: int, images: Tasks, conv4: Conv4) -> None:
    loss = nn.CrossEntropyLoss()
    true = by_higher(conv4, images, loss, torch.optim.SGD(conv4.parameters(), lr=0.4))
    assert relative(system(conv4, images, loss, SGD(0.4), outer, chunk), true) < 1e-10


STATEFUL: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "eps": 0.01, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "eps": 0.01, "amsgrad": True, "betas": (0.5, 0.6)}),
    ("RMSprop", {"lr": 0.02, "eps": 0.01, "momentum": 0.9}),
    ("Adagrad", {"lr": 0.05, "lr_decay": 0.5, "initial_accumulator_value": 0.1}),
    ("Adadelta", {"lr": 0.5, "eps": 0.01}),
    ("Adamax", {"lr": 0.05, "eps": 0.01}),
    ("ASGD", {"lr": 0.1, "lambd": 0.3}),
    ("Rprop", {"lr": 0.05}),
]


@pytest.mark.filterwarnings("ignore:Differentiable R:UserWarning")  # higher's own, when called directly
@pytest.mark.parametrize(("name", "options"), STATEFUL)
@CHUNKS
def test_higher_with_its_optimizers(name: str, options: dict[str, Any], chunk: int) -> None:
    """Stacked tasks in one of higher's optimizers are as if each had its own."""
    model, loss = MLP(hidden=(6, 6)), nn.MSELoss()
    tasks = random_tasks(targets=lambda x: torch.sin(2 * x))
    true = by_higher(model, tasks, loss, getattr(torch.optim, name)(model.parameters(), **options))
    found = system(model, tasks, loss, HigherOptimizer(f"torch.optim.{name}", options), SecondOrder(), chunk)
    assert relative(found, true) < 1e-10
