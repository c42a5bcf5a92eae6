"""Several tasks at once of models that draw: compared with one by one at the same random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bodies import Body, loop_of
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch.nn import functional

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FirstOrder, OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from litmaml.trial import try_first_batch

Draw = Callable[[Tensor], Tensor]


class Words(nn.Module):
    """Words by a function, of which one is padding: under ``vmap`` torch forgets which."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.words, self.last, self.draw = nn.Parameter(torch.randn(7, 4)), nn.Linear(4, 1), draw

    def forward(self, x: Tensor) -> Tensor:
        seen = functional.embedding(x[..., 0].abs().long() % 7, self.words, padding_idx=0)
        return self.last(self.draw(torch.tanh(seen)))  # type: ignore[no-any-return]


def with_a_module_hook(draw: Draw) -> nn.Module:
    model = Body(lambda self, x: self.last(draw(torch.tanh(self.first(x)))))
    model.last.register_full_backward_hook(lambda module, by_inputs, by_outputs: (0.5 * by_inputs[0],))
    return model


def with_a_tensor_hook(draw: Draw) -> nn.Module:
    def forward(self: Body, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        if hidden.requires_grad:
            hidden.register_hook(lambda g: 0.5 * g)
        return self.last(draw(hidden))  # type: ignore[no-any-return]

    return Body(forward)


WRONG_AT_ONCE = [Words, with_a_module_hook, with_a_tensor_hook]
DRAWS: list[Any] = [
    pytest.param(lambda h: h, id="nothing"),
    pytest.param(nn.Dropout(1e-12), id="layer"),
    pytest.param(lambda h: functional.dropout(h, 1e-12), id="function"),
    pytest.param(lambda h: h + 1e-12 * torch.randn_like(h), id="noise"),
]


@pytest.mark.parametrize("outer_gradient", [SecondOrder(), FirstOrder()])
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("make", WRONG_AT_ONCE)
def test_what_several_at_once_change_is_computed_one_by_one(
    make: Callable[[Draw], nn.Module], draw: Draw, outer_gradient: OuterGradient
) -> None:
    """What is drawn is too little to see, so that any numbers give the same gradient."""
    tasks, loop = random_tasks(3), loop_of(make(draw))
    remarks = try_first_batch(loop, tasks, outer_gradient)
    assert not loop.mapped
    assert "mapped over them it gives another gradient" in remarks[-1]
    at_once, alone = (MetaGradientOf(loop, outer_gradient, 2, size)(tasks).gradients for size in (3, 1))
    assert relative(at_once, alone) < 1e-9


def mixed_up(h: Tensor) -> Tensor:
    return h + 0.1 * torch.rand(()) * h[torch.randperm(len(h))]


def kept_in_part(h: Tensor) -> Tensor:
    return h + torch.tanh(h) * torch.empty(len(h), 1).bernoulli_(0.8)


def by_a_distribution(h: Tensor) -> Tensor:
    return torch.distributions.Normal(h, 0.1 + h.square()).rsample()


HONEST: list[Any] = [
    nn.Dropout(0.3),
    nn.AlphaDropout(0.3),
    lambda h: functional.dropout(h, 0.3),
    lambda h: functional.dropout1d(h[..., None], 0.3)[..., 0],
    lambda h: h + 0.1 * torch.randn_like(h),
    lambda h: h * functional.gumbel_softmax(h),
    mixed_up,
    kept_in_part,
    by_a_distribution,
]


@pytest.mark.parametrize("draw", HONEST)
def test_models_that_draw_are_computed_at_once_still(draw: Draw) -> None:
    loop = loop_of(Body(lambda self, x: self.last(draw(torch.tanh(self.first(x))))))
    assert try_first_batch(loop, random_tasks(3), SecondOrder()) == []
    assert loop.draws
    assert loop.mapped


@pytest.mark.parametrize("drop", [nn.Dropout, nn.Dropout2d])
def test_a_convolutional_network_with_dropout(drop: type[nn.Module]) -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), drop(0.2), nn.Flatten(), nn.Linear(64, 3)]  # type: ignore[call-arg]
    loop = InnerLoop(nn.Sequential(*layers), nn.CrossEntropyLoss(), SGD(0.1), ["*"], 1)
    batch = Batch(torch.randn(3, 6, 1, 6, 6), torch.arange(3).repeat(2).expand(3, -1))
    assert loop.tasks_at_once(batch.inputs) == 3
    assert try_first_batch(loop, Tasks((batch,), batch, torch.arange(3)), SecondOrder()) == []
    assert loop.mapped


def test_what_cannot_draw_alike_is_computed_one_by_one() -> None:
    loop = loop_of(Body(lambda self, x: self.plain(x) * torch.bernoulli(torch.sigmoid(self.first(x)).detach())[:, :1]))
    (remark,) = try_first_batch(loop, random_tasks(3), SecondOrder())
    assert "with the same random numbers for each, to compare it" in remark
    assert not loop.mapped


def test_tasks_draw_numbers_of_their_own_in_training() -> None:
    """Only the comparison draws the same for all."""
    model = Body(lambda self, x: self.plain(0 * x + 1) + torch.randn_like(x))
    loop = loop_of(model)
    try_first_batch(loop, random_tasks(3), SecondOrder())
    assert not loop.draws_alike
    predictions = MetaGradientOf(loop, SecondOrder(), 1, 3)(random_tasks(3)).predictions
    spread = (predictions - predictions.mean(1, keepdim=True)).flatten(1)
    assert float((spread[0] - spread[1]).abs().max()) > 1e-3
