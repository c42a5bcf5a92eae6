"""The distribution of actions that a policy's outputs describe: Gaussian for real actions, categorical for indices.

Real actions (..., a) come with parameters (..., 2 a), the means mu and then the logarithms of the standard deviations
sigma; indices (...) with logits (..., choices). Which of the two it is, the type of the actions says.
"""

from __future__ import annotations

import math

from torch import Tensor

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def log_prob(parameters: Tensor, actions: Tensor) -> Tensor:
    """log pi(a) (...): sum_k -(a_k - mu_k)^2 / (2 sigma_k^2) - log sigma_k - log(2 pi) / 2, or log softmax(logits)_a.

    Example:
        >>> log_prob(torch.tensor([0.0, 0.0]), torch.tensor([0.0])).item() == -_HALF_LOG_TWO_PI
        True
    """
    if not actions.is_floating_point():
        return parameters.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    mean, log_std = parameters.chunk(2, -1)
    return (-0.5 * ((actions - mean) / log_std.exp()).square() - log_std - _HALF_LOG_TWO_PI).sum(-1)


def act(parameters: Tensor, noise: Tensor) -> Tensor:
    """The action that noise makes: mu + sigma * noise for normal numbers (..., a), or, for a uniform one (...), the
    first index up to which the probabilities sum to more.

    Example:
        >>> act(torch.tensor([1.0, 0.0]), torch.tensor([2.0]))
        tensor([3.])
        >>> act(torch.zeros(2), torch.tensor(0.7))
        tensor(1)
    """
    if noise.dim() == parameters.dim():
        mean, log_std = parameters.chunk(2, -1)
        return mean + log_std.exp() * noise
    below = parameters.softmax(-1).cumsum(-1)[..., :-1]  # the last sum is one, whatever rounding makes of it
    return (below <= noise.unsqueeze(-1)).sum(-1)


def divergence(old: Tensor, new: Tensor, discrete: bool) -> Tensor:
    """KL(old || new) (...) of two distributions by their parameters."""
    if discrete:
        before, after = old.log_softmax(-1), new.log_softmax(-1)
        return (before.exp() * (before - after)).sum(-1)
    (mean, log_std), (other, other_log_std) = old.chunk(2, -1), new.chunk(2, -1)
    spread = ((2 * log_std).exp() + (mean - other).square()) / (2 * other_log_std).exp()
    return (other_log_std - log_std + 0.5 * (spread - 1)).sum(-1)


def entropy(parameters: Tensor, discrete: bool) -> Tensor:
    """- E log pi(a) (...), in nats."""
    if discrete:
        logs = parameters.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)
    return (parameters.chunk(2, -1)[1] + _HALF_LOG_TWO_PI + 0.5).sum(-1)
