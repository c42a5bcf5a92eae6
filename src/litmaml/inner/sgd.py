"""Gradient descent as the inner optimizer, with rates that can be learnt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from litmaml.inner.optimizer import InnerOptimizer
from litmaml.inner.rates import Learn, check_rate, learnt_rates, rate
from litmaml.weights import Params


@final
@dataclass(frozen=True, repr=False)
class SGD(InnerOptimizer):
    """Gradient descent with fixed or learnt rates, momentum and weight decay.

    With rate a_j, momentum mu and weight decay wd, as in ``torch.optim.SGD``:

        g <- g + wd theta;   m_{j+1} = mu m_j + g (m_1 = g);   d = g + mu m_{j+1} if nesterov else m_{j+1}
        theta_{j+1} = theta_j - a_j d

    Learnt rates: one per parameter is Meta-SGD (Li et al. 2017, arXiv 1707.09835); one per tensor and step is LSLR of
    MAML++ (Antoniou et al. 2019, arXiv 1810.09502).

    Args:
        lr: The inner rate alpha, or where learnt rates start.
        momentum: mu, in [0, 1).
        nesterov: Look ahead along the momentum.
        weight_decay: wd, at least 0.
        learn: Which rates the outer loop trains: none, one for all, one per tensor, or one per parameter.
        per_step: Learn separate rates for each inner step; steps beyond those trained use the last.
        later_lr: The rate from the second step on, where it is another than the first's and neither is learnt, as in
            the reinforcement learning of Finn et al. 2017, which halves it.

    Raises:
        ValueError: A hyperparameter is out of its range.

    Example:
        One step on l(theta) = theta^2 / 2 from theta = 1 with rate 0.1:

        >>> import torch
        >>> theta = {"w": torch.ones(1, 1)}
        >>> moved, _ = SGD(lr=0.1).step(0, theta, theta, None, {})
        >>> moved["w"].item()
        0.8999999761581421
    """

    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    learn: Learn = "none"
    per_step: bool = False
    later_lr: float | None = None

    def __post_init__(self) -> None:
        check_rate(self.lr, self.learn, self.per_step)
        if self.later_lr is not None:
            if self.learn != "none":
                raise ValueError(f"later_lr: is fixed, got learn {self.learn!r} beside it; set per_step instead")
            if not 0 < self.later_lr < math.inf:
                raise ValueError(f"later_lr: has to be a positive number, got {self.later_lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: has to be in [0, 1), got {self.momentum}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: needs a momentum above 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay: has to be at least 0, got {self.weight_decay}")

    def learnt(self, fast: Params, steps: int) -> Params:
        return learnt_rates(self.lr, self.learn, self.per_step, fast, steps)

    def start(self, fast: Params) -> Params | None:
        return None

    def step(
        self, j: int, fast: Params, gradient: Params, state: Params | None, learnt: Params
    ) -> tuple[Params, Params | None]:
        if self.weight_decay:
            gradient = {name: g + self.weight_decay * fast[name] for name, g in gradient.items()}
        direction = gradient
        if self.momentum:
            state = (
                gradient if state is None else {name: self.momentum * state[name] + g for name, g in gradient.items()}
            )
            direction = state
            if self.nesterov:
                direction = {name: g + self.momentum * state[name] for name, g in gradient.items()}
        lr = self.lr if j == 0 or self.later_lr is None else self.later_lr
        return {
            name: _descended(theta, direction[name], rate(lr, self.learn, self.per_step, learnt, name, j))
            for name, theta in fast.items()
        }, state


def _descended(theta: Tensor, direction: Tensor, step: float | Tensor) -> Tensor:
    if isinstance(step, Tensor):
        return theta - step * direction
    return torch.add(theta, direction, alpha=-step)  # one operation for two, and one in its derivative
