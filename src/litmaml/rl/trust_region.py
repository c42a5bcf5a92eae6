"""Outer optimizers of reinforcement learning: a step within a trust region, and several steps on one batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from litmaml.rl.adapted_policies import AdaptedPolicies, Product

Closure = Callable[[], Any]


class TrustRegion(torch.optim.Optimizer):
    """TRPO (Schulman et al. 2015, arXiv 1502.05477) as the outer optimizer, as Finn et al. (2017) have it.

    The direction is x = (F + damping I)^-1 g by conjugate gradients, with g the meta-gradient and F the mean Fisher
    matrix of the adapted policies; see ``AdaptedPolicies``. The step is -sqrt(2 radius / x.Fx) x, shortened until the
    outer loss falls and the adapted policies move by no more than the radius: KL(pi_acted || pi) on their own steps. If
    it never does, no step is taken. For one set of weights, without learnt inner rates.

    Args:
        params: The weights.
        radius: Of the mean KL divergence.
        iterations: Of conjugate gradients.
        damping: Is added to the diagonal of F, most of whose eigenvalues are next to nothing. With as little as 1e-5
            rounding decides: after ten iterations in float64 a change of 1e-15 in g was one of 3% in x.
        backtrack: The factor of each shortening.
        tries: The lengths that are tried.

    Raises:
        ValueError: An argument is out of its range.

    Attributes:
        last: What the last step came to: its ``kl``, and the ``tries`` that it took, 0 where none was found.
    """

    def __init__(
        self,
        params: Iterable[Any],
        radius: float = 0.01,
        iterations: int = 10,
        damping: float = 1e-2,
        backtrack: float = 0.8,
        tries: int = 15,
    ) -> None:
        for name, value in (("radius", radius), ("damping", damping)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: has to be a positive number, got {value}")
        for name, count in (("iterations", iterations), ("tries", tries)):
            if count < 1:
                raise ValueError(f"{name}: has to be at least 1, got {count}")
        if not 0 < backtrack < 1:
            raise ValueError(f"backtrack: has to be between 0 and 1, got {backtrack}")
        super().__init__(params, {})
        if len(self.param_groups) > 1:
            raise ValueError(
                f"optimizer: TrustRegion takes one group of weights, got {len(self.param_groups)}; leave out rates_lr"
            )
        self.radius, self.iterations, self.damping = radius, iterations, damping
        self.backtrack, self.tries = backtrack, tries
        self.policies: AdaptedPolicies | None = None
        self.last = {"kl": 0.0, "tries": 0.0}

    def step(self, closure: Closure | None = None) -> Any:
        """Take a step by the gradients that the closure computes.

        Raises:
            RuntimeError: Nothing has given it the policies, as ``Rollouts`` in a learner does.
        """
        if closure is None:
            raise RuntimeError("TrustRegion: computes gradients itself, and needs a closure; give step one")
        with torch.enable_grad():
            loss = closure()
        weights = self.param_groups[0]["params"]
        slope = [torch.zeros_like(w) if w.grad is None else w.grad.detach() for w in weights]
        if not any(part.any() for part in slope):
            self.last = {"kl": 0.0, "tries": 0.0}
            return loss
        if self.policies is None:
            raise RuntimeError(
                "TrustRegion: has to know the adapted policies; use it as the optimizer of a MetaLearner whose "
                "experience is litmaml.rl.Rollouts"
            )
        product = self.policies.curvature(weights)
        direction = conjugate_gradients(self._damped(product), slope, self.iterations)
        length = _dot(direction, product(direction))
        self.last = {"kl": 0.0, "tries": 0.0}
        if not 0 < length < math.inf:
            return loss
        before, old = self.policies.measure()[0], [weight.detach().clone() for weight in weights]
        scale = math.sqrt(2 * self.radius / length)
        for attempt in range(self.tries):
            self._put(weights, old, direction, -scale * self.backtrack**attempt)
            now, moved = self.policies.measure()
            if now < before and moved <= self.radius:
                self.last = {"kl": moved, "tries": attempt + 1.0}
                return loss
        self._put(weights, old, direction, 0.0)
        return loss

    def _damped(self, product: Product) -> Product:
        return lambda v: [part + self.damping * own for part, own in zip(product(v), v, strict=True)]

    @staticmethod
    @torch.no_grad()
    def _put(weights: Sequence[Tensor], old: Sequence[Tensor], direction: Sequence[Tensor], length: float) -> None:
        for weight, start, way in zip(weights, old, direction, strict=True):
            weight.copy_(start + length * way)


class RepeatedAdam(torch.optim.Adam):
    """Adam that takes several steps on each batch of trajectories, as ProMP does; see ``litmaml.rl.ProMP``.

    Args:
        params: The weights.
        lr: Of each step.
        times: The steps.

    Raises:
        ValueError: times is below 1.
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, times: int = 5) -> None:
        if times < 1:
            raise ValueError(f"times: has to be at least 1, got {times}")
        super().__init__(params, lr=lr)
        self.times = times

    def step(self, closure: Closure | None = None) -> Any:
        """Compute the gradients anew by the closure, and take a step by them, so many times.

        Raises:
            RuntimeError: There is no closure.
        """
        if closure is None:
            raise RuntimeError("RepeatedAdam: computes gradients itself, and needs a closure; give step one")
        losses = [super(RepeatedAdam, self).step(closure) for _ in range(self.times)]
        return losses[0]


def conjugate_gradients(product: Product, right: Sequence[Tensor], iterations: int) -> list[Tensor]:
    """x of A x = b, for a positive A, after so many iterations from zero.

    Example:
        >>> twice = lambda vector: [2 * part for part in vector]
        >>> conjugate_gradients(twice, [torch.tensor([2.0, 4.0])], 2)
        [tensor([1., 2.])]
    """
    found = [torch.zeros_like(part) for part in right]
    left, way = [part.clone() for part in right], [part.clone() for part in right]
    size = first = _dot(left, left)
    for _ in range(iterations):
        if size <= 1e-20 * first:
            break
        curved = product(way)
        length = size / _dot(way, curved)
        torch._foreach_add_(found, way, alpha=length)
        torch._foreach_sub_(left, curved, alpha=length)
        size, before = _dot(left, left), size
        way = [part + size / before * old for part, old in zip(left, way, strict=True)]
    return found


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    return float(sum((a * b).sum() for a, b in zip(first, second, strict=True)))
