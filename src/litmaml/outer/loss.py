"""The outer loss's question: what of the adapted tasks is minimised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from litmaml.shown import spelled
from litmaml.tasks import Batch
from litmaml.weights import Params


class Outcomes(Protocol):
    """What computes the losses (T,) and predictions of a batch at weights."""

    def outcome(
        self, fast: Params, slow: Params, batch: Batch, loss: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]: ...


class OuterLoss(nn.Module):
    """F(w) = sum_i p_i sum_j w_j l(theta^i_j; T_i), of tasks i and inner steps j: the mean of the last step.

    Other outer losses answer otherwise by the methods below.

    Args:
        loss: (predictions, targets) -> scalar, of the query; by default the loss of the inner loop.

    Raises:
        ValueError: loss is no module.

    Example:
        Every step counts the same in the multi-step loss of MAML++ (Antoniou et al. 2019, arXiv 1810.09502):

        >>> class MultiStep(OuterLoss):
        ...     def step_weights(self, steps, epoch):
        ...         return [1 / (steps + 1)] * (steps + 1)
        >>> MultiStep().step_weights(steps=1, epoch=0)
        [0.5, 0.5]
        >>> OuterLoss().step_weights(steps=1, epoch=0) is None
        True
    """

    def __init__(self, loss: nn.Module | None = None) -> None:
        super().__init__()
        if loss is not None and not isinstance(loss, nn.Module):
            raise ValueError(f"loss: has to be a module, got {loss!r}; give one, such as torch.nn.MSELoss()")
        self.loss = loss

    def __repr__(self) -> str:
        return spelled(self)

    def has_own(self, *methods: str) -> bool:
        """Whether it answers one of the methods below otherwise than this class does."""
        return any(getattr(type(self), method) is not getattr(OuterLoss, method) for method in methods)

    def step_weights(self, steps: int, epoch: int) -> Sequence[float] | None:
        """w_0, ..., w_N in an epoch of the run, of which w_N may not be left out; None for (0, ..., 0, 1)."""
        return None

    def task_weights(self, numbers: Tensor) -> Tensor | None:
        """n p_i of the tasks with these numbers (T,), 1 on the average; None for all alike."""
        return None

    def along(self, inner: Outcomes, j: int, fast: Params, slow: Params, support: Batch) -> Tensor | None:
        """One more term (T,) at theta_j, differentiated like the rest; None for none. ``inner`` computes outcomes."""
        return None

    def update(self, numbers: Tensor, losses: Tensor) -> None:
        """Look at the losses (T,) of an outer step's finite tasks, of all processes, at the weights before the step."""


def task_weights(outer_loss: OuterLoss, numbers: Tensor) -> Tensor | None:
    """What the tasks with these numbers (T,) count in an outer loss; None for all alike.

    Raises:
        ValueError: It gives something else than a weight for each.
    """
    weights = outer_loss.task_weights(numbers)
    if weights is not None and getattr(weights, "shape", None) != numbers.shape:
        # By (T, 1) each task would get every task's weight.
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ValueError(
            f"outer_loss.task_weights: has to give a tensor with a weight per task, ({len(numbers)},), got "
            f"{got}; give it the shape of the numbers"
        )
    return weights
