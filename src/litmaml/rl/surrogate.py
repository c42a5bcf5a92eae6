"""Losses of a policy on trajectories that were recorded under other weights of it.

Predictions are the policy's parameters (K, H, ...) on K trajectories of at most H steps; targets a dict of what was
recorded: ``actions`` (K, H, a) or (K, H), ``log_probs`` log pi_old(a_t|s_t), ``advantages`` A_t and ``mask``, 1 until a
trajectory has ended (K, H). See ``Rollouts``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from litmaml.rl.distributions import log_prob

Targets = dict[str, Tensor]
Per = Literal["step", "trajectory"]


def _mean(terms: Tensor, targets: Targets, discount: float, per: Per) -> Tensor:
    """The sum over steps of gamma^t times the terms (K, H), as a mean over trajectories or over all their steps."""
    if discount != 1:
        terms = terms * discount ** torch.arange(terms.shape[-1], device=terms.device, dtype=terms.dtype)
    count = targets["mask"].sum() if per == "step" else terms.shape[0]
    return (terms * targets["mask"]).sum() / count


def _check(discount: float, per: str) -> None:
    if not 0 < discount <= 1:
        raise ValueError(f"discount: has to be above 0 and at most 1, got {discount}")
    if per not in ("step", "trajectory"):
        raise ValueError(f"per: got {per!r}; one of step, trajectory")


class PolicySurrogate(nn.Module):
    """A loss whose gradient at the weights that acted is the policy gradient, and what its derivatives beyond are.

    With rho_t = pi_theta(a_t|s_t) / pi_old(a_t|s_t) and a credit c,

        l = -mean sum_t gamma^t (exp(u_t) - exp(b_t)) A_t,   u_t = c u_{t-1} + log rho_t,   b_t = c u_{t-1}

    c = 1 is DiCE with a baseline (Foerster et al. 2018, arXiv 1802.05098; Farquhar et al. 2019, arXiv 1909.10549):
    derivatives of every order are right, and noisy in long trajectories. c = 0 is the low-variance curvature of ProMP
    (Rothfuss et al. 2019, arXiv 1810.06784): it leaves out what an action does to later policy gradients. Between them
    bias falls and noise rises. Without a credit it is the score, l = -mean sum_t gamma^t log pi_theta(a_t|s_t) A_t,
    which MAML's code differentiates: its second derivative is none of the expected return's.

    Args:
        credit: c from 0 to 1, or None for the score.
        discount: gamma; 1, which most code takes, weighs late steps like early ones.
        per: Whether the mean is over all steps, or over trajectories, of which it is the sum.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        Where the weights are those that acted, its value is zero and its gradient that of -log pi A:

        >>> logits = torch.zeros(1, 1, 2, requires_grad=True)
        >>> recorded = {"actions": torch.zeros(1, 1).long(), "advantages": torch.ones(1, 1), "mask": torch.ones(1, 1)}
        >>> recorded["log_probs"] = torch.tensor([[0.5]]).log()
        >>> loss = PolicySurrogate()(logits, recorded)
        >>> loss.item(), torch.autograd.grad(loss, logits)[0].flatten().tolist()
        (-0.0, [-0.5, 0.5])
    """

    def __init__(self, credit: float | None = 0.0, discount: float = 1.0, per: Per = "step") -> None:
        super().__init__()
        if credit is not None and not 0 <= credit <= 1:
            raise ValueError(f"credit: has to be from 0 to 1, or null for the score, got {credit}")
        _check(discount, per)
        self.credit, self.discount, self.per = credit, discount, per

    def forward(self, parameters: Tensor, targets: Targets) -> Tensor:
        logs, advantages = log_prob(parameters, targets["actions"]), targets["advantages"]
        if self.credit is None:
            return -_mean(logs * advantages, targets, self.discount, self.per)
        # Ended trajectories have no ratio, lest what is never seen grows without bound.
        ratios = (logs - targets["log_probs"]) * targets["mask"]
        if self.credit == 0:
            return -_mean((ratios.exp() - 1) * advantages, targets, self.discount, self.per)
        steps = torch.arange(ratios.shape[-1], device=ratios.device)
        apart = (steps.unsqueeze(0) - steps.unsqueeze(1)).to(ratios.dtype)  # t - s
        shares = torch.where(apart >= 0, self.credit ** apart.clamp(min=0), 0.0)
        up_to = ratios @ shares
        return -_mean((up_to.exp() - (up_to - ratios).exp()) * advantages, targets, self.discount, self.per)

    def extra_repr(self) -> str:
        return f"credit={self.credit}, discount={self.discount}, per={self.per!r}"


class ClippedSurrogate(nn.Module):
    """The loss of several steps on the same trajectories: l = -mean sum_t gamma^t min(rho_t A_t, clip(rho_t) A_t), with
    rho_t kept within 1 - clip and 1 + clip (Schulman et al. 2017, arXiv 1707.06347). For the query; see ``ProMP``.

    Args:
        clip: Of the ratio, from its value at the weights that acted.
        discount: See ``PolicySurrogate``.
        per: Likewise.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, clip: float = 0.3, discount: float = 1.0, per: Per = "step") -> None:
        super().__init__()
        if not 0 < clip < 1:
            raise ValueError(f"clip: has to be between 0 and 1, got {clip}")
        _check(discount, per)
        self.clip, self.discount, self.per = clip, discount, per

    def forward(self, parameters: Tensor, targets: Targets) -> Tensor:
        advantages = targets["advantages"]
        ratio = ((log_prob(parameters, targets["actions"]) - targets["log_probs"]) * targets["mask"]).exp()
        kept = torch.minimum(ratio * advantages, ratio.clamp(1 - self.clip, 1 + self.clip) * advantages)
        return -_mean(kept, targets, self.discount, self.per)

    def extra_repr(self) -> str:
        return f"clip={self.clip}, discount={self.discount}, per={self.per!r}"
