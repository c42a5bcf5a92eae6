"""The outer gradient at the end of the inner steps, taken for the minimiser that they go to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor

from litmaml.inner.gradient_rule import Losses
from litmaml.inner.higher import HigherOptimizer
from litmaml.inner.loop import InnerLoop
from litmaml.inner.optimizer import InnerOptimizer
from litmaml.inner.proximal import Proximal
from litmaml.inner.transform import innermost
from litmaml.outer.exact import FirstOrder, SecondOrder
from litmaml.outer.gradient import OuterGradient, PathGradient, Point
from litmaml.outer.loss import OuterLoss
from litmaml.outer.path import Inner, end_of
from litmaml.outer.refusals import refuse_along, refuse_learnt, refuse_rows
from litmaml.tasks import Batch, Tasks
from litmaml.weights import (
    Params,
    Weights,
    added,
    constants,
    gradient_of,
    inner_product,
    leaves,
    norm,
    scaled,
    zeros,
)


@final
class Implicit(OuterGradient):
    """iMAML (Rajeswaran et al. 2019, arXiv 1909.04630): the gradient of l(theta*(w); T) with

        theta*(w) = argmin_theta l(theta; S) + (lambda/2) |theta - w|^2

    by the implicit function theorem. With v = grad l(theta*; T), H = hess l(theta*; S) and slow weights psi:

        G = x  where  (I + H/lambda) x = v
        G_psi = d/dpsi l(theta*; T) - (1/lambda) d/dpsi <grad l(theta*; S), x>,   dF/dlambda = -<x, theta* - w>/lambda

    x comes of conjugate gradients, task by task, that need one Hessian product each. theta* is where N inner steps of
    an optimizer within ``Proximal`` have come to: how they came there is not differentiated. N + 1 gradients and
    ``iterations`` + 1 products, and no memory for the path.

    It is right only where the steps have come near theta*, and lambda is larger than the negative curvature of H; with
    a lambda too small it goes astray. So it gives NaN where a direction of no positive curvature is met, which
    names the task in a run, and logs two residuals: ``stationarity``, |grad l + lambda (theta_N - w)| as a share of
    |lambda (theta_N - w)|, and ``solve``, that of the linear system as a share of |v|.

    Args:
        iterations: Of conjugate gradients.
        product: What gives the products H v; ``FiniteDifference`` takes gradients alone. By default SecondOrder.

    Raises:
        ValueError: iterations is below 1, or the products are random, or none.

    Example:
        Of l(w) = (w - 1)^2 on both sets, whose Hessian is 2, from w = 0 with lambda = 2: theta* = 1/2, v = -1 and
        G = v / (1 + 2/2):

        >>> from litmaml.inner import SGD
        >>> from litmaml.outer.meta_gradient import MetaGradientOf
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> torch.nn.init.zeros_(model.weight).shape
        torch.Size([1, 1])
        >>> one = Batch(torch.ones(1, 1, 1), torch.ones(1, 1, 1))
        >>> loop = InnerLoop(model, torch.nn.MSELoss(), Proximal(SGD(0.25), 2.0), ["*"], steps=1)
        >>> found = MetaGradientOf(loop, Implicit(), 1)(Tasks((one,), one, torch.zeros(1).long()))
        >>> round(found.gradients["model.weight"].item(), 6)
        -0.5
    """

    remedy = "raise inner_optimizer.strength (below a negative curvature Implicit gives NaN); or "

    def __init__(self, iterations: int = 10, product: PathGradient | None = None) -> None:
        if iterations < 1:
            raise ValueError(f"iterations: has to be at least 1, got {iterations}")
        if product is not None and (not isinstance(product, PathGradient) or isinstance(product, FirstOrder)):
            raise ValueError(
                f"product: has to give Hessian products, got {type(product).__name__}; use SecondOrder or "
                "FiniteDifference"
            )
        if product is not None and product.sampled:
            raise ValueError(
                f"product: conjugate gradients need one symmetric product, and that of {type(product).__name__} is "
                "random; use SecondOrder or FiniteDifference"
            )
        self.iterations, self.product = iterations, product

    @property
    def hops(self) -> PathGradient:
        """What gives the products."""
        return SecondOrder() if self.product is None else self.product

    @property
    def probes(self) -> bool:  # type: ignore[override]  # here by the product
        return self.hops.probes

    @property
    def twice(self) -> bool:
        return self.hops.twice

    @property
    def repeats(self) -> bool:
        return True

    def check(self, inner_loop: InnerLoop, outer_loss: OuterLoss) -> None:
        optimizer = inner_loop.optimizer
        if not isinstance(optimizer, Proximal):
            raise ValueError(
                "inner_optimizer: Implicit differentiates the minimiser of l + lambda/2 |theta - w|^2, got "
                f"{type(optimizer).__name__}; put it into Proximal, with the strength lambda"
            )
        if optimizer.strength == 0:
            raise ValueError("inner_optimizer.strength: Implicit needs one above 0, got 0; set it to 1 or more")
        if decay := _decay(innermost(optimizer)):
            raise ValueError(f"inner_optimizer.{decay}: moves the minimiser that Implicit differentiates; set it to 0")
        refuse_along(outer_loss, "Implicit", "step_weights", "along")
        refuse_learnt(inner_loop, "Implicit", but=("strength",))
        refuse_rows(inner_loop, "Implicit", "the loss of all steps has to be one")
        weights = inner_loop.learnt_start(1).fast
        if complex_ones := [name for name, weight in weights.items() if weight.is_complex()]:
            raise ValueError(
                f"model: {complex_ones[0]} is complex, and Implicit solves for real weights; hold it as a real "
                "parameter with torch.view_as_complex, or use SecondOrder as the outer gradient"
            )

    def solve(
        self, inner: Inner, outer_loss: OuterLoss, start: Params, slow: Params, tasks: Tasks, steps: int, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        system = self._system(inner, start, slow, tasks, steps)
        strength = _strength(inner, start)
        solved: tuple[Tensor, ...] = _Minimiser.apply(  # type: ignore[no-untyped-call]  # torch leaves apply untyped
            system, strength, *start.values(), *slow.values()
        )
        end = dict(zip(start, solved, strict=True))
        return inner.outcome(end, inner.at_query(slow, steps), tasks.query, outer_loss.loss)

    def residuals(
        self, inner: Inner, outer_loss: OuterLoss, start: Params, slow: Params, tasks: Tasks, steps: int
    ) -> Params:
        system = self._system(inner, start, slow, tasks, steps)
        end, strength = leaves(system.end), float(_strength(inner, start))
        back = {name: strength * (weight.detach() - start[name].detach()) for name, weight in end.items()}
        with torch.enable_grad():
            support = gradient_of(system.losses(end, constants(slow), system.support).sum(), end)
            vector = gradient_of(inner.outcome(end, constants(slow), tasks.query, outer_loss.loss)[0].sum(), end)
            _, left = conjugate_gradients(system.product(strength), vector, self.iterations)
        return {"stationarity": norm(added(support, back)) / norm(back), "solve": left}

    def _system(self, inner: Inner, start: Params, slow: Params, tasks: Tasks, steps: int) -> _System:
        if len(tasks.support) > 1 or tasks.hessian is not None:
            raise ValueError(
                f"support_batches, hessian_batches: Implicit differentiates the minimiser of one loss, got "
                f"{len(tasks.support)} and {len(tasks.hessian or ())} per task; set them to 1 and 0"
            )
        with torch.no_grad():
            end = end_of(inner.steps(constants(start), slow, tasks, steps))
        return _System(self, inner.losses, end, constants(slow), tasks.support[0])


class _System(NamedTuple):
    """(I + H/lambda) x = v at the end of the inner steps of T tasks."""

    outer_gradient: Implicit
    losses: Losses
    end: Params
    slow: Params
    support: Batch

    def hop(self, vector: Params, by: Params) -> Weights:
        """H v, with rows for these slow weights."""

        def losses(fast: Params, slow: Params, batch: Batch, twice: bool = False) -> Tensor:
            return self.losses(fast, self.slow | slow, batch, twice)

        return self.outer_gradient.hops.hop(Point(losses, leaves(self.end), by, self.support), vector)

    def product(self, strength: float | Tensor) -> Callable[[Params], Params]:
        """x -> (I + H/lambda) x."""
        return lambda x: {name: x[name] + row / strength for name, row in self.hop(x, {}).fast.items()}


class _Minimiser(torch.autograd.Function):
    """theta* as a function of the start, the slow weights and lambda."""

    @staticmethod
    def forward(ctx: Any, system: _System, strength: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.system = system
        ctx.save_for_backward(strength, *weights[: len(system.end)])
        return tuple(weight.clone() for weight in system.end.values())

    @staticmethod
    def backward(ctx: Any, *vector: Tensor) -> tuple[Tensor | None, ...]:
        system: _System = ctx.system
        strength, *start = ctx.saved_tensors
        v = dict(zip(system.end, vector, strict=True))
        # In full precision: what is left over would drown in half.
        with torch.enable_grad(), torch.autocast(strength.device.type, enabled=False):
            x, _ = conjugate_gradients(system.product(strength), v, system.outer_gradient.iterations)
            rows = system.hop(x, system.slow).slow if system.slow else {}
        way = {name: weight - w for (name, weight), w in zip(system.end.items(), start, strict=True)}
        by_strength = -inner_product(x, way).sum() / strength
        return None, by_strength, *x.values(), *(-rows[name] / strength for name in system.slow)


def conjugate_gradients(product: Callable[[Params], Params], vector: Params, iterations: int) -> tuple[Params, Tensor]:
    """x with A x = v for each of T tasks by itself, and |v - A x| / |v| (T,).

    Args:
        product: x -> A x, symmetric.
        vector: v.
        iterations: At most; a task that is solved to rounding stays. NaN where <p, A p> <= 0 for a direction p.

    Example:
        >>> v = {"w": torch.tensor([[1.0, 1.0], [1.0, 0.0]])}
        >>> x, left = conjugate_gradients(lambda x: {"w": torch.tensor([2.0, 4.0]) * x["w"]}, v, iterations=2)
        >>> [[round(part, 6) for part in task] for task in x["w"].tolist()]
        [[0.5, 0.25], [0.5, 0.0]]
    """
    x, rest, direction = zeros(vector), vector, vector
    square = first = inner_product(vector, vector)
    least = first * torch.finfo(first.dtype).eps ** 2
    for _ in range(iterations):
        along = product(direction)
        curvature, going = inner_product(direction, along), square > least
        length = torch.where(curvature > 0, square / curvature, torch.nan)
        length = torch.where(going, length, 0.0)
        x, rest = added(x, scaled(direction, length)), added(rest, scaled(along, -length))
        before, square = square, inner_product(rest, rest)
        direction = added(rest, scaled(direction, torch.where(going, square / before, 0.0)))
    return x, torch.where(first > 0, (square / first).sqrt(), 0.0)


def _decay(optimizer: InnerOptimizer) -> str:
    """The argument by which an inner optimizer draws weights to 0 beside their gradient, or nothing."""
    if not isinstance(optimizer, HigherOptimizer):
        return "weight_decay" if getattr(optimizer, "weight_decay", 0) else ""
    options = {"lambd": 1e-4 if optimizer.optimizer.endswith("ASGD") else 0.0, **(optimizer.options or {})}
    return next((f"options.{name}" for name in ("weight_decay", "lambd") if options.get(name)), "")


def _strength(inner: Inner, like: Params) -> Tensor:
    """lambda, as a tensor that may be on the graph."""
    found = cast(Proximal, inner.optimizer).lambda_of(inner.learnt.values())
    anyone = next(iter(like.values()))
    return found if isinstance(found, Tensor) else torch.full((), found, dtype=anyone.dtype, device=anyone.device)
