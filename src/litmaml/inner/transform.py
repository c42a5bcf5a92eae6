"""Inner optimizers that hand another one a transformed gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from litmaml.inner.optimizer import InnerOptimizer
from litmaml.weights import Params


@dataclass(frozen=True, repr=False)
class Transform(InnerOptimizer, ABC):
    """An inner optimizer around another one, U, that gets the gradient transformed:

        theta_{j+1}, s_{j+1} = U_j(theta_j, t(g_j; theta_j, theta_0), s_j)

    The state is theta_0 beside that of the other one. Wrappers go around each other, as in
    ``Proximal(MetaCurvature(SGD()))``: the outer one transforms first.

    learns: What the names of its own begin with, up to a dot; they have no rows per step.

    Args:
        optimizer: U.

    Example:
        Half of the gradient:

        >>> import torch
        >>> from litmaml.inner import SGD
        >>> class Halved(Transform):
        ...     def transform(self, fast, gradient, first, learnt):
        ...         return {name: g / 2 for name, g in gradient.items()}
        >>> theta, optimizer = {"w": torch.ones(1, 1)}, Halved(SGD(1.0))
        >>> optimizer.step(0, theta, theta, optimizer.start(theta), {})[0]["w"].item()
        0.5
    """

    learns: ClassVar[tuple[str, ...]] = ()

    optimizer: InnerOptimizer

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, InnerOptimizer):
            raise ValueError(
                f"optimizer: {type(self).__name__} is around another inner optimizer, got {self.optimizer!r}; give it "
                "one, such as SGD()"
            )
        within: InnerOptimizer = self
        while isinstance(within, Transform):
            within = within.optimizer
            if type(within) is type(self):
                name = type(self).__name__
                raise ValueError(f"optimizer: {name} is around another {name}, and one will do; leave one out")

    @property
    def traceable(self) -> bool:
        return self.optimizer.traceable

    def own(self, fast: Params) -> Params:
        """What it learns beside what the other one does, where training starts; by default nothing."""
        return {}

    def learnt(self, fast: Params, steps: int) -> Params:
        return self.own(fast) | self.optimizer.learnt(fast, steps)

    def has_rows(self, name: str) -> bool:
        return name.partition(".")[0] not in self.learns and self.optimizer.has_rows(name)

    @abstractmethod
    def transform(self, fast: Params, gradient: Params, first: Params, learnt: Params) -> Params:
        """t(g; theta, theta_0), of fast weights, their gradient and those that the path began with."""

    def start(self, fast: Params) -> Any:
        return fast, self.optimizer.start(fast)

    def step(self, j: int, fast: Params, gradient: Params, state: Any, learnt: Params) -> tuple[Params, Any]:
        first, others = state
        changed = self.transform(fast, gradient, first, learnt)
        fast, others = self.optimizer.step(j, fast, changed, others, learnt)
        return fast, (first, others)


def innermost(optimizer: InnerOptimizer) -> InnerOptimizer:
    """The optimizer within all wrappers."""
    while isinstance(optimizer, Transform):
        optimizer = optimizer.optimizer
    return optimizer
