"""Outer losses of the field: the mean over tasks, the loss after every step, and that of the worst tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from litmaml.outer.loss import OuterLoss


@final
class MeanLoss(OuterLoss):
    """The mean over tasks of the loss after the last inner step, as in MAML.

    Args:
        loss: (predictions, targets) -> scalar, of the query; by default the loss of the inner loop.

    Example:
        >>> MeanLoss().step_weights(steps=5, epoch=0) is None, MeanLoss(nn.L1Loss()).loss
        (True, L1Loss())
    """


@final
class MultiStepLoss(OuterLoss):
    """The multi-step loss of MAML++ (Antoniou et al. 2019, arXiv 1810.09502): in epoch e of E, N inner steps and the
    floor phi,

        F = sum_{j=1..N} w_j l(theta_j; T),   w_j = max(1/N - e/(N E), phi/N) for j < N,   w_N = 1 - the others

    From epoch E on only the last step counts. It steadies the first epochs of long paths, and costs a query pass for
    each step.

    Args:
        epochs: E.
        floor: phi, in [0, 1]: what earlier steps keep until then.
        loss: (predictions, targets) -> scalar, of the query; by default the loss of the inner loop.

    Raises:
        ValueError: epochs or floor is out of its range.

    Example:
        >>> weights = MultiStepLoss(epochs=10)
        >>> [weights.step_weights(steps=2, epoch=e) for e in (0, 5)], weights.step_weights(steps=2, epoch=10) is None
        ([[0.0, 0.5, 0.5], [0.0, 0.25, 0.75]], True)
    """

    def __init__(self, epochs: int = 10, floor: float = 0.03, loss: nn.Module | None = None) -> None:
        super().__init__(loss)
        if epochs < 1:
            raise ValueError(f"epochs: has to be at least 1, got {epochs}")
        if not 0 <= floor <= 1:
            raise ValueError(f"floor: has to be in [0, 1], got {floor}")
        self.epochs, self.floor = epochs, floor

    def step_weights(self, steps: int, epoch: int) -> Sequence[float] | None:
        if epoch >= self.epochs:
            return None
        earlier = max(1 / steps - epoch / (steps * self.epochs), self.floor / steps)
        return [0.0, *[earlier] * (steps - 1), 1 - (steps - 1) * earlier]


@final
class WorstCaseLoss(OuterLoss):
    """TR-MAML (Collins, Mokhtari and Shakkottai 2020, arXiv 2002.04766): of n tasks,

        min_w max_p sum_i p_i F_i(w),   p a distribution over the tasks

    by descent in w and ascent in p. An outer step on B tasks of losses F_i at the weights before it takes

        w <- w - beta (n/B) sum_i p_i G_i,   p <- the nearest distribution to p + eta (n/B) sum_i F_i e_i

    with e_i the i-th unit vector. At the end the tasks that count have one loss, and no other has a larger one. p is a
    buffer: it is in the checkpoint, and of all processes' tasks. Task number i is task i modulo n.

    Args:
        tasks: n; the data has so many tasks (their ``pool``).
        rate: eta, at least 0; at 0 it is the mean.
        loss: (predictions, targets) -> scalar, of the query; by default the loss of the inner loop.

    Raises:
        ValueError: tasks or rate is out of its range.

    Example:
        >>> worst = WorstCaseLoss(tasks=2, rate=0.1)
        >>> worst.update(torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
        >>> [round(weight, 4) for weight in worst.task_weights(torch.tensor([0, 1])).tolist()]
        [0.8, 1.2]
    """

    p: Tensor

    def __init__(self, tasks: int, rate: float, loss: nn.Module | None = None) -> None:
        super().__init__(loss)
        if tasks < 1:
            raise ValueError(f"tasks: has to be at least 1, got {tasks}")
        if not 0 <= rate < math.inf:
            raise ValueError(f"rate: has to be at least 0, got {rate}")
        self.tasks, self.rate = tasks, rate
        self.register_buffer("p", torch.full((tasks,), 1 / tasks))

    def task_weights(self, numbers: Tensor) -> Tensor:
        return self.tasks * self.p[numbers % self.tasks]

    def update(self, numbers: Tensor, losses: Tensor) -> None:
        risen = torch.zeros_like(self.p).index_add(0, numbers % self.tasks, losses.to(self.p))
        self.p.copy_(nearest_distribution(self.p + self.rate * self.tasks / len(numbers) * risen))


def nearest_distribution(values: Tensor) -> Tensor:
    """The point (n,) with entries of at least 0 that sum to 1 which is nearest to the values (n,).

    Example:
        >>> nearest_distribution(torch.tensor([1.0, 0.5, -2.0])).tolist()
        [0.75, 0.25, 0.0]
    """
    falling = values.sort(descending=True).values
    excess = (falling.cumsum(0) - 1) / torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    last = (falling > excess).nonzero()[-1]
    return (values - excess[last]).clamp(min=0)
