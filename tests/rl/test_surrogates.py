"""Derivatives of the surrogates against those of the expected return, over all trajectories, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from exact_mdp import DISCOUNT, ExactMDP, parameters_at
from torch import Tensor

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FiniteDifference, GaussianSmoothing, OuterGradient, OuterLoss, SecondOrder, ZerothOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.rl import ClippedSurrogate, PolicySurrogate, ScoreCorrection
from litmaml.tasks import Batch, Tasks, select, tree_map

CREDITS = (0.0, 0.25, 0.5, 0.75, 1.0)
SEEDS = (0, 1)


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def surrogate(credit: float | None) -> PolicySurrogate:
    return PolicySurrogate(credit, discount=DISCOUNT, per="trajectory")


def derivatives(mdp: ExactMDP, loss: torch.nn.Module, with_baseline: bool) -> tuple[Tensor, Tensor, Tensor]:
    """E of the gradient (4,), E of the Hessian (4, 4), and the Hessians of all trajectories (32, 4, 4)."""
    at, policy = mdp.start.clone(), mdp.policy()
    batch, chance = mdp.recorded(at, mdp.values if with_baseline else None), mdp.chance(at, mdp.everything())
    alone = tree_map(lambda part: part[0].unsqueeze(1), batch)  # each trajectory as one of its own (32, 1, ...)

    def losses(flat: Tensor) -> Tensor:
        predictions = parameters_at(policy, flat.view_as(at), alone.inputs)
        return torch.func.vmap(loss)(predictions, alone.targets)

    slopes = torch.func.jacrev(losses)(at.flatten())
    curved = torch.func.jacrev(torch.func.jacrev(losses))(at.flatten())
    return chance @ slopes, torch.einsum("k,kij->ij", chance, curved), curved


def of_return(mdp: ExactMDP) -> tuple[Tensor, Tensor]:
    """The gradient and the Hessian of -J."""

    def loss(flat: Tensor) -> Tensor:
        return -mdp.expected(flat.view_as(mdp.start))

    at = mdp.start.flatten()
    return torch.autograd.functional.jacobian(loss, at), torch.autograd.functional.hessian(loss, at)


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


# The expected return after adaptation to sampled trajectories, F_K.


class Weighed(ScoreCorrection):
    """With the chance of each task's trajectories as its weight."""

    def __init__(self, chances: Tensor, corrected: bool) -> None:
        super().__init__()
        self._chances, self._corrected = chances, corrected

    def task_weights(self, numbers: Tensor) -> Tensor:
        return len(numbers) * self._chances[numbers]

    def along(self, inner, j, fast, slow, support):  # type: ignore[no-untyped-def]  # as its base
        return super().along(inner, j, fast, slow, support) if self._corrected else torch.zeros(len(support.inputs))


RATE = 0.3


def sampled(mdp: ExactMDP, trajectories: int, steps: int) -> tuple[Tasks, Tensor, Tensor]:
    """All D = (D_0, ..., D_{N-1}) as tasks, their chances, and the true gradient of F_K by autograd alone."""
    of, at = mdp.everything(), mdp.start.clone().requires_grad_()
    every = mdp.recorded(mdp.start, mdp.values)
    count = len(of.fixed)
    rows = torch.cartesian_prod(*[torch.arange(count)] * (trajectories * steps)).reshape(-1, steps, trajectories)
    advantages = every.targets["advantages"][0]
    powers = DISCOUNT ** torch.arange(advantages.shape[1])

    # theta_0 of each D, (tasks, A, S).
    theta, logs_of_data = at.expand(len(rows), *at.shape), torch.zeros(len(rows))
    for j in range(steps):
        log_pi = theta.mT.log_softmax(-1)
        logs = log_pi[
            torch.arange(len(rows))[:, None, None], of.observations.argmax(-1)[rows[:, j]], of.actions[rows[:, j]]
        ]
        fixed = of.fixed[rows[:, j]].log().sum(-1)
        logs_of_data = logs_of_data + logs.sum((1, 2)) + fixed
        gained = (logs * advantages[rows[:, j]] * powers).sum(-1).mean(-1)
        (slope,) = torch.autograd.grad(gained.sum(), theta, create_graph=True)
        theta = theta + RATE * slope
    after = mdp.expected(theta)
    chances = logs_of_data.exp()
    (true,) = torch.autograd.grad(-(chances * after).sum(), at)
    assert chances.sum().item() == pytest.approx(1)

    support = []
    for j in range(steps):
        batch = tree_map(lambda part, j=j: part[0][rows[:, j]], every)
        batch.targets["gains"] = (after.detach() - 0.7)[:, None].expand(-1, trajectories)  # 0.7: any constant
        support.append(batch)
    # The query is every trajectory with its chance at theta_N, so that its gradient is that of -J there.
    query = tree_map(lambda part: part.expand(len(rows), *part.shape[1:]).clone(), mdp.recorded(mdp.start))
    weights = mdp.chance(theta, of).detach()
    query.targets["advantages"] = query.targets["advantages"] * count * weights.unsqueeze(-1)
    query.targets["log_probs"] = mdp.log_probs(theta, of).detach()
    return Tasks(tuple(support), query, torch.arange(len(rows))), chances.detach(), true


def meta_gradient(mdp: ExactMDP, tasks: Tasks, steps: int, outer_loss: OuterLoss, outer: OuterGradient) -> Tensor:
    loop = InnerLoop(mdp.policy(), surrogate(None), SGD(RATE), ["*"], steps)
    found = MetaGradientOf(loop, outer, steps, outer_loss=outer_loss)(tasks).gradients
    return found["model.body.weight"]


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


def recorded_tasks(mdp: ExactMDP, count: int, trajectories: int = 4) -> Tasks:
    """Tasks of some of the trajectories, drawn once."""
    draw = torch.Generator().manual_seed(5)
    every = mdp.recorded(mdp.start, mdp.values)

    def some() -> Batch:
        rows = torch.randint(32, (count, trajectories), generator=draw)
        return tree_map(lambda part: part[0][rows], every)

    return Tasks((some(),), some(), torch.arange(count))


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
