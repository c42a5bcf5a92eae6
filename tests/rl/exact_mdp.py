"""A Markov decision process of two states, two actions and three steps, all trajectories of which are enumerated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from litmaml.rl import CategoricalPolicy
from litmaml.rl.advantages import sums_to_come
from litmaml.tasks import Batch

STATES, ACTIONS, HORIZON, DISCOUNT = 2, 2, 3, 0.9


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
