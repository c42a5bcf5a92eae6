"""Derivatives of the surrogates against those of the expected return, over all trajectories, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from experiments.exact_mdp import (
    CREDITS,
    DISCOUNT,
    RATE,
    ExactMDP,
    Weighed,
    derivatives,
    meta_gradient,
    of_return,
    recorded_tasks,
    sampled,
    surrogate,
)
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FiniteDifference, GaussianSmoothing, OuterGradient, SecondOrder, ZerothOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.rl import ClippedSurrogate
from litmaml.tasks import select, tree_map

SEEDS = (0, 1)


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("credit", [None, *CREDITS])
@pytest.mark.parametrize("with_baseline", [False, True])
def test_the_first_derivative_is_that_of_the_expected_return(
    credit: float | None, with_baseline: bool, seed: int
) -> None:
    mdp = ExactMDP(seed)
    slope, curved, _ = derivatives(mdp, surrogate(credit), with_baseline)
    true_slope, true_curved = of_return(mdp)
    assert (slope - true_slope).norm() < 1e-12
    error = (curved - true_curved).norm() / true_curved.norm()
    if credit == 1:
        assert error < 1e-12
    elif credit == 0:
        assert error > 0.2
    elif credit is None and with_baseline:
        assert curved.norm() < 1e-12 * true_curved.norm()  # which makes MAML first-order MAML, and noise


@pytest.mark.parametrize("seed", SEEDS)
def test_bias_falls_and_noise_rises_with_the_credit(seed: int) -> None:
    mdp = ExactMDP(seed)
    _, true_curved = of_return(mdp)
    chance = mdp.chance(mdp.start, mdp.everything())
    biases, noises = [], []
    for credit in CREDITS:
        _, mean, each = derivatives(mdp, surrogate(credit), True)
        biases.append((mean - true_curved).norm())
        noises.append((chance * (each - mean).square().sum((1, 2))).sum().sqrt())
    assert all(after < before for before, after in pairwise(biases))
    assert all(after > before for before, after in pairwise(noises))


def test_the_clipped_loss_has_the_policy_gradient_and_none_beyond_its_bounds() -> None:
    mdp = ExactMDP()
    slope, _, _ = derivatives(mdp, ClippedSurrogate(0.3, DISCOUNT, "trajectory"), True)
    assert (slope - of_return(mdp)[0]).norm() < 1e-12
    recorded = {
        "actions": torch.tensor([[0]]),
        "advantages": torch.ones(1, 1),
        "mask": torch.ones(1, 1),
        "log_probs": torch.tensor([[0.5]]).log(),
    }
    for logit, expected in ((0.0, -1.0), (5.0, -1.3)):  # of a ratio of 1, and of 1.99, which is kept to 1.3
        logits = torch.tensor([[[logit, 0.0]]], requires_grad=True)
        loss = ClippedSurrogate(0.3)(logits, recorded)
        assert loss.item() == pytest.approx(expected)
        (slope,) = torch.autograd.grad(loss, logits)
        assert bool(slope.any()) == (logit == 0)


@pytest.mark.parametrize(("trajectories", "steps"), [(1, 1), (2, 1), (1, 2)])
def test_score_and_correction_are_the_gradient_of_what_is_sampled(trajectories: int, steps: int) -> None:
    mdp = ExactMDP()
    tasks, chances, true = sampled(mdp, trajectories, steps)
    found = meta_gradient(mdp, tasks, steps, Weighed(chances, True), SecondOrder())
    assert ((found - true).norm() / true.norm()).item() < 1e-12
    without = meta_gradient(mdp, tasks, steps, Weighed(chances, False), SecondOrder())
    assert ((without - true).norm() / true.norm()).item() > 0.01
    if steps == 2:  # the correction of the first trajectories alone
        tasks.support[1].targets["gains"] = torch.zeros_like(tasks.support[1].targets["gains"])
        first = meta_gradient(mdp, tasks, steps, Weighed(chances, True), SecondOrder())
        assert ((first - true).norm() / true.norm()).item() > 0.01


@pytest.mark.parametrize("credit", CREDITS)
def test_probes_on_the_same_trajectories_are_the_exact_product(credit: float) -> None:
    mdp = ExactMDP()
    tasks = recorded_tasks(mdp, 8)

    def found(outer: OuterGradient, k: int) -> Tensor:
        loop = InnerLoop(mdp.policy(), surrogate(credit), SGD(RATE), ["*"], 1)
        return MetaGradientOf(loop, outer, 1)(select(tasks, [k])).gradients["model.body.weight"]

    for k in range(8):
        exact = found(SecondOrder(), k)
        assert ((found(FiniteDifference(), k) - exact).norm() / exact.norm()).item() < 1e-7


@pytest.mark.parametrize("outer", [GaussianSmoothing(50), ZerothOrder(50)], ids=["smoothing", "zeroth"])
def test_sampled_products_on_the_same_trajectories_are_right_in_the_mean(outer: OuterGradient) -> None:
    mdp = ExactMDP()
    one = recorded_tasks(mdp, 1)
    many = tree_map(lambda part: part.expand(400, *part.shape[1:]), one)._replace(numbers=torch.arange(400))
    loop = InnerLoop(mdp.policy(), surrogate(0.9), SGD(RATE), ["*"], 1)
    exact = MetaGradientOf(loop, SecondOrder(), 1)(one).gradients["model.body.weight"]
    each = [
        MetaGradientOf(loop, outer, 1)(select(many, slice(k, k + 20))).gradients["model.body.weight"]
        for k in range(0, 400, 20)
    ]
    found = torch.stack(each)
    error = found.std(0) / len(each) ** 0.5
    assert bool(((found.mean(0) - exact).abs() < 3 * error + 1e-6).all())
    assert bool((error < 0.2 * exact.abs().max()).all())
