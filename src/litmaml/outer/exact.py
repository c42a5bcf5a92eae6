"""The outer gradient exactly, and without its curvature."""

from __future__ import annotations

from typing import final

from litmaml.inner.gradient_rule import Losses, plain
from litmaml.outer.gradient import PathGradient, Point
from litmaml.tasks import StepTasks
from litmaml.weights import Params, Weights, differentiate, gradient_of, split, zeros


@final
class SecondOrder(PathGradient):
    """MAML: Hop(theta, D, v) = H(theta; D) v, exact (Finn et al. 2017, arXiv 1703.03400).

    Args:
        recompute: Keep the fast weights of each inner step instead of its graph and differentiate the step anew in
            the backward pass: memory hardly grows with the number of inner steps, for about a third more time.

    Example:
        Of l(theta) = 3 theta^2 the Hessian is 6:

        >>> import torch
        >>> theta = {"w": torch.ones(1, 1).requires_grad_()}
        >>> at = Point(lambda fast, slow, batch, twice: 3 * fast["w"].square().sum(1), theta, {}, None)
        >>> SecondOrder().hop(at, {"w": torch.ones(1, 1)}).fast["w"].item()
        6.0
    """

    def __init__(self, recompute: bool = False) -> None:
        self.recompute = recompute

    @property
    def twice(self) -> bool:
        return True

    @property
    def unrolls(self) -> bool:
        return not self.recompute

    @property
    def repeats(self) -> bool:
        return self.recompute

    def takes_features(self, trained: bool, batches: int) -> bool:
        # Memory is not to grow with the number of steps.
        return not (self.recompute and trained and batches > 1)

    def gradient(self, losses: Losses, fast: Params, slow: Params, step: StepTasks) -> Params:
        if self.recompute or step.hessian is not None:
            return super().gradient(losses, fast, slow, step)
        return gradient_of(losses(fast, slow, step.support, twice=True).sum(), fast, create_graph=True)

    def hop(self, at: Point, vector: Params) -> Weights:
        slow = {name: weight.detach().requires_grad_() for name, weight in at.slow.items()}
        inner = gradient_of(at.losses(at.fast, slow, at.batch, twice=True).sum(), at.fast, create_graph=True)
        curved = [name for name, g in inner.items() if g.requires_grad]  # none where the loss is linear
        if not curved:
            return Weights(zeros(at.fast), zeros(slow))
        product = differentiate(
            [inner[name] for name in curved], [*at.fast.values(), *slow.values()], [vector[name] for name in curved]
        )
        return split(product, at.fast, slow)


@final
class FirstOrder(PathGradient):
    """FO-MAML: Hop = 0 (Finn et al. 2017, arXiv 1703.03400; Fallah et al. 2020, arXiv 1908.10400).

    The cheapest; it ends at a distance from the optimum that grows with the inner rate and with how much the tasks'
    Hessians differ.

    Example:
        >>> import torch
        >>> theta = {"w": torch.ones(1, 1).requires_grad_()}
        >>> at = Point(lambda fast, slow, batch, twice: 3 * fast["w"].square().sum(1), theta, {}, None)
        >>> FirstOrder().hop(at, {"w": torch.ones(1, 1)}).fast["w"].item()
        0.0
    """

    through_support = False

    @property
    def repeats(self) -> bool:
        return False

    def takes_features(self, trained: bool, batches: int) -> bool:
        return True

    def gradient(self, losses: Losses, fast: Params, slow: Params, step: StepTasks) -> Params:
        return plain(losses, fast, slow, step)

    def hop(self, at: Point, vector: Params) -> Weights:
        return Weights(zeros(at.fast), zeros(at.slow))
