"""Probes of a model whose gradient is not the slope of its loss, and of models for which only kinks speak."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from bodies import Body, Reversed, loop_of, tried
from oracles import random_tasks
from torch import Tensor, nn
from torch.nn import functional

from cases import OUTER, PROBING, UNPROBED, made
from litmaml.inner import SGD, Proximal
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.outer import FiniteDifference, Implicit, OuterGradient, PathGradient, SecondOrder, ZerothOrder
from litmaml.tasks import Batch, map_batches


class Once(Reversed):
    """Has no second derivative by torch."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -0.5 * g


def is_reversed(self: Body, x: Tensor) -> Tensor:
    hidden = torch.tanh(self.first(x))
    return self.last(hidden) + Reversed.apply(hidden).mean(-1, keepdim=True)


def is_reversed_once(self: Body, x: Tensor) -> Tensor:
    hidden = torch.tanh(self.first(x))
    return self.last(hidden) + Once.apply(hidden).mean(-1, keepdim=True)


def binary(self: Body, x: Tensor) -> Tensor:
    weight = self.first.weight
    weight = weight + (weight.sign() * weight.abs().mean() - weight).detach()
    return self.last(torch.tanh(functional.linear(x, weight, self.first.bias)))


def codebook(self: Body, x: Tensor) -> Tensor:
    hidden = torch.tanh(self.first(x))
    taken = self.last.weight[(hidden[:, None] - self.last.weight).square().sum(-1).argmin(-1)]
    return self.last(hidden + (taken - hidden).detach())


def detached_norm(self: Body, x: Tensor) -> Tensor:
    weight = self.first.weight / self.first.weight.std().detach()
    return self.last(torch.tanh(functional.linear(x, weight, self.first.bias)))


def hooked(self: Body, x: Tensor) -> Tensor:
    hidden = torch.tanh(self.first(x))
    if hidden.requires_grad:
        hidden.register_hook(lambda g: 0.5 * g)
    return self.last(hidden)


@pytest.mark.parametrize("probes", made(PROBING))
@pytest.mark.parametrize("forward", [is_reversed, is_reversed_once, binary, codebook, detached_norm, hooked])
def test_a_gradient_that_is_not_the_slope_of_the_loss(forward: Any, probes: OuterGradient) -> None:
    name = type(probes).__name__
    with pytest.warns(UserWarning, match=f"model: its gradient is not the slope .* products of {name} are others"):
        tried(Body(forward), probes)


@pytest.mark.parametrize("product", [SecondOrder(), FiniteDifference()], ids=lambda product: type(product).__name__)
@pytest.mark.parametrize("forward", [is_reversed, binary, codebook, detached_norm, hooked])
def test_conjugate_gradients_of_products_that_are_not_symmetric(forward: Any, product: PathGradient) -> None:
    loop = InnerLoop(Body(forward), nn.MSELoss(), Proximal(SGD(0.1), 2.0), ["*"], 2)
    with pytest.warns(UserWarning, match=r"model: its gradient is not the slope .* products of Implicit are others"):
        try_first_batch(loop, random_tasks(3), Implicit(product=product))


def test_how_far_products_are_off_is_said() -> None:
    with pytest.warns(UserWarning, match=r"by \d+\.\d% along a random direction; use SecondOrder"):
        tried(Body(binary), FiniteDifference())


@pytest.mark.parametrize("outer_gradient", made(UNPROBED))
def test_no_probes(outer_gradient: OuterGradient) -> None:
    tried(Body(binary), outer_gradient)


def test_only_training_probes() -> None:
    try_first_batch(loop_of(Body(binary)), random_tasks(3), None)


class Kinked(nn.Module):
    """Max-pooling, ReLU and a stretch in single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 64), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.max_pool1d(functional.relu(self.first(x))[:, None], 2)[:, 0]
        return self.last(hidden.float().to(x.dtype))


def shifted(self: Body, x: Tensor) -> Tensor:
    return self.last(torch.tanh(self.first(x)).sub(x.amax().detach()))


class Told(nn.Module):
    """A loss that gives another number and the same gradient at any weights, as of a baseline that is taken off."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        loss = functional.mse_loss(predictions, targets)
        return 2 * loss - loss.detach()


@pytest.mark.parametrize("probes", made(PROBING))
@pytest.mark.parametrize("model", [Kinked, lambda: Body(shifted), lambda: Body(lambda self, x: self.plain(x))])
def test_kinks_and_what_alters_no_gradient_pass(model: Any, probes: OuterGradient) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*across the kinks of")
        tried(model(), probes)


def test_a_number_beside_the_gradient_matters_to_probes_by_losses_alone() -> None:
    try_first_batch(loop_of(Body(lambda self, x: self.plain(x)), loss=Told()), random_tasks(3), FiniteDifference())
    with pytest.warns(UserWarning, match="its gradient is not the slope"):
        try_first_batch(loop_of(Body(lambda self, x: self.plain(x)), loss=Told()), random_tasks(3), ZerothOrder())


@pytest.mark.parametrize("outer_gradient", made(OUTER))
def test_the_rounding_of_a_large_loss_is_no_slope(outer_gradient: OuterGradient) -> None:
    tasks = map_batches(lambda batch: Batch(batch.inputs, 1e8 + batch.targets), random_tasks(3))
    assert try_first_batch(loop_of(Body(lambda self, x: self.plain(x))), tasks, outer_gradient) == []
