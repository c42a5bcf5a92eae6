"""Inner steps that are held near the weights that they start from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from torch import Tensor

from litmaml.inner.transform import Transform
from litmaml.weights import Params


@final
@dataclass(frozen=True, repr=False)
class Proximal(Transform):
    """Adds the gradient of (lambda/2) |theta - theta_0|^2:

        g_j <- g_j + lambda (theta_j - theta_0)

    With enough steps they end at theta* = argmin l(theta; S) + (lambda/2) |theta - theta_0|^2, which is the inner
    problem of iMAML (Rajeswaran et al. 2019, arXiv 1909.04630), Meta-MinibatchProx (Zhou et al. 2019) and biased
    regularisation (Denevi et al. 2019). Gradient steps of rate alpha converge for alpha < 2 / (L + lambda).

    Args:
        optimizer: Gets this gradient.
        strength: lambda, at least 0; or where a learnt one starts, above 0.
        learn: Whether the outer loop trains lambda.

    Raises:
        ValueError: strength is out of its range.

    Example:
        Of l(theta) = theta, whose gradient is 1, the minimiser is theta_0 - 1/lambda:

        >>> import torch
        >>> from litmaml.inner import SGD
        >>> optimizer, one = Proximal(SGD(0.25), strength=2.0), {"w": torch.ones(1, 1)}
        >>> theta, state = {"w": torch.zeros(1, 1)}, optimizer.start({"w": torch.zeros(1, 1)})
        >>> for j in range(30):
        ...     theta, state = optimizer.step(j, theta, one, state, {})
        >>> round(theta["w"].item(), 6)
        -0.5
    """

    learns = ("strength",)

    strength: float = 1.0
    learn: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength: has to be at least 0, got {self.strength}")
        if self.learn and self.strength == 0:
            raise ValueError("strength: a learnt one has to start above 0, got 0; set learn to false")

    def own(self, fast: Params) -> Params:
        if not self.learn:
            return {}
        anyone = next(iter(fast.values()))
        return {"strength": (anyone.real if anyone.is_complex() else anyone).new_tensor(self.strength)}

    def lambda_of(self, learnt: Params) -> float | Tensor:
        """lambda, from all that is learnt."""
        return learnt["strength"] if self.learn else self.strength

    def transform(self, fast: Params, gradient: Params, first: Params, learnt: Params) -> Params:
        strength = self.lambda_of(learnt)
        return {name: g + strength * (fast[name] - first[name]) for name, g in gradient.items()}
