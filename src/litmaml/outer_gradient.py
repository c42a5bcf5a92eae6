"""Outer gradients: how the derivative of the adapted loss by the initial weights is taken.

Along N inner steps theta_{j+1} = U_j(theta_j, g_j) with g_j = grad l(theta_j; S_j), the gradient of the query loss
l(theta_N; T) by theta_0 is the recursion

    v_N = grad l(theta_N; T),    v_j = (dU_j/dtheta)' v_{j+1} + Hop(theta_j, D_j, (dU_j/dg)' v_{j+1})

in which Hop(theta, D, v) stands for the Hessian-vector product H(theta; D) v. The outer gradients below differ in
Hop alone. Each makes the inner gradient an operation whose vector-Jacobian product is its Hop; automatic
differentiation of the inner loop then runs the recursion, through any inner optimizer.

Weights come in two sets. The *fast* ones are adapted: a tensor has a leading dimension for the task. The *slow* ones
are shared by the tasks and only trained by the outer loop; for them Hop gives the mixed rows
d/dslow <grad_fast l, v>, summed over tasks. ``losses(fast, slow, batch)`` gives the (T,) losses of the tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from torch import Tensor

from litmaml.types import Batch, Params

Losses = Callable[[Params, Params, Batch], Tensor]
"""(fast, slow, batch) -> the loss of each task, (T,)."""


class OuterGradient(ABC):
    """A choice of Hop. ``probes``: it compares losses at neighbouring weights. ``sampled``: it draws directions."""

    probes: ClassVar[bool] = False
    sampled: ClassVar[bool] = False

    def inner_gradient(
        self, losses: Losses, fast: Params, slow: Params, support: Batch, hessian: Batch | None
    ) -> Params:
        """g = grad l(fast; support) of each task, whose vector-Jacobian product is Hop.

        ``hessian`` is the batch D of Hop where it is not the support batch.
        """
        rule = _Rule(self, losses, tuple(fast), tuple(slow), support, hessian)
        gradient: tuple[Tensor, ...] = _InnerGradient.apply(  # type: ignore[no-untyped-call]  # torch leaves apply untyped
            rule, *fast.values(), *slow.values()
        )
        return dict(zip(fast, gradient, strict=True))

    @abstractmethod
    def hop(
        self,
        losses: Losses,
        fast: Params,
        slow: Params,
        batch: Batch,
        vector: Params,
        gradient: Params | None,
    ) -> tuple[Params, Params]:
        """Hop's rows for the fast weights (T, ...) and for the slow ones, summed over tasks.

        ``gradient`` is grad l(fast; batch) where the inner loop has it already, else None.
        """


@final
class SecondOrder(OuterGradient):
    """MAML: Hop(theta, D, v) = H(theta; D) v, exact (Finn et al. 2017, arXiv 1703.03400).

    Args:
        recompute: Keep the fast weights of each inner step instead of its graph and differentiate the step anew in
            the backward pass: memory hardly grows with the number of inner steps, for about a third more time.
    """

    def __init__(self, recompute: bool = False) -> None:
        self.recompute = recompute

    def inner_gradient(
        self, losses: Losses, fast: Params, slow: Params, support: Batch, hessian: Batch | None
    ) -> Params:
        if self.recompute or hessian is not None:
            return super().inner_gradient(losses, fast, slow, support, hessian)
        return _gradient(losses(fast, slow, support).sum(), fast, create_graph=True)

    def hop(
        self,
        losses: Losses,
        fast: Params,
        slow: Params,
        batch: Batch,
        vector: Params,
        gradient: Params | None,
    ) -> tuple[Params, Params]:
        slow = {name: weight.detach().requires_grad_() for name, weight in slow.items()}
        inner = _gradient(losses(fast, slow, batch).sum(), fast, create_graph=True)
        curved = [name for name, g in inner.items() if g.requires_grad]  # none where the loss is linear
        if not curved:
            return _zeros(fast), _zeros(slow)
        product = differentiate(
            [inner[name] for name in curved], [*fast.values(), *slow.values()], [vector[name] for name in curved]
        )
        return _split(product, fast, slow)


@final
class FirstOrder(OuterGradient):
    """FO-MAML: Hop = 0 (Finn et al. 2017, arXiv 1703.03400; Fallah et al. 2020, arXiv 1908.10400).

    The cheapest; it ends at a distance from the optimum that grows with the inner rate and with how much the tasks'
    Hessians differ.
    """

    def inner_gradient(
        self, losses: Losses, fast: Params, slow: Params, support: Batch, hessian: Batch | None
    ) -> Params:
        with torch.enable_grad():
            leaves = _leaves(fast)
            return _gradient(losses(leaves, _constants(slow), support).sum(), leaves)

    def hop(
        self,
        losses: Losses,
        fast: Params,
        slow: Params,
        batch: Batch,
        vector: Params,
        gradient: Params | None,
    ) -> tuple[Params, Params]:
        return _zeros(fast), _zeros(slow)


@final
class FiniteDifference(OuterGradient):
    """HF-MAML, Hessian-free (Fallah et al. 2020, arXiv 1908.10400), for any number of inner steps:

        Hop(theta, D, v) = |v| [grad l(theta + r v/|v|; D) - grad l(theta - r v/|v|; D)] / (2 r),   Hop(theta, D, 0) = 0

    with |.| the Euclidean norm over all fast weights of a task and both gradients on the same batch D. Two more
    gradients a step, no variance. The error is of order r^2 where the Hessian is Lipschitz; across the kinks of ReLU
    and max-pooling it does not vanish with r. Not usable with half-precision weights or with random layers.

    Args:
        radius: The probe length r, in units of the weights. By default 0.2 eps^(1/3) (1 + |theta|), eps the
            precision of the weights: it balances truncation and rounding. (1/(6 rho alpha), as printed in the
            paper, leaves a floor.)

    Raises:
        ValueError: The radius is not positive.
    """

    probes = True

    def __init__(self, radius: float | None = None) -> None:
        self.radius = _positive("radius", radius)

    def hop(
        self,
        losses: Losses,
        fast: Params,
        slow: Params,
        batch: Batch,
        vector: Params,
        gradient: Params | None,
    ) -> tuple[Params, Params]:
        length = _norm(vector)
        radius = probe_length(fast, slow) if self.radius is None else torch.full_like(length, self.radius)
        unit = _scaled(vector, torch.where(length > 0, 1 / length, 0.0))
        weights = length / (2 * radius)
        ahead = _weighted(losses, _moved(fast, unit, radius), slow, batch, weights)
        behind = _weighted(losses, _moved(fast, unit, -radius), slow, batch, weights)
        return _split([a - b for a, b in zip(ahead, behind, strict=True)], fast, slow)


@final
class GaussianSmoothing(OuterGradient):
    """GGS-MAML (Ji et al. 2020, arXiv 2002.07836v1): gradients at Gaussian neighbours u_q ~ N(0, I), q = 1..Q,

        Hop(theta, D, v) = 1/Q sum_q [grad l(theta + mu u_q; D) - grad l(theta; D)] / mu  <u_q, v>

    Bias at most rho mu sqrt(d); variance (|v|^2 |H|_F^2 + |H v|^2)/Q, that is (d + 1)/Q of |H v|^2 for d fast weights
    and isotropic v: right for small models, noise for a convolutional network. Q more gradients a step. Where gradients
    are to be had FiniteDifference dominates it.

    Args:
        samples: Q, the number of directions.
        smoothing: mu, in units of the weights. By default 0.3 sqrt(eps), eps the precision of the weights.

    Raises:
        ValueError: samples or smoothing is not positive.
    """

    probes = True
    sampled = True

    def __init__(self, samples: int = 10, smoothing: float | None = None) -> None:
        self.samples = _at_least_one("samples", samples)
        self.smoothing = _positive("smoothing", smoothing)

    def hop(
        self,
        losses: Losses,
        fast: Params,
        slow: Params,
        batch: Batch,
        vector: Params,
        gradient: Params | None,
    ) -> tuple[Params, Params]:
        mu = 0.3 * _precision(fast, slow) ** 0.5 if self.smoothing is None else self.smoothing
        total = [torch.zeros_like(weight) for weight in (*fast.values(), *slow.values())]
        weight_sum = torch.zeros_like(_norm(vector))
        for _ in range(self.samples):
            direction = _normal(fast)
            weights = _inner(direction, vector) / (mu * self.samples)
            probe = _weighted(losses, _moved(fast, direction, torch.full_like(weights, mu)), slow, batch, weights)
            if gradient is not None and not slow:
                probe = [p - g for p, g in zip(probe, _scaled(gradient, weights).values(), strict=True)]
            weight_sum = weight_sum + weights
            total = [t + p for t, p in zip(total, probe, strict=True)]
        if gradient is None or slow:  # the centre's gradient, for all directions at once
            centre = _weighted(losses, fast, slow, batch, weight_sum)
            total = [t - c for t, c in zip(total, centre, strict=True)]
        return _split(total, fast, slow)


@final
class ZerothOrder(OuterGradient):
    """ZO-MAML: the Hessian from loss values alone (Ji et al. 2020, arXiv 2002.07836v1; Song et al. 2020, ES-MAML,
    arXiv 1910.01215), with u_q ~ N(0, I), q = 1..Q, and

        c_q = [l(theta + mu u_q; D) + l(theta - mu u_q; D) - 2 l(theta; D)] / (2 mu^2)
        Hop(theta, D, v) = 1/Q sum_q c_q u_q <u_q, v>                  ji     (bias tr(H) v / 2)
                           1/Q sum_q c_q (u_q <u_q, v> - v)            stein  (no bias but smoothing's)
                           1/Q sum_q (c_q - mean c) u_q <u_q, v>       mean   (bias of order 1/Q)

    Relative variance of order d^2/Q for d weights: for small models, and for losses without a second
    derivative. 2Q + 1 losses a step.

    Args:
        samples: Q, the number of directions.
        smoothing: mu, in units of the weights. By default eps^(1/4) / 2, eps the precision of the weights.
        baseline: What is taken off the estimate: ji (nothing, as in that paper), stein or mean.

    Raises:
        ValueError: samples or smoothing is not positive, or the baseline is unknown.
    """

    probes = True
    sampled = True

    def __init__(
        self,
        samples: int = 10,
        smoothing: float | None = None,
        baseline: Literal["ji", "stein", "mean"] = "mean",
    ) -> None:
        self.samples = _at_least_one("samples", samples)
        self.smoothing = _positive("smoothing", smoothing)
        if baseline not in ("ji", "stein", "mean"):
            raise ValueError(f"baseline: got {baseline!r}; one of ji, stein, mean")
        self.baseline = baseline

    def hop(
        self,
        losses: Losses,
        fast: Params,
        slow: Params,
        batch: Batch,
        vector: Params,
        gradient: Params | None,
    ) -> tuple[Params, Params]:
        mu = 0.5 * _precision(fast, slow) ** 0.25 if self.smoothing is None else self.smoothing
        tasks = len(_norm(vector))
        # Every task moves in its own direction, also along the weights that tasks share.
        weights = {**fast, **{name: weight.expand(tasks, *weight.shape) for name, weight in slow.items()}}
        with torch.no_grad():
            here = losses(weights, {}, batch)
            total, plain, curvatures = _zeros(weights), _zeros(weights), torch.zeros_like(here)
            for _ in range(self.samples):
                direction = _normal(weights)
                step = torch.full_like(here, mu)
                there = losses(_moved(weights, direction, step), {}, batch)
                there = there + losses(_moved(weights, direction, -step), {}, batch)
                curvature = (there - 2 * here) / (2 * mu**2 * self.samples)
                along = _inner({name: direction[name] for name in fast}, vector)
                total = _added(total, _scaled(direction, curvature * along))
                if self.baseline == "mean":
                    plain = _added(plain, _scaled(direction, along))
                curvatures = curvatures + curvature
            if self.baseline == "mean":  # curvatures is the mean of the c_q, each c_q having been divided by Q
                total = _added(total, _scaled(plain, -curvatures / self.samples))
            rows = {name: total[name] for name in fast}
            if self.baseline == "stein":
                rows = _added(rows, _scaled(vector, -curvatures))
        return rows, {name: total[name].sum(0) for name in slow}


def probe_length(theta: Params, slow: Params | None = None) -> Tensor:
    """r = 0.2 eps^(1/3) (1 + |theta|) of each task (T,), for stacked weights theta.

    eps is the precision of the coarsest of all weights, also of the slow ones.
    """
    length: Tensor = 0.2 * _precision(theta, slow or {}) ** (1 / 3) * (1 + _norm(theta))
    return length


class _Rule(NamedTuple):
    outer_gradient: OuterGradient
    losses: Losses
    fast: tuple[str, ...]
    slow: tuple[str, ...]
    support: Batch
    hessian: Batch | None


class _InnerGradient(torch.autograd.Function):
    """The inner gradient, whose vector-Jacobian product is the rule's Hop."""

    @staticmethod
    def forward(ctx: Any, rule: _Rule, *weights: Tensor) -> tuple[Tensor, ...]:
        count = len(rule.fast)
        fast = _leaves(dict(zip(rule.fast, weights[:count], strict=True)))
        slow = _constants(dict(zip(rule.slow, weights[count:], strict=True)))
        with torch.enable_grad():
            gradient = _gradient(rule.losses(fast, slow, rule.support).sum(), fast)
        device = weights[0].device.type
        ctx.rule = rule
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        # Others have no use for it in Hop, and one of half precision does not fit the probes.
        keep = rule.outer_gradient.sampled and rule.hessian is None and not ctx.autocast[2]
        ctx.save_for_backward(*weights, *(gradient.values() if keep else ()))
        return tuple(gradient.values())

    @staticmethod
    def backward(ctx: Any, *vector: Tensor) -> tuple[Tensor | None, ...]:
        rule: _Rule = ctx.rule
        saved, count = ctx.saved_tensors, len(rule.fast)
        total = count + len(rule.slow)
        fast = _leaves(dict(zip(rule.fast, saved[:count], strict=True)))
        slow = _constants(dict(zip(rule.slow, saved[count:total], strict=True)))
        gradient = dict(zip(rule.fast, saved[total:], strict=True)) if len(saved) > total else None
        batch = rule.support if rule.hessian is None else rule.hessian
        device, dtype, enabled = ctx.autocast
        # A probe's difference would drown in half precision.
        enabled = enabled and not rule.outer_gradient.probes
        with torch.enable_grad(), torch.autocast(device, dtype=dtype, enabled=enabled):
            rows, mixed = rule.outer_gradient.hop(
                rule.losses, fast, slow, batch, dict(zip(rule.fast, vector, strict=True)), gradient
            )
        return None, *(rows[name] for name in rule.fast), *(mixed[name] for name in rule.slow)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a stream of its own: the same directions for the same tasks, whatever was drawn before."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        # Not by torch.manual_seed, which seeds the devices of others too, and takes a millisecond to note who asked.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def generator_states(device: torch.device) -> list[Tensor]:
    """The states of torch's global generators that something on this device may draw from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def put_back_generators(states: list[Tensor], device: torch.device) -> None:
    """The reverse of ``generator_states``."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


def differentiate(
    of: Sequence[Tensor], by: Sequence[Tensor], vectors: Sequence[Tensor] | None = None, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """The gradient, zeros where there is none, each operation in the precision that its forward pass had.

    Under autocast the backward pass would be cast anew, and rounded, or refused by kernels of GPUs.
    """
    device = by[0].device.type
    plain = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
    with plain:
        return torch.autograd.grad(of, by, vectors, create_graph=create_graph, materialize_grads=True)


def _gradient(loss: Tensor, weights: Params, create_graph: bool = False) -> Params:
    return dict(zip(weights, differentiate([loss], list(weights.values()), create_graph=create_graph), strict=True))


def _weighted(losses: Losses, fast: Params, slow: Params, batch: Batch, weights: Tensor) -> list[Tensor]:
    """The gradient of sum_t weights_t l_t by all weights: fast rows come out weighted task by task."""
    leaves = {**_leaves(fast), **_leaves(slow)}
    loss = losses({n: leaves[n] for n in fast}, {n: leaves[n] for n in slow}, batch)
    return list(_gradient((weights.detach() * loss).sum(), leaves).values())


def _leaves(weights: Params) -> Params:
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


def _constants(weights: Params) -> Params:
    return {name: weight.detach() for name, weight in weights.items()}


def _zeros(weights: Params) -> Params:
    return {name: torch.zeros_like(weight) for name, weight in weights.items()}


def _split(values: list[Tensor] | tuple[Tensor, ...], fast: Params, slow: Params) -> tuple[Params, Params]:
    count = len(fast)
    return dict(zip(fast, values[:count], strict=True)), dict(zip(slow, values[count:], strict=True))


def _per_task(scale: Tensor, like: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (like.dim() - 1)).to(like.dtype)


def _scaled(weights: Params, scale: Tensor) -> Params:
    return {name: _per_task(scale, weight) * weight for name, weight in weights.items()}


def _added(first: Params, second: Params) -> Params:
    return {name: weight + second[name] for name, weight in first.items()}


def _moved(theta: Params, direction: Params, length: Tensor) -> Params:
    """theta + length * direction; length is (T,)."""
    return {name: weight.detach() + _per_task(length, weight) * direction[name] for name, weight in theta.items()}


def _inner(first: Params, second: Params) -> Tensor:
    """<first, second> of each task (T,)."""
    products = torch.stack([(a * second[name]).reshape(len(a), -1).sum(1) for name, a in first.items()])
    total: Tensor = products.sum(0)
    return total


def _norm(weights: Params) -> Tensor:
    return _inner(weights, weights).sqrt()


def _normal(like: Params) -> Params:
    return {name: torch.randn_like(weight) for name, weight in like.items()}


def _precision(*weights: Params) -> float:
    return max(float(torch.finfo(weight.dtype).eps) for some in weights for weight in some.values())


def _positive(name: str, value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"{name}: has to be a positive number or left out for the default, got {value}")
    return value


def _at_least_one(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}: has to be at least 1, got {value}")
    return value
