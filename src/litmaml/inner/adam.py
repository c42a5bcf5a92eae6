"""Adam and AdamW as inner optimizers, exactly as torch takes their steps and differentiable through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from litmaml.inner.optimizer import InnerOptimizer
from litmaml.inner.rates import Learn, check_rate, learnt_rates, rate
from litmaml.weights import Params


class _Moments(NamedTuple):
    first: Params
    second: Params


@dataclass(frozen=True, repr=False)
class _AdaptiveMoments(InnerOptimizer):
    """What Adam and AdamW share: all but where the weight decay comes in."""

    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    learn: Learn = "none"
    per_step: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a list, where it comes from YAML
        check_rate(self.lr, self.learn, self.per_step)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: have to be two numbers in [0, 1), got {self.betas}")
        if not self.eps > 0:
            raise ValueError(f"eps: has to be above 0, got {self.eps}; a gradient of zero would be divided by it")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay: has to be at least 0, got {self.weight_decay}")

    def learnt(self, fast: Params, steps: int) -> Params:
        return learnt_rates(self.lr, self.learn, self.per_step, fast, steps)

    def start(self, fast: Params) -> _Moments:
        return _Moments(*({name: torch.zeros_like(_real(theta)) for name, theta in fast.items()} for _ in range(2)))

    def _moved(
        self, j: int, fast: Params, gradient: Params, state: _Moments, learnt: Params, decoupled: float
    ) -> tuple[Params, _Moments]:
        """Step ``j`` along the moments, from weights that the share ``decoupled`` of each rate is taken off before."""
        first_beta, second_beta = self.betas
        gradient = {name: _real(g) for name, g in gradient.items()}
        first = {name: torch.lerp(state.first[name], g, 1 - first_beta) for name, g in gradient.items()}
        second = {name: second_beta * state.second[name] + (1 - second_beta) * g * g for name, g in gradient.items()}
        first_share, second_share = 1 - first_beta ** (j + 1), 1 - second_beta ** (j + 1)
        moved: Params = {}
        for name, theta in fast.items():
            step = rate(self.lr, self.learn, self.per_step, learnt, name, j)
            length = _root(second[name]) / second_share**0.5 + self.eps
            kept = _real(theta) * (1 - step * decoupled) if decoupled else _real(theta)
            ahead = kept - step / first_share * (first[name] / length)
            moved[name] = torch.view_as_complex(ahead) if theta.is_complex() else ahead
        return moved, _Moments(first, second)


@final
@dataclass(frozen=True, repr=False)
class Adam(_AdaptiveMoments):
    """Adam (Kingma and Ba 2014, arXiv 1412.6980), with torch's bias correction.

    With rate a_j, betas b1 and b2 and weight decay wd, j counted from 0:

        g <- g + wd theta;   m_{j+1} = b1 m_j + (1 - b1) g;   v_{j+1} = b2 v_j + (1 - b2) g^2
        theta_{j+1} = theta_j - a_j / (1 - b1^{j+1}) m_{j+1} / (sqrt(v_{j+1} / (1 - b2^{j+1})) + eps)

    Where v is 0, so is m, and the derivative of sqrt(v), which is infinite there, has no part in the step's.

    Args:
        lr: The inner rate alpha, or where learnt rates start.
        betas: b1 and b2, each in [0, 1).
        eps: Above 0.
        weight_decay: wd, at least 0, a part of the gradient.
        learn: Which rates the outer loop trains: none, one for all, one per tensor, or one per parameter.
        per_step: Learn separate rates for each inner step; steps beyond those trained use the last.

    Raises:
        ValueError: A hyperparameter is out of its range.

    Example:
        The first step is as long as the rate, whatever the gradient:

        >>> import torch
        >>> theta, gradient = {"w": torch.ones(1, 1).double()}, {"w": torch.full((1, 1), 7.0).double()}
        >>> optimizer = Adam(lr=0.1)
        >>> moved, _ = optimizer.step(0, theta, gradient, optimizer.start(theta), {})
        >>> round(moved["w"].item(), 6)
        0.9
    """

    def step(self, j: int, fast: Params, gradient: Params, state: _Moments, learnt: Params) -> tuple[Params, _Moments]:
        if self.weight_decay:
            gradient = {name: g + self.weight_decay * fast[name] for name, g in gradient.items()}
        return self._moved(j, fast, gradient, state, learnt, decoupled=0.0)


@final
@dataclass(frozen=True, repr=False)
class AdamW(_AdaptiveMoments):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017, arXiv 1711.05101).

    As ``Adam``, but the decay wd is not in the gradient: theta <- (1 - a_j wd) theta before each step.

    Args:
        lr: The inner rate alpha, or where learnt rates start.
        betas: b1 and b2, each in [0, 1).
        eps: Above 0.
        weight_decay: wd, at least 0.
        learn: Which rates the outer loop trains: none, one for all, one per tensor, or one per parameter.
        per_step: Learn separate rates for each inner step; steps beyond those trained use the last.

    Raises:
        ValueError: A hyperparameter is out of its range.

    Example:
        Without a gradient only the decay is left, 1 - 0.1 * 0.5:

        >>> import torch
        >>> theta, gradient = {"w": torch.ones(1, 1).double()}, {"w": torch.zeros(1, 1).double()}
        >>> optimizer = AdamW(lr=0.1, weight_decay=0.5)
        >>> moved, _ = optimizer.step(0, theta, gradient, optimizer.start(theta), {})
        >>> moved["w"].item()
        0.95
    """

    weight_decay: float = 0.01

    def step(self, j: int, fast: Params, gradient: Params, state: _Moments, learnt: Params) -> tuple[Params, _Moments]:
        return self._moved(j, fast, gradient, state, learnt, decoupled=self.weight_decay)


def _real(tensor: Tensor) -> Tensor:
    """A complex tensor as its real and imaginary parts, which count as two weights, as in torch."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _root(second: Tensor) -> Tensor:
    """sqrt(v), with the derivative 0 where v is 0."""
    positive = second > 0
    return torch.where(positive, torch.where(positive, second, 1.0).sqrt(), 0.0)
