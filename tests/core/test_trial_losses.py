"""What a trial finds in a loss, told of the loss, and draws that are made for some data only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bodies import Body, WrongSine, loop_of, tried
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch.nn import functional

from cases import ONCE, REPEATING, made
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.outer import OuterGradient, SecondOrder
from litmaml.outer.chunk_gradient import ChunkGradient
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks


class Drawing(nn.Module):
    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return ((predictions - targets).square() * (torch.rand_like(predictions) < 0.5)).mean()


@pytest.mark.parametrize("outer_gradient", made(ONCE))
def test_a_loss_that_draws_has_the_stream_of_its_task(outer_gradient: OuterGradient) -> None:
    loop, _ = tried(Body(Body.plain), outer_gradient, Drawing())
    assert loop.draws
    tasks, found = random_tasks(3), []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(MetaGradientOf(loop, outer_gradient, 2)(tasks).gradients)
    assert relative(*found) == 0


@pytest.mark.parametrize("outer_gradient", made(REPEATING))
def test_a_loss_that_draws_where_a_step_is_taken_twice(outer_gradient: OuterGradient) -> None:
    name = type(outer_gradient).__name__
    why = f"in each probe of {name}" if outer_gradient.probes else f"when {name} recomputes"
    with pytest.raises(ValueError, match=f"loss: Drawing draws anew {why}.*take another loss"):
        tried(Body(Body.plain), outer_gradient, Drawing())
    loop = loop_of(Body(Body.plain), Drawing())
    assert try_first_batch(loop, random_tasks(3), None) == []  # evaluation takes no step twice


class Elsewhere(nn.Module):
    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean() * (1 + np.random.rand())  # noqa: NPY002


class Counting(nn.Module):
    calls = 0

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        return (predictions - targets).square().mean() * self.calls


class Own(nn.Module):
    """A generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean() * (1 + self.generator.random())


class Penalty(nn.Module):
    """A loss with a penalty on the weights of the model that it keeps."""

    def __init__(self, model: Body) -> None:
        super().__init__()
        self.kept = [model]

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean() + self.kept[0].first.weight.square().sum()


class Asking(nn.Module):
    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).square().mean() * (2 if torch.is_grad_enabled() else 1)


class WrongTwice(nn.Module):
    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return WrongSine.apply(predictions - targets).square().mean()


class Once(nn.Module):
    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return functional.pdist(torch.cat([predictions, targets])).mean()


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (Elsewhere, "draws from numpy.random"),
        (Counting, "gives another number for the same predictions"),
        (Own, "gives another number for the same predictions"),
        (Penalty, r"reads weights of the model \(first.weight.*; take a penalty on weights out of it"),
        (Asking, "it is another one where no gradient is taken"),
        (WrongTwice, "an exact Hessian product"),
        (Once, "no second derivative exists"),
    ],
)
def test_what_is_wrong_with_a_loss_is_told_of_it(loss: Any, why: str) -> None:
    model = Body(Body.plain)
    made = loss(model) if loss is Penalty else loss()
    loop = loop_of(model, loss=made)
    with pytest.raises(ValueError, match=f"^loss: {loss.__name__}:? .*{why}"):
        try_first_batch(loop, random_tasks(3), SecondOrder())
    assert loop.loss is made


def test_what_is_wrong_with_a_model_is_not_told_of_the_loss() -> None:
    model = Body(lambda self, x: self.last(WrongSine.apply(self.first(x))))
    with pytest.raises(ValueError, match=r"^model: an exact Hessian product"):
        tried(model)


# What only training needs


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch, of what it maps slowly
def test_evaluation_alone_needs_no_second_derivative() -> None:
    model = Body(lambda self, x: self.plain(x) + 1e-3 * functional.pdist(self.first.weight).sum())
    loop, tasks = loop_of(model), random_tasks(3)
    try_first_batch(loop, tasks, None)
    *_, adapted = loop.path(tasks, 2)
    assert all(bool(weight.isfinite().all()) for weight in adapted.values())
    with pytest.raises(ValueError, match="no second derivative exists"):
        try_first_batch(loop, tasks, SecondOrder())


# Draws for some data only


def sometimes(self: Body, x: Tensor) -> Tensor:
    hidden = torch.tanh(self.first(x))
    if float(x.max()) > 50:
        hidden = functional.dropout(hidden, 0.5)
    return self.last(hidden)


def with_outlier(tasks: Tasks) -> Tasks:
    inputs = tasks.query.inputs.clone()
    inputs[1, 0] = 100.0
    return tasks._replace(support=(tasks.support[0]._replace(inputs=inputs),))


@pytest.mark.parametrize("outer_gradient", made(ONCE))
@pytest.mark.parametrize("chunk", [1, None])
def test_a_model_that_draws_for_some_data_only(outer_gradient: OuterGradient, chunk: int | None) -> None:
    loop, _ = tried(Body(sometimes), outer_gradient)
    assert not loop.draws
    plain, outlier, found = random_tasks(3), with_outlier(random_tasks(3)), []
    for seed in range(2):
        torch.manual_seed(seed)
        gradient = MetaGradientOf(loop, outer_gradient, 2, chunk)
        loop.draws = False
        gradient(plain)
        found.append(gradient(outlier).gradients)
        assert loop.draws
        assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state())
    assert relative(*found) == 0


@pytest.mark.parametrize("outer_gradient", made(REPEATING, samples=2))
def test_a_model_that_draws_for_some_data_where_a_step_is_taken_twice(outer_gradient: OuterGradient) -> None:
    loop, _ = tried(Body(sometimes), outer_gradient)
    gradient, plain, outlier = (
        MetaGradientOf(loop, outer_gradient, 2),
        random_tasks(3),
        with_outlier(random_tasks(3)),
    )
    before = torch.get_rng_state()
    gradient(plain)
    with pytest.raises(ValueError, match=r"model: it, or its loss, draws anew .*"):
        gradient(outlier)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_drawn_from_the_global_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step without draws costs two looks at the generator, and computes once."""
    loop, calls = loop_of(Body(Body.plain)), []
    gradient = MetaGradientOf(loop, SecondOrder(), 2)
    part = ChunkGradient.__call__

    def counted(*args: Any) -> Any:
        calls.append(1)
        return part(*args)

    monkeypatch.setattr(ChunkGradient, "__call__", counted)
    gradient(random_tasks(3))
    assert calls == [1]
