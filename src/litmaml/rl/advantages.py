"""How much better than expected each action was."""

from __future__ import annotations

import torch
from torch import Tensor


def sums_to_come(values: Tensor, discount: float) -> Tensor:
    """sum_{s >= t} discount^(s - t) x_s along the last dimension.

    Example:
        >>> sums_to_come(torch.ones(3), 0.5)
        tensor([1.7500, 1.5000, 1.0000])
    """
    found, total = [], torch.zeros_like(values[..., 0])
    for value in reversed(values.unbind(-1)):
        total = value + discount * total
        found.append(total)
    return torch.stack(found[::-1], dim=-1)


class LinearBaseline:
    """The value of a state, by least squares of the returns on s, s^2, t, t^2, t^3 and 1 (Duan et al. 2016, arXiv
    1604.06778), for each task by its own trajectories. t counts in hundreds of steps. In a task of no more steps than
    there are features it is the mean, since a fit would leave of the returns what rounding does.

    Args:
        ridge: What is added to the diagonal, so that there is one answer; for single steps in proportion to them.
    """

    def __init__(self, ridge: float = 1e-5) -> None:
        self.ridge = ridge

    def __call__(self, observations: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
        """The values (T, K, H) for observations (T, K, H, o) and what was got from there on (T, K, H)."""
        seen = observations.double().clamp(-10, 10)  # as its authors have it, lest one observation rules the fit
        time = (torch.arange(returns.shape[-1], device=returns.device) / 100.0).double()
        powers = torch.stack([time**k for k in range(4)], dim=-1).expand(*returns.shape, 4)
        features = torch.cat([seen, seen.square(), powers], dim=-1) * mask.unsqueeze(-1)
        too_few = mask.sum((1, 2)) <= features.shape[-1]
        constant = torch.arange(features.shape[-1], device=mask.device) == 2 * seen.shape[-1]
        features = features * ~(too_few[:, None, None, None] & ~constant)
        flat, wanted = features.flatten(1, 2), (returns * mask).double().flatten(1, 2).unsqueeze(-1)
        squares = flat.mT @ flat
        squares.diagonal(dim1=-2, dim2=-1).add_(self.ridge)
        values: Tensor = (flat @ torch.linalg.solve(squares, flat.mT @ wanted)).squeeze(-1)
        return values.reshape(returns.shape).to(returns.dtype)


def advantages(
    observations: Tensor, rewards: Tensor, mask: Tensor, discount: float, gae: float, normalise: bool
) -> Tensor:
    """A_t = sum_s (discount gae)^s delta_{t+s}, delta_t = r_t + discount V(s_{t+1}) - V(s_t), with V a
    ``LinearBaseline`` and zero after the end (Schulman et al. 2016, arXiv 1506.02438).

    Args:
        observations: (T, K, H, o). rewards, mask: (T, K, H); rewards are zero where the mask is.
        discount: gamma.
        gae: lambda; 1 for the return minus V.
        normalise: To mean 0 and variance 1 in each task.
    """
    values = LinearBaseline()(observations, sums_to_come(rewards, discount), mask) * mask
    after = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    found = sums_to_come(rewards + discount * after - values, discount * gae)
    if normalise:
        count = mask.sum((1, 2), keepdim=True)
        mean = (found * mask).sum((1, 2), keepdim=True) / count
        spread = ((found - mean).square() * mask).sum((1, 2), keepdim=True) / count
        found = (found - mean) / (spread.sqrt() + 1e-8)
    return found * mask
