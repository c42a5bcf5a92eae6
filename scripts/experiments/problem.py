"""A problem to meta-learn, and the one loop that experiments descend in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import Vector
from litmaml.outer import FiniteDifference, FirstOrder, OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.problems import LogCoshLoss
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params

EXACT = SecondOrder()


@dataclass
class Problem:
    """A model, its loss, the inner rate alpha and the number of inner steps N.

    ``meta_gradient`` with any outer gradient works on this one model.
    """

    model: nn.Module
    loss: nn.Module
    alpha: float
    steps: int = 1

    def inner_loop(self) -> InnerLoop:
        return InnerLoop(self.model, self.loss, SGD(self.alpha), ["*"], self.steps)

    def meta_gradient(
        self, outer_gradient: OuterGradient = EXACT, compile: bool = False, seed: int = 0
    ) -> MetaGradientOf:
        return MetaGradientOf(self.inner_loop(), outer_gradient, self.steps, compile=compile, seed=seed)

    @property
    def weights(self) -> Tensor:
        """w, as one vector."""
        return nn.utils.parameters_to_vector(self.model.parameters()).detach()

    @weights.setter
    def weights(self, values: Tensor) -> None:
        with torch.no_grad():
            parts = values.split([p.numel() for p in self.model.parameters()])
            for parameter, part in zip(self.model.parameters(), parts, strict=True):
                parameter.copy_(part.view_as(parameter))


def linear(size: int) -> nn.Module:
    """w of ``LinearRegression`` tasks, in float64, at zero."""
    model = nn.Linear(size, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    return model


def vector(start: Tensor) -> Vector:
    """w of ``RankOne`` tasks, in float64."""
    model = Vector(len(start)).double()
    with torch.no_grad():
        model.weight.copy_(start)
    return model


def flat(gradients: Params) -> Tensor:
    """Gradients by name as one vector."""
    return torch.cat([gradient.flatten() for gradient in gradients.values()])


def gradient_at(problem: Problem, gradient_of: MetaGradientOf, weights: Tensor, tasks: Tasks) -> Tensor:
    """The meta-gradient at these weights, as one vector."""
    problem.weights = weights
    return flat(gradient_of(tasks).gradients)


def log_cosh_lipschitz(size: int, curvature: float) -> float:
    """rho of log-cosh tasks of the given largest curvature on ``size`` examples."""
    rho: float = LogCoshLoss.THIRD * math.sqrt(size) * curvature**1.5
    return rho


def descend(
    gradient_of: MetaGradientOf,
    tasks: Callable[[int], Tasks],
    iterations: int,
    beta: float | Callable[[int], float],
    optimizer: type[torch.optim.Optimizer] = torch.optim.SGD,
) -> Iterator[tuple[int, Tensor]]:
    """Outer steps w <- w - beta G(w) on ``tasks(k)``, k = 0, 1, ...; yields k and the loss before each step.

    A sum that is no longer finite ends it: what follows would be NaN.
    """
    weights = dict(gradient_of.inner_loop.named_parameters())
    outer = optimizer(list(weights.values()), lr=1.0)  # type: ignore[call-arg]  # each of them has lr
    for k in range(iterations):
        result = gradient_of(tasks(k))
        if not bool(result.finite.all()):
            return
        yield k, result.loss
        for name, weight in weights.items():
            weight.grad = result.gradients[name]
        for group in outer.param_groups:
            group["lr"] = beta(k) if callable(beta) else beta
        outer.step()


def stacked(tasks: Tasks, times: int) -> Tasks:
    """The tasks repeated, each copy a task of its own: it draws its own random directions."""

    def repeat(batch: Batch) -> Batch:
        return Batch(
            batch.inputs.repeat(times, *[1] * (batch.inputs.dim() - 1)),
            batch.targets.repeat(times, *[1] * (batch.targets.dim() - 1)),
        )

    return Tasks(
        tuple(repeat(batch) for batch in tasks.support),
        repeat(tasks.query),
        torch.arange(times * tasks.size),
    )


def outer_gradients(radius: float | None = None) -> dict[str, OuterGradient]:
    """The three of Fallah et al. by their names."""
    return {"MAML": SecondOrder(), "FO-MAML": FirstOrder(), "HF-MAML": FiniteDifference(radius)}
