"""The outer optimizer that learns its own rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles import random_tasks
from torch import Tensor, nn

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import HypergradientSGD, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf


def test_the_rate_descends_the_outer_loss() -> None:
    """dF(w - beta G)/dbeta = -<grad F(w - beta G), G>, which the rate goes against."""
    tasks, beta, kappa = random_tasks(), 0.1, 0.01
    model = nn.Linear(1, 1)
    gradient_of = MetaGradientOf(InnerLoop(model, nn.MSELoss(), SGD(0.05), ["*"], 2), SecondOrder(), 2)
    start = [weight.detach().clone() for weight in model.parameters()]

    def put(weights: list[Tensor]) -> None:
        with torch.no_grad():
            for weight, value in zip(model.parameters(), weights, strict=True):
                weight.copy_(value)

    def gradients() -> list[Tensor]:
        return [*gradient_of(tasks).gradients.values()]

    first = gradients()

    def loss_after(rate: float) -> float:
        put([w - rate * g for w, g in zip(start, first, strict=True)])
        return float(gradient_of(tasks).loss)

    slope = (loss_after(beta + 1e-5) - loss_after(beta - 1e-5)) / 2e-5
    put(start)
    optimizer = HypergradientSGD(model.parameters(), lr=beta, hyper_lr=kappa)
    for _ in range(2):
        for weight, g in zip(model.parameters(), gradients(), strict=True):
            weight.grad = g.clone()
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(beta - kappa * slope, rel=1e-8)


def test_the_multiplicative_form_does_not_feel_the_scale() -> None:
    rates = []
    for scale in (1.0, 1e4):
        w = torch.zeros(2, requires_grad=True)
        optimizer = HypergradientSGD([w], lr=0.1, hyper_lr=0.5, multiplicative=True)
        for g in ([1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]):
            w.grad = scale * torch.tensor(g)
            optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    half = 0.5 * 2**-0.5
    assert rates[0] == pytest.approx(0.1 * (1 + half) * (1 - half))
    assert rates[1] == pytest.approx(rates[0])


def test_what_has_no_gradient_stays_and_the_rate_is_not_negative() -> None:
    w, still = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = HypergradientSGD([w, still], lr=0.1, hyper_lr=1.0)
    for g in (1.0, -1.0):
        w.grad = torch.tensor([g])
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0
    assert w.item() == pytest.approx(-0.1)
    assert still.item() == 1


def test_groups_have_rates_of_their_own_and_states_go_on() -> None:
    def made() -> tuple[list[Tensor], HypergradientSGD]:
        weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
        groups: list[dict[str, Any]] = [{"params": [weights[0]]}, {"params": [weights[1]], "lr": 0.5}]
        return weights, HypergradientSGD(groups, 0.1, 0.01)

    def step(weights: list[Tensor], optimizer: HypergradientSGD) -> None:
        for weight, g in zip(weights, (2.0, 3.0), strict=True):
            weight.grad = torch.tensor([g])
        optimizer.step()

    whole, half = made(), made()
    for _ in range(3):
        step(*whole)
    step(*half)
    again = made()
    again[1].load_state_dict(half[1].state_dict())
    for _ in range(2):
        step(*again)
    assert [g["lr"] for g in whole[1].param_groups] == [g["lr"] for g in again[1].param_groups]
    assert whole[1].param_groups[0]["lr"] == pytest.approx(0.1 + 2 * 0.01 * 4)
    assert whole[1].param_groups[1]["lr"] == pytest.approx(0.5 + 2 * 0.01 * 9)


def test_refusals() -> None:
    w = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="lr: has to be at least 0, got -1"):
        HypergradientSGD([w], lr=-1.0)
    with pytest.raises(ValueError, match="hyper_lr: has to be at least 0, got nan"):
        HypergradientSGD([w], hyper_lr=float("nan"))
