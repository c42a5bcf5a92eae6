"""A Markov decision process of two states, two actions and three steps, all trajectories of which are enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterGradient, OuterLoss
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.rl import CategoricalPolicy, PolicySurrogate, ScoreCorrection
from litmaml.rl.advantages import sums_to_come
from litmaml.tasks import Batch, Tasks, tree_map

STATES, ACTIONS, HORIZON, DISCOUNT, RATE = 2, 2, 3, 0.9, 0.3
CREDITS = (0.0, 0.25, 0.5, 0.75, 1.0)


class All(NamedTuple):
    """Every trajectory from state 0: 2^5 of them.

    observations: (32, H, S), one-hot. actions, rewards: (32, H). fixed: (32,), what the environment's chances multiply
    to.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    fixed: Tensor


class ExactMDP:
    """Its chances and rewards are drawn once by a seed."""

    def __init__(self, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.chances = torch.rand(STATES, ACTIONS, STATES, generator=draw, dtype=torch.float64)
        self.chances = self.chances / self.chances.sum(-1, keepdim=True)
        self.rewards = torch.randn(STATES, ACTIONS, generator=draw, dtype=torch.float64)
        self.start = torch.randn(ACTIONS, STATES, generator=draw, dtype=torch.float64)

    def policy(self) -> CategoricalPolicy:
        """Softmax of a logit for each state and action."""
        body = nn.Linear(STATES, ACTIONS, bias=False)
        body.weight = nn.Parameter(self.start.clone())
        return CategoricalPolicy(STATES, ACTIONS, body=body)

    def log_pi(self, weight: Tensor) -> Tensor:
        """log pi(a|s) (..., S, A)."""
        return weight.mT.log_softmax(-1)

    def expected(self, weight: Tensor) -> Tensor:
        """J, by going backwards through the steps; of stacked weights (..., A, S) one each."""
        return self.values(weight)[0][..., 0]

    def values(self, weight: Tensor) -> list[Tensor]:
        """V_t(s) (..., S) of each step t."""
        pi = self.log_pi(weight).exp()
        found = [torch.zeros(STATES, dtype=torch.float64)]
        for _ in range(HORIZON):
            worth = self.rewards + DISCOUNT * torch.einsum("sat,...t->...sa", self.chances, found[-1])
            found.append((pi * worth).sum(-1))
        return found[:0:-1]

    def everything(self) -> All:
        """The trajectories."""
        seen, acted, fixed = [], [], []
        for actions in itertools.product(range(ACTIONS), repeat=HORIZON):
            for later in itertools.product(range(STATES), repeat=HORIZON - 1):
                path = (0, *later)
                chance = torch.ones((), dtype=torch.float64)
                for t in range(HORIZON - 1):
                    chance = chance * self.chances[path[t], actions[t], path[t + 1]]
                seen.append(torch.tensor(path))
                acted.append(torch.tensor(actions))
                fixed.append(chance)
        states, taken = torch.stack(seen), torch.stack(acted)
        return All(
            nn.functional.one_hot(states, STATES).double(), taken, self.rewards[states, taken], torch.stack(fixed)
        )

    def log_probs(self, weight: Tensor, of: All) -> Tensor:
        """log pi(a_t|s_t) (..., 32, H)."""
        return self.log_pi(weight)[..., of.observations.argmax(-1), of.actions]

    def chance(self, weight: Tensor, of: All) -> Tensor:
        """p(tau) (..., 32), as a function of the weights."""
        return of.fixed * self.log_probs(weight, of).sum(-1).exp()

    def recorded(self, weight: Tensor, baseline: Callable[[Tensor], list[Tensor]] | None = None) -> Batch:
        """All trajectories as if acted under these weights, as one task (1, 32, ...), with returns less a baseline."""
        of = self.everything()
        gained = sums_to_come(of.rewards, DISCOUNT)
        if baseline is not None:
            values = torch.stack(baseline(weight)).detach()
            gained = gained - values[torch.arange(HORIZON), of.observations.argmax(-1)]
        targets = {
            "actions": of.actions,
            "log_probs": self.log_probs(weight, of).detach(),
            "advantages": gained,
            "mask": torch.ones_like(gained),
            "gains": torch.zeros(len(gained), dtype=torch.float64),
        }
        return Batch(of.observations[None], {name: part[None] for name, part in targets.items()})


def parameters_at(policy: nn.Module, weight: Tensor, observations: Tensor) -> Tensor:
    """What the policy gives with another weight."""
    found: Tensor = functional_call(policy, {"body.weight": weight}, (observations,))
    return found


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


class Weighed(ScoreCorrection):
    """With the chance of each task's trajectories as its weight."""

    def __init__(self, chances: Tensor, corrected: bool) -> None:
        super().__init__()
        self._chances, self._corrected = chances, corrected

    def task_weights(self, numbers: Tensor) -> Tensor:
        return len(numbers) * self._chances[numbers]

    def along(self, inner, j, fast, slow, support):  # type: ignore[no-untyped-def]  # as its base
        return super().along(inner, j, fast, slow, support) if self._corrected else torch.zeros(len(support.inputs))


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
    assert abs(chances.sum().item() - 1) < 1e-9

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


def recorded_tasks(mdp: ExactMDP, count: int, trajectories: int = 4) -> Tasks:
    """Tasks of some of the trajectories, drawn once."""
    draw = torch.Generator().manual_seed(5)
    every = mdp.recorded(mdp.start, mdp.values)

    def some() -> Batch:
        rows = torch.randint(32, (count, trajectories), generator=draw)
        return tree_map(lambda part: part[0][rows], every)

    return Tasks((some(),), some(), torch.arange(count))
