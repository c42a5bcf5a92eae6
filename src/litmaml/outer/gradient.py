"""The outer gradient's question: which vector of a task the outer optimizer gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from litmaml.engine.features import Features
from litmaml.inner.gradient_rule import Losses
from litmaml.inner.loop import InnerLoop
from litmaml.outer.loss import OuterLoss
from litmaml.outer.path import Inner, loss_of_path
from litmaml.randomness import Streams
from litmaml.shown import spelled
from litmaml.tasks import Batch, StepTasks, Tasks
from litmaml.weights import Params, Weights, constants, gradient_of, leaves


class OuterGradient(ABC):
    """How G_i, the gradient of a task's outer loss by what is meta-learnt, is taken.

    probes: It compares losses at neighbouring weights, so that nothing may draw random numbers.
    sampled: It draws directions.
    unrolls: It holds the graphs of all inner steps at once.
    through_support: It depends on how the inner gradient changes with the weights.
    remedy: What helps where it is not finite, beside what always does.
    """

    probes: ClassVar[bool] = False
    sampled: ClassVar[bool] = False
    through_support: ClassVar[bool] = True
    remedy: ClassVar[str] = ""

    def __repr__(self) -> str:
        return spelled(self)

    @property
    def unrolls(self) -> bool:
        return False

    @property
    def repeats(self) -> bool:
        """Whether it computes the same loss several times, so that nothing may draw random numbers in it."""
        return self.probes

    @property
    def twice(self) -> bool:
        """Whether it differentiates the inner gradient by autograd, so that second derivatives have to be right."""
        return False

    @property
    def differences(self) -> bool:
        """Whether it takes differences over small moves of the weights, which drown where weights are coarse."""
        return self.probes

    def check(self, inner_loop: InnerLoop, outer_loss: OuterLoss) -> None:  # noqa: B027 - most take all
        """Refuse what it would train otherwise than it reads.

        Raises:
            ValueError: Naming the argument, with the remedy.
        """

    def takes_features(self, trained: bool, batches: int) -> bool:
        """Whether batches may come with the outputs of the model's constant parts in place.

        Args:
            trained: They depend on trained weights. Along a path they are slow weights then, but of each task (T, ...).
            batches: The number of a task's batches for inner steps, of all of which they are held.
        """
        return False

    @abstractmethod
    def solve(
        self, inner: Inner, outer_loss: OuterLoss, start: Params, slow: Params, tasks: Tasks, steps: int, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The outer losses (T,) of adapted tasks, and the predictions on their query (T, n, ...).

        The losses' *gradient* by start, slow weights and what the inner loop learns is G_i; their *value* is the outer
        loss, whatever the gradient is. How steps are weighed may depend on the epoch of the run.
        """

    def residuals(
        self, inner: Inner, outer_loss: OuterLoss, start: Params, slow: Params, tasks: Tasks, steps: int
    ) -> Params:
        """How far from true is what it rests on, in each task (T,), by name; nothing where it rests on nothing."""
        return {}

    def directions(self, weights: Weights, streams: Streams, steps: int) -> tuple[Params, ...] | None:
        """The directions of each of N = ``steps`` inner steps, by name (T, Q, ...), or None if none are drawn.

        Args:
            weights: The weights, not stacked, for their shapes.
            streams: The stream of each of the T tasks in turn.
            steps: N.
        """
        return None


class Point(NamedTuple):
    """Where Hop is taken.

    losses: (fast, slow, batch) -> (T,). fast, slow: The weights, leaves and constants. batch: D.
    gradient: grad l(fast; batch) where the inner loop has it already, else None.
    directions: Of a sampled outer gradient, by name (T, Q, ...), else None.
    """

    losses: Losses
    fast: Params
    slow: Params
    batch: Batch
    gradient: Params | None = None
    directions: Params | None = None


class PathGradient(OuterGradient):
    """The outer gradient along the path of the inner steps theta_{j+1} = U_j(theta_j, g_j), g_j = grad l(theta_j; S_j).

    The gradient of the query loss l(theta_N; T) by theta_0 is the recursion

        v_N = grad l(theta_N; T),    v_j = (dU_j/dtheta)' v_{j+1} + Hop(theta_j, D_j, (dU_j/dg)' v_{j+1})

    in which Hop(theta, D, v) stands for the Hessian-vector product H(theta; D) v. The classes below differ in Hop
    alone. The inner gradient is made an operation whose vector-Jacobian product is Hop; automatic differentiation of
    the inner loop then runs the recursion, through any inner optimizer.

    Weights come in two sets. The *fast* ones are adapted: a tensor has a leading dimension for the task. The *slow*
    ones are shared by the tasks and only trained by the outer loop; for them Hop gives the mixed rows
    ``d/dslow <grad_fast l, v>``, summed over tasks.

    A Hop that takes the losses again has to find in them the numbers that the inner step drew. So dropout is refused
    unless ``repeats`` says that Hop takes none, as where it is known. One that takes losses, and is no probe, is taken
    to differentiate their gradients once more.

    Example:
        The Hessian may be known, as 6 of l(theta) = 3 theta^2:

        >>> class Known(PathGradient):
        ...     def hop(self, at, vector):
        ...         return Weights({name: 6 * part for name, part in vector.items()}, {})
        >>> Known().hop(Point(None, {}, {}, None), {"w": torch.ones(1, 1)}).fast["w"].item()
        6.0
    """

    @property
    def repeats(self) -> bool:
        return True

    @property
    def twice(self) -> bool:
        return self.repeats and not self.probes

    @final
    def solve(
        self, inner: Inner, outer_loss: OuterLoss, start: Params, slow: Params, tasks: Tasks, steps: int, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        return loss_of_path(inner, outer_loss, start, slow, tasks, steps, epoch, self.gradient)

    def gradient(self, losses: Losses, fast: Params, slow: Params, step: StepTasks) -> Params:
        """g = grad l(fast; support) of each task, whose vector-Jacobian product is Hop."""
        parts = _trained_parts(step.support if step.hessian is None else step.hessian)
        rule = _Rule(self, losses, tuple(fast), tuple(slow), tuple(parts), step)
        gradient: tuple[Tensor, ...] = _InnerGradient.apply(  # type: ignore[no-untyped-call]  # torch leaves apply untyped
            rule, *fast.values(), *slow.values(), *parts.values()
        )
        return dict(zip(fast, gradient, strict=True))

    @abstractmethod
    def hop(self, at: Point, vector: Params) -> Weights:
        """Hop's rows for the fast weights (T, ...) and for the slow ones, summed over tasks."""


class _Rule(NamedTuple):
    outer_gradient: PathGradient
    losses: Losses
    fast: tuple[str, ...]
    slow: tuple[str, ...]
    parts: tuple[str, ...]
    step: StepTasks


def _trained_parts(batch: Batch) -> Params:
    """Those features of a batch that slow weights have a gradient by, under names that no weight has."""
    if not isinstance(batch.inputs, Features):
        return {}
    return {f"features: {k}": part for k, part in enumerate(batch.inputs.parts) if part.requires_grad}


def _by_parts(losses: Losses, names: tuple[str, ...]) -> Losses:
    """The losses with the features of a batch taken from among the slow weights."""

    def by_parts(fast: Params, slow: Params, batch: Batch, twice: bool = False) -> Tensor:
        parts = [slow.get(f"features: {k}", part) for k, part in enumerate(batch.inputs.parts)]
        own = {name: weight for name, weight in slow.items() if name not in names}
        return losses(fast, own, batch._replace(inputs=Features(batch.inputs.inputs, tuple(parts))), twice)

    return by_parts if names else losses


class _InnerGradient(torch.autograd.Function):
    """The inner gradient, whose vector-Jacobian product is the rule's Hop."""

    @staticmethod
    def forward(ctx: Any, rule: _Rule, *weights: Tensor) -> tuple[Tensor, ...]:
        count = len(rule.fast)
        fast = leaves(dict(zip(rule.fast, weights[:count], strict=True)))
        slow = constants(dict(zip(rule.slow, weights[count : count + len(rule.slow)], strict=True)))
        with torch.enable_grad():
            gradient = gradient_of(rule.losses(fast, slow, rule.step.support, rule.outer_gradient.twice).sum(), fast)
        device = weights[0].device.type
        ctx.rule = rule
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        # Others have no use for it in Hop, and one of half precision does not fit the probes.
        keep = rule.outer_gradient.sampled and rule.step.hessian is None and not ctx.autocast[2]
        ctx.save_for_backward(*weights, *(gradient.values() if keep else ()))
        return tuple(gradient.values())

    @staticmethod
    def backward(ctx: Any, *vector: Tensor) -> tuple[Tensor | None, ...]:
        rule: _Rule = ctx.rule
        saved, count = ctx.saved_tensors, len(rule.fast)
        shared = (*rule.slow, *rule.parts)
        total = count + len(shared)
        at = Point(
            _by_parts(rule.losses, rule.parts),
            leaves(dict(zip(rule.fast, saved[:count], strict=True))),
            constants(dict(zip(shared, saved[count:total], strict=True))),
            rule.step.support if rule.step.hessian is None else rule.step.hessian,
            dict(zip(rule.fast, saved[total:], strict=True)) if len(saved) > total else None,
            rule.step.directions,
        )
        device, dtype, enabled = ctx.autocast
        # A probe's difference would drown in half precision.
        enabled = enabled and not rule.outer_gradient.probes
        with torch.enable_grad(), torch.autocast(device, dtype=dtype, enabled=enabled):
            rows = rule.outer_gradient.hop(at, dict(zip(rule.fast, vector, strict=True)))
        return None, *(rows.fast[name] for name in rule.fast), *(rows.slow[name] for name in shared)
