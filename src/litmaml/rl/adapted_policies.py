"""The adapted policies of a batch of recorded tasks: their loss, how far they have moved, and the curvature of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from litmaml.inner.loop import InnerLoop
from litmaml.learner.finite_tasks import of_all_processes
from litmaml.outer import OuterLoss
from litmaml.outer.path import loss_of_path
from litmaml.rl.distributions import divergence
from litmaml.tasks import Tasks
from litmaml.weights import leaves, named_weights

Product = Callable[[Sequence[Tensor]], list[Tensor]]


class AdaptedPolicies:
    """What a step of a trust region asks, at whatever weights the inner loop has when it is asked.

    Args:
        inner_loop: The policy with its inner optimizer.
        outer_loss: What is minimised.
        recorded: Gives the tasks, with the trajectories of all inner steps.
        processes: Of the run; means are over the tasks of all.
    """

    def __init__(
        self, inner_loop: InnerLoop, outer_loss: OuterLoss, recorded: Callable[[], Tasks], processes: int
    ) -> None:
        self._inner_loop, self._outer_loss, self._recorded = inner_loop, outer_loss, recorded
        self._processes = processes

    @torch.no_grad()
    def measure(self) -> tuple[float, float]:
        """The outer loss after adaptation to the recorded trajectories, and KL(pi_acted || pi) on the query's steps."""
        tasks, inner = self._recorded(), self._inner_loop
        start, slow = inner.start(tasks)
        steps = len(tasks.support)
        losses, predictions = loss_of_path(inner, self._outer_loss, start, slow, tasks, steps, 0)
        both = torch.stack([losses, self._moved(tasks, predictions)], dim=1)
        loss, moved = of_all_processes(both, self._processes).mean(0).tolist()
        return loss, moved

    def curvature(self, weights: Sequence[nn.Parameter]) -> Product:
        """v -> F v, the mean over tasks of the Fisher matrix of the adapted policy, with d theta' / d theta = I.

        F is the second derivative of KL at its minimum. Through the inner steps it is not taken: a preconditioner has
        to be positive only, and what steps cannot be differentiated twice can be taken so.
        """
        tasks, inner = self._recorded(), self._inner_loop
        *_, adapted = inner.path(tasks, len(tasks.support))
        shared = {name: weight for name, weight in named_weights(inner.model).items() if name not in adapted}
        trained = {name for name, weight in shared.items() if weight.requires_grad}
        by_identity = {id(weight): name for name, weight in inner.model.named_parameters()}
        names = [by_identity[id(weight)] for weight in weights]
        with torch.enable_grad():
            fast, slow = leaves(adapted), {n: leaves({n: w})[n] if n in trained else w for n, w in shared.items()}
            by = [fast[name] if name in fast else slow[name] for name in names]
            moved = self._moved(tasks, inner.predict(fast, tasks.query.inputs, slow), from_here=True).mean()
            slopes = torch.autograd.grad(moved, by, create_graph=True, materialize_grads=True)

        def product(vector: Sequence[Tensor]) -> list[Tensor]:
            with torch.enable_grad():
                along = torch.stack([(slope * v).sum() for slope, v in zip(slopes, vector, strict=True)]).sum()
            found = torch.autograd.grad(along, by, retain_graph=True, materialize_grads=True)
            summed = [part.sum(0) if name in fast else part for name, part in zip(names, found, strict=True)]
            return self._mean(summed)

        return product

    def _moved(self, tasks: Tasks, parameters: Tensor, from_here: bool = False) -> Tensor:
        """The mean of KL over the steps of each task's query (T,)."""
        targets = tasks.query.targets
        before = parameters.detach() if from_here else targets["parameters"]
        apart = divergence(before, parameters, not targets["actions"].is_floating_point())
        mask: Tensor = targets["mask"]
        return (apart * mask).sum((1, 2)) / mask.sum((1, 2))

    def _mean(self, values: list[Tensor]) -> list[Tensor]:
        if self._processes > 1:
            flat = torch.cat([value.flatten() for value in values])
            torch.distributed.all_reduce(flat)
            parts = (flat / self._processes).split([value.numel() for value in values])  # type: ignore[no-untyped-call]  # of torch
            return [part.reshape(value.shape) for part, value in zip(parts, values, strict=True)]
        return values
