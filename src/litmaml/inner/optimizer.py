"""The inner optimizer's question: how a task's weights move along their gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from litmaml.shown import spelled
from litmaml.weights import Params


class InnerOptimizer(ABC):
    """The differentiable map U_j of one inner step,

        theta_{j+1}, s_{j+1} = U_j(theta_j, g_j, s_j; phi)

    with fast weights theta, gradient g, state s (momentum, moments) and phi, what the outer loop learns. U_j acts task
    by task, so T tasks stacked along a leading dimension are updated at once. An optimizer holds hyperparameters only;
    phi belongs to the inner loop that it is given to, so that two can share one optimizer.

    traceable: Whether its steps are nothing but tensor operations, so that the whole meta-gradient can be compiled.
    per_step: Whether what is learnt has one row per inner step.

    Example:
        Steps by the gradient's sign:

        >>> import torch
        >>> class Signs(InnerOptimizer):
        ...     def start(self, fast):
        ...         return None
        ...     def step(self, j, fast, gradient, state, learnt):
        ...         return {name: weight - gradient[name].sign() for name, weight in fast.items()}, None
        >>> moved, _ = Signs().step(0, {"w": torch.ones(1, 1)}, {"w": torch.full((1, 1), 7.0)}, None, {})
        >>> moved["w"].item()
        0.0
    """

    per_step: bool = False

    def __repr__(self) -> str:
        return spelled(self)

    @property
    def traceable(self) -> bool:
        return True

    def has_rows(self, name: str) -> bool:
        """Whether what is learnt by this name has one row per inner step."""
        return self.per_step

    def learnt(self, fast: Params, steps: int) -> Params:
        """phi where training starts, by names of its own; by default nothing.

        Args:
            fast: The fast weights by name, not stacked.
            steps: N, the number of inner steps in training.
        """
        return {}

    @abstractmethod
    def start(self, fast: Params) -> Any:
        """The state s_0 for stacked fast weights."""

    @abstractmethod
    def step(self, j: int, fast: Params, gradient: Params, state: Any, learnt: Params) -> tuple[Params, Any]:
        """Take inner step ``j`` (from 0) and return theta_{j+1} and s_{j+1}; ``learnt`` is phi."""
