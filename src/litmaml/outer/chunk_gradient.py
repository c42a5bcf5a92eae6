"""The gradient of one chunk of tasks, which are adapted together."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from litmaml.engine.switches import without
from litmaml.inner.divergence import diverges
from litmaml.inner.loop import InnerLoop
from litmaml.inner.places import aliases
from litmaml.outer.gradient import OuterGradient
from litmaml.outer.loss import OuterLoss
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params, differentiate

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """Of a chunk: its tasks' losses and predictions, whether all is finite, and the gradient of their mean loss."""

    losses: Tensor
    predictions: Tensor
    finite: Tensor
    gradient: tuple[Tensor, ...]


class ChunkGradient:
    """Adapts the tasks of a chunk and differentiates their mean outer loss.

    Args:
        inner_loop: The model with its inner optimizer.
        outer_gradient: How to differentiate through the steps.
        steps: N, the number of inner steps.
        outer_loss: What is minimised.

    Attributes:
        epoch: Of the run, by which an outer loss may weigh the steps.
    """

    def __init__(self, inner_loop: InnerLoop, outer_gradient: OuterGradient, steps: int, outer_loss: OuterLoss) -> None:
        self.inner_loop, self.outer_gradient = inner_loop, outer_gradient
        self.steps, self.outer_loss, self.epoch = steps, outer_loss, 0
        self._tied = aliases(inner_loop)

    def __call__(self, weights: Params, tasks: Tasks) -> Part:
        """The part at these weights, by the names of the inner loop."""
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        with torch.enable_grad():
            everywhere = leaves | {alias: leaves[name] for alias, name in self._tied.items() if name in leaves}
            losses, predictions = functional_call(self.inner_loop, everywhere, (self._solved, tasks), tie_weights=False)
            mean = (losses if tasks.weights is None else tasks.weights * losses).mean()
            gradient = differentiate([mean], list(leaves.values()))
        losses = losses.detach()
        # The largest of all numbers is finite where every one is; NaN counts as the largest.
        numbers = [values for values in (losses, *gradient) if values.numel()]
        largest = torch.stack([torch.linalg.vector_norm(values, torch.inf) for values in numbers]).amax()
        return Part(losses, predictions.detach(), largest.isfinite(), gradient)

    def alone(self, weights: Params, task: Tasks) -> Part:
        """The part of a single task; not finite where the model raises an error because its numbers are not."""
        try:
            with without("features"):  # what they may be wrong for is not finite
                return self(weights, task)
        except Exception as error:
            if not diverges(self.inner_loop, task, self.steps, error):
                raise
            logger.warning("task %d breaks down: %s", int(task.numbers[0]), error)
        losses = torch.full((1,), torch.nan, device=task.query.device)
        return Part(losses, losses, torch.tensor(False, device=losses.device), ())

    def look(self, tasks: Tasks) -> None:
        """Look for constant parts of the model, where they could be used."""
        # What is overridden gets the batches themselves.
        if not self.outer_loss.has_own("along"):
            self.inner_loop.constant.look(self.inner_loop, tasks)

    def takes_features(self, tasks: Tasks) -> bool:
        """Whether constant parts of the model are computed once."""
        loop, outer_gradient = self.inner_loop, self.outer_gradient
        calls = loop.constant.of(loop.model)
        if calls is None or loop.draws or self.outer_loss.has_own("along"):
            return False
        if outer_gradient.probes and torch.is_autocast_enabled(tasks.query.device.type):
            return False  # probes are not cast
        return outer_gradient.takes_features(calls.trained, len(tasks.adapting))

    def _with_features(self, inner_loop: InnerLoop, slow: Params, tasks: Tasks) -> Tasks:
        def in_place(batches: tuple[Batch, ...], graph: bool) -> tuple[Batch, ...]:
            with torch.set_grad_enabled(graph):
                return tuple(inner_loop.constant.in_place(inner_loop, slow, batch) for batch in batches)

        # Through the inner gradient the slow weights get theirs by the batches of Hop alone.
        through, hessian = self.outer_gradient.through_support, tasks.hessian
        return tasks._replace(
            support=in_place(tasks.support, through and hessian is None),
            query=in_place((tasks.query,), True)[0],
            hessian=in_place(hessian, True) if hessian is not None and through else hessian,
        )

    def _solved(self, inner_loop: InnerLoop, tasks: Tasks) -> tuple[Tensor, Tensor]:
        start, slow = inner_loop.start(tasks)
        if self.takes_features(tasks):
            tasks = self._with_features(inner_loop, slow, tasks)
        return self.outer_gradient.solve(inner_loop, self.outer_loss, start, slow, tasks, self.steps, self.epoch)


def of_one_shape(predictions: list[Tensor]) -> list[Tensor]:
    """The chunks' predictions (1, n, ...), with NaN for tasks that have none; (1,) where no task has any."""
    like = next((some for some in predictions if some.dim() > 1), None)
    if like is None or all(some.dim() > 1 for some in predictions):
        return predictions
    return [some if some.dim() > 1 else torch.full_like(like, torch.nan) for some in predictions]
