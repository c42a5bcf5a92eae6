"""Ordinary models are tried and trained, not refused; the few that are refused have a reason."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from honest_models import HONEST, REFUSED, Honest
from hops import norm
from oracles import relative
from torch import Tensor, nn
from unrolling import unrolled
from update_rules import sgd

from cases import OUTER
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.model_checks import check_model
from litmaml.outer import FirstOrder, OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

pytestmark = [
    # Most have kinks, and finite values are all that is asked of probes here.
    pytest.mark.filterwarnings("ignore:.* across the kinks of:UserWarning"),
    # torch, of operations that it maps over tasks slowly.
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]

STEPS, RATE, TASKS = 2, 0.05, 2
OTHERS = {name: row for name, row in OUTER.items() if name != "SecondOrder"}
TAKEN = [name for name in HONEST if name not in REFUSED]
QUICK = {
    *("Conv4", "ResNet12", "VGG with dropout", "capsules", "variational autoencoder", "MLP", "FiLM", "hypernetwork"),
    *("DeepSets", "graph convolution", "LSTM", "transformer with padding", "state space"),
}
"""Of each kind of model one, under all other outer gradients; the others in the slow tests."""


def loop_of(honest: Honest, method: OuterGradient) -> InnerLoop:
    """As MetaLearner makes it, always alike."""
    torch.manual_seed(1)
    model = honest.make()
    check_model(model, method)
    loss = nn.CrossEntropyLoss() if honest.classes else nn.MSELoss()
    return InnerLoop(model, loss, SGD(RATE), ["*"], STEPS)


def tasks_of(honest: Honest) -> Tasks:
    torch.manual_seed(2)

    def batch(n: int) -> Batch:
        shape = TASKS, n, *honest.inputs
        targets = TASKS, n, *honest.targets
        inputs = torch.randint(7, shape) if honest.words else torch.randn(shape)
        return Batch(inputs, torch.randint(3, targets) if honest.classes else torch.rand(targets))

    return Tasks((batch(3),), batch(4), torch.arange(TASKS))


@pytest.mark.parametrize("name", TAKEN)
def test_the_exact_gradient_is_that_of_the_oracle(name: str) -> None:
    honest = HONEST[name]
    loop, tasks = loop_of(honest, SecondOrder()), tasks_of(honest)
    pristine = copy.deepcopy(loop.model)
    try_first_batch(loop, tasks, SecondOrder())
    assert loop.draws == honest.random
    found = MetaGradientOf(loop, SecondOrder(), STEPS)(tasks)
    assert bool(found.finite.all())
    if honest.random:  # the same numbers in each call
        assert relative(MetaGradientOf(loop, SecondOrder(), STEPS)(tasks).gradients, found.gradients) == 0
        slope = slope_of_loss(loop, tasks, found.gradients)
        torch.testing.assert_close(slope, norm(found.gradients), rtol=1e-4, atol=0)
        return
    true = unrolled(loop, tasks, STEPS, loop.fast_names, sgd(), model=pristine)
    torch.testing.assert_close(found.losses, true.losses, rtol=1e-10, atol=0)
    assert relative(found.gradients, true.gradients) < 1e-9


def slope_of_loss(loop: InnerLoop, tasks: Tasks, gradients: Params) -> Tensor:
    """The loss's slope along its gradient, by a central difference."""
    weights, length = dict(loop.named_parameters()), norm(gradients)

    def loss_at(step: float) -> Tensor:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.add_(step * gradients[name] / length)
            loss = MetaGradientOf(loop, FirstOrder(), STEPS)(tasks).loss
            for name, weight in weights.items():
                weight.sub_(step * gradients[name] / length)
        return loss

    return (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in TAKEN])
def test_every_outer_gradient_that_suits_it(name: str) -> None:
    honest = HONEST[name]
    tasks = tasks_of(honest)
    exact = MetaGradientOf(loop_of(honest, SecondOrder()), SecondOrder(), STEPS)(tasks)
    for row in OTHERS.values():
        method = row.make(samples=1)
        if honest.random and row.repeats:
            with pytest.raises(ValueError, match="draws anew"):
                try_first_batch(loop_of(honest, method), tasks, method)
            continue
        loop = loop_of(honest, method)
        told = pytest.warns(UserWarning, match="its gradient is not the slope of its loss")
        with told if honest.detached and method.probes else nullcontext():
            try_first_batch(loop, tasks, method)
        found = MetaGradientOf(loop, method, STEPS)(tasks)
        assert bool(found.finite.all())
        if isinstance(method, SecondOrder):
            assert relative(found.gradients, exact.gradients) < 1e-9


@pytest.mark.parametrize("name", TAKEN)
def test_in_single_precision(name: str) -> None:
    """As users have it: the trial's own tolerances refuse nothing."""
    torch.set_default_dtype(torch.float32)
    try:
        honest = HONEST[name]
        loop, tasks = loop_of(honest, SecondOrder()), tasks_of(honest)
        try_first_batch(loop, tasks, SecondOrder())
        assert bool(MetaGradientOf(loop, SecondOrder(), STEPS)(tasks).finite.all())
    finally:
        torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("name", REFUSED)
def test_those_that_are_refused(name: str) -> None:
    honest = HONEST[name]
    with pytest.raises(ValueError, match=REFUSED[name]):
        try_first_batch(loop_of(honest, SecondOrder()), tasks_of(honest), SecondOrder())


def test_the_share_that_is_refused() -> None:
    assert len(HONEST) >= 40
    assert len(REFUSED) == 3
