"""Tasks of models that draw are computed one after another, each from its own stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bodies import Body, loop_of
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch.nn import functional

from cases import ONCE, made
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.outer import OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks

Draw = Callable[[Tensor], Tensor]


class Words(nn.Module):
    """Words by a function, of which one is padding: under ``vmap`` torch forgets which."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.words, self.last, self.draw = nn.Parameter(torch.randn(7, 4)), nn.Linear(4, 1), draw

    def forward(self, x: Tensor) -> Tensor:
        seen = functional.embedding(x[..., 0].abs().long() % 7, self.words, padding_idx=0)
        return self.last(self.draw(torch.tanh(seen)))


def with_a_module_hook(draw: Draw) -> nn.Module:
    model = Body(lambda self, x: self.last(draw(torch.tanh(self.first(x)))))
    halve: Callable[..., tuple[Tensor]] = lambda module, by_inputs, by_outputs: (0.5 * by_inputs[0],)  # noqa: E731
    model.last.register_full_backward_hook(halve)
    return model


def with_a_tensor_hook(draw: Draw) -> nn.Module:
    def forward(self: Body, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        if hidden.requires_grad:
            hidden.register_hook(lambda g: 0.5 * g)
        return self.last(draw(hidden))

    return Body(forward)


WRONG_AT_ONCE = [Words, with_a_module_hook, with_a_tensor_hook]
DRAWS: list[Any] = [
    pytest.param(lambda h: h, id="nothing"),
    pytest.param(nn.Dropout(1e-12), id="layer"),
    pytest.param(lambda h: functional.dropout(h, 1e-12), id="function"),
    pytest.param(lambda h: h + 1e-12 * torch.randn_like(h), id="noise"),
]


@pytest.mark.parametrize("outer_gradient", made(ONCE))
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("make", WRONG_AT_ONCE)
def test_what_several_at_once_change_is_computed_one_by_one(
    make: Callable[[Draw], nn.Module], draw: Draw, outer_gradient: OuterGradient
) -> None:
    """What is drawn is too little to see, so that any numbers give the same gradient."""
    tasks, loop = random_tasks(3), loop_of(make(draw))
    remarks = try_first_batch(loop, tasks, outer_gradient)
    assert loop.tasks_at_once(tasks.query.inputs) == 1
    assert loop.draws or "mapped over them it gives another gradient" in remarks[-1]
    at_once, alone = (MetaGradientOf(loop, outer_gradient, 2, size)(tasks).gradients for size in (3, 1))
    assert relative(at_once, alone) < 1e-9


def mixed_up(h: Tensor) -> Tensor:
    return h + 0.1 * torch.rand(()) * h[torch.randperm(len(h))]


def kept_in_part(h: Tensor) -> Tensor:
    return h + torch.tanh(h) * torch.empty(len(h), 1).bernoulli_(0.8)


def by_a_distribution(h: Tensor) -> Tensor:
    return torch.distributions.Normal(h, 0.1 + h.square()).rsample()


def by_a_branch(h: Tensor) -> Tensor:
    return h if torch.rand(()) < 0.5 else 2 * h


def by_its_own_generator(h: Tensor) -> Tensor:
    return h + torch.randn(h.shape, generator=torch.Generator().manual_seed(3), dtype=h.dtype)


def seeded_anew(h: Tensor) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return h * torch.rand(h.shape[-1], dtype=h.dtype)


class OwnDropout(nn.Dropout):
    """Draws from its own generator, in the place of torch's layer."""

    def forward(self, x: Tensor) -> Tensor:
        return by_its_own_generator(x) if self.training else x


LAYERS: list[Any] = [nn.Dropout(0.3), nn.AlphaDropout(0.3), nn.FeatureAlphaDropout(0.3)]
FUNCTIONS: list[Any] = [
    lambda h: functional.dropout(h, 0.3),
    lambda h: h + 0.1 * torch.randn_like(h),
    lambda h: h * functional.gumbel_softmax(h),
    mixed_up,
    kept_in_part,
    by_a_distribution,
    by_a_branch,
    by_its_own_generator,
    seeded_anew,
    OwnDropout(0.3),
    nn.Sequential(nn.Dropout(0.3), OwnDropout(0.3)),
    lambda h: h * torch.bernoulli(torch.sigmoid(h).detach()),
    lambda h: h * (1 + int(torch.randint(3, ()))),
]


def drawing(draw: Draw) -> nn.Module:
    model = Body(lambda self, x: self.last(draw(torch.tanh(self.first(x)))))
    model.draw = draw if isinstance(draw, nn.Module) else None
    return model


@pytest.mark.parametrize("draw", LAYERS + FUNCTIONS)
def test_what_draws_is_computed_one_by_one(draw: Draw) -> None:
    tasks, loop = random_tasks(3), loop_of(drawing(draw))
    remarks = try_first_batch(loop, tasks, SecondOrder())
    assert loop.draws or "model: tasks are computed one after another, since it draws" in remarks[0]
    assert loop.tasks_at_once(tasks.query.inputs) == 1
    at_once, alone = (MetaGradientOf(loop, SecondOrder(), 2, size)(tasks) for size in (3, 1))
    assert torch.equal(at_once.losses, alone.losses)
    assert relative(at_once.gradients, alone.gradients) < 1e-12


@pytest.mark.parametrize("draw", [by_its_own_generator, seeded_anew])
def test_numbers_that_each_pass_draws_again_are_the_model_s(draw: Draw) -> None:
    """Without a trial too."""
    tasks, model = random_tasks(3), drawing(draw)
    found = MetaGradientOf(loop_of(model), SecondOrder(), 2, 3)(tasks)
    alone = MetaGradientOf(loop_of(model), SecondOrder(), 2, 1)(tasks)
    assert relative(found.gradients, alone.gradients) < 1e-9
    torch.testing.assert_close(found.losses, alone.losses)


@pytest.mark.parametrize("drop", [nn.Dropout, nn.Dropout2d])
def test_a_convolutional_network_with_dropout(drop: type[nn.Module]) -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), drop(0.2), nn.Flatten(), nn.Linear(64, 3)]
    loop = InnerLoop(nn.Sequential(*layers), nn.CrossEntropyLoss(), SGD(0.1), ["*"], 1)
    batch = Batch(torch.randn(3, 6, 1, 6, 6), torch.arange(3).repeat(2).expand(3, -1))
    assert try_first_batch(loop, Tasks((batch,), batch, torch.arange(3)), SecondOrder()) == []
    assert loop.mapped
    assert loop.tasks_at_once(batch.inputs) == 1


def test_tasks_draw_numbers_of_their_own_in_training() -> None:
    drop = nn.Dropout(0.5)
    model = Body(lambda self, x: self.plain(0 * x + 1) + drop(torch.ones_like(x)), drop=drop)
    loop = loop_of(model)
    try_first_batch(loop, random_tasks(3), SecondOrder())
    predictions = MetaGradientOf(loop, SecondOrder(), 1, 3)(random_tasks(3)).predictions
    spread = (predictions - predictions.mean(1, keepdim=True)).flatten(1)
    assert float((spread[0] - spread[1]).abs().max()) > 1e-3
