"""The inner loop's derivatives on one small batch, against those of a plain copy of the model and differences."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from litmaml.inner_loop import NO_HOOKS, InnerLoop
from litmaml.model_copy import copy_of, in_double_precision
from litmaml.outer_gradient import SecondOrder
from litmaml.plain_copy import PlainCopy, TaskDerivatives, derivatives_of
from litmaml.shown import first_line
from litmaml.trial_state import own_streams
from litmaml.types import Batch, Params

_RADII = (1e-7, 4e-7)
_WRONG = 1e-3
"""The share of a Hessian product that rounding does not explain, in float64 at these radii."""

_CHECKPOINT = "CheckpointFunction"
"""Of torch.utils.checkpoint with use_reentrant: its weights are not among the inputs that a gradient is asked for."""

_LARGE = 20_000_000
"""Weights from which on nothing is computed in float64."""

_LONG = 0.1
"""Seconds for a forward pass in float64, from which on two examples have to do."""


def try_derivatives(inner_loop: InnerLoop, batch: Batch, at_once: bool) -> list[str]:
    """Compare the inner loop's gradient and Hessian product with a plain copy's, and its tasks at once with a loop.

    In float64 on the CPU; a model that takes no float64 in its own precision, without the difference of gradients.

    Args:
        inner_loop: Is not changed, but for ``mapped``.
        batch: Support examples of one or two tasks.
        at_once: Whether several tasks of the real batches would be computed at once.

    Returns:
        A sentence where several tasks at once are not possible.

    Raises:
        ValueError: As ``try_first_batch``.
    """
    loop, batch, exact = _copy_for(inner_loop, batch)
    tolerance = 1e-7 if exact else 1e3 * torch.finfo(next(loop.model.parameters()).dtype).eps
    found = dict(loop.model.named_parameters())  # get_parameter looks into no scripted part
    weights = {name: found[name].detach().clone() for name in (*loop.fast_names, *loop.slow_names)}
    here = _nearby(weights, 1)
    there = {**_nearby(weights, 2), **{name: here[name] for name in loop.slow_names}}  # which tasks share
    twice = isinstance(loop.outer_gradient, SecondOrder)
    along = _direction({name: weights[name] for name in loop.fast_names}) if twice else None

    plain, looped, mapped = PlainCopy(loop), copy_of(loop, share_weights=True), copy_of(loop, share_weights=True)
    looped.mapped = False
    with _remedies(twice):
        with torch.no_grad():
            plain.loss(there, batch)  # what it keeps of these weights shows at the others
        theirs = plain.at(here, batch, along)
        without = plain.loss_without_gradients(here, batch)
        if _CHECKPOINT in plain.functions:
            raise ValueError(NO_HOOKS)
        ours = _by_inner_loop(looped, [here], batch, along)[0]
        taken = _inner_gradient(looped, here, batch)
    if abs(float(without - theirs.loss)) > tolerance * abs(float(theirs.loss)):
        raise ValueError(
            "model: its loss is another one where no gradient is taken, as in evaluation and in estimates by losses "
            "alone; let the forward pass not depend on torch.is_grad_enabled() or a tensor's requires_grad"
        )
    _check_weights(ours.loss - theirs.loss, ours.gradient, theirs, tolerance)
    _check_weights(torch.zeros(()), taken, theirs, tolerance)
    if along is not None and ours.product is not None:
        _check_product(plain, here, batch, along, ours.product, theirs, exact)
    if not (at_once and loop.mapped and len(batch.inputs) > 1):
        return []
    one_by_one = [ours, *_by_inner_loop(looped, [there], Batch(batch.inputs[1:], batch.targets[1:]), along)]
    reason = _why_not_mapped(mapped, [here, there], batch, along, one_by_one, tolerance)
    inner_loop.mapped &= not reason
    return [f"model: tasks are computed one after another, since {reason}"] if reason else []


@contextmanager
def _remedies(twice: bool) -> Iterator[None]:
    """Errors of torch that a derivative of somebody's model raises, with what to do."""
    try:
        yield
    except RuntimeError as error:
        line = first_line(error)
        if line.startswith("model:"):
            raise ValueError(line) from error
        if "use_reentrant" in line:
            raise ValueError(NO_HOOKS) from error
        if "does not require grad" in line:
            raise ValueError(
                "model: the loss does not depend on its weights by operations that have a derivative; look for "
                "detach(), argmax, rounding or numpy in the forward pass, and for requires_grad_(False)"
            ) from error
        remedy = "train it with FirstOrder, FiniteDifference or ZerothOrder, or " if twice else ""
        raise ValueError(
            f"model: no {'second ' if twice else ''}derivative exists of its loss ({line}); {remedy}replace the "
            "operation that is named"
        ) from error
    except Exception as error:  # whatever somebody's forward pass raises where it is called otherwise
        if str(error).startswith("model:"):
            raise
        raise ValueError(
            "model: it cannot be computed as the inner loop does, with other tensors in the place of its parameters "
            f"({type(error).__name__}: {first_line(error)}); let the forward pass neither ask whether a weight is an "
            "nn.Parameter nor put another in its place"
        ) from error


def _copy_for(inner_loop: InnerLoop, batch: Batch) -> tuple[InnerLoop, Batch, bool]:
    """A copy in float64 with its batch, or as they are where the model does not take that; and which of the two."""
    if sum(weight.numel() for weight in inner_loop.parameters()) > _LARGE:
        return copy_of(inner_loop, share_weights=True), batch, False
    loop, examples, exact = in_double_precision(copy_of(inner_loop)), _double(batch), True
    began = time.perf_counter()
    try:
        with torch.no_grad(), own_streams(4, examples.inputs.device):
            tried = copy_of(loop, share_weights=True)
            exact = tried.loss(tried.model(examples.inputs[0].clone()), examples.targets[0]).dtype == torch.float64
    except (RuntimeError, TypeError, ValueError):  # such as of a layer that makes float32 of its inputs
        exact = False
    if time.perf_counter() - began > _LONG:
        examples = Batch(*(part[:, :: max(part.shape[1] - 1, 1)] for part in (examples.inputs, examples.targets)))
    return (loop, examples, True) if exact else (copy_of(inner_loop, share_weights=True), batch, False)


def _double(batch: Batch) -> Batch:
    return Batch(*(p.cpu().double() if p.is_floating_point() else p.cpu() for p in (batch.inputs, batch.targets)))


def _check_weights(apart: Tensor, gradient: Params, theirs: TaskDerivatives, tolerance: float) -> None:
    true = {name: theirs.gradient[name] for name in gradient}
    off = float(apart.abs()) / max(float(theirs.loss.abs()), 1e-300)
    if off > tolerance or _distance(gradient, true) > tolerance:
        named = _furthest(gradient, true) or [*true]
        raise ValueError(
            "model: with other weights in the place of its parameters it does not give what it gives when they are "
            f"written into it; furthest off is the gradient by {', '.join(named[:3])}: the forward pass uses that "
            "weight by a second reference (a list, a closure, a view made before); use it as an attribute of its module"
        )


def _check_product(
    plain: PlainCopy, weights: Params, batch: Batch, along: Params, ours: Params, theirs: TaskDerivatives, exact: bool
) -> None:
    product = theirs.product or ours
    if exact and _is_slope(plain, weights, batch, along, theirs.gradient):
        wrong = _wrong_product(plain, weights, batch, along, ours)
    else:
        # The model cuts derivatives off (detach, straight-through): a difference tells nothing of those that are left.
        wrong = distance if (distance := _distance(ours, product)) > _WRONG else None
    if wrong is not None:
        named = f" ({', '.join(sorted(plain.functions)[:3])})" if plain.functions else ""
        raise ValueError(
            "model: an exact Hessian product is not the change of the gradient along its direction, it is off by "
            f"{wrong:.1%}: an operation in it has a wrong second derivative, such as a torch.autograd.Function whose "
            f"backward is not differentiable or a fused kernel{named}; write it by other operations, or use FirstOrder "
            "or FiniteDifference"
        )


def _is_slope(plain: PlainCopy, weights: Params, batch: Batch, along: Params, gradient: Params) -> bool:
    """Whether the gradient along the direction is the slope of the loss."""
    slope = plain.slope_by_difference(weights, batch, along, 10 * _RADII[0])
    found = float(sum((gradient[name] * along[name]).sum() for name in along).real)
    return abs(slope - found) <= _WRONG * abs(found) + 1e-7 * _norm(gradient)


def _wrong_product(plain: PlainCopy, weights: Params, batch: Batch, along: Params, found: Params) -> float | None:
    """How far a Hessian product is from a central difference, if two radii agree that it is wrong; else None.

    Where they disagree there is a kink between the points, or the difference is all rounding.
    """
    near = plain.product_by_difference(weights, batch, along, _RADII[0])
    if not _distance(found, near) > _WRONG:
        return None
    far = plain.product_by_difference(weights, batch, along, _RADII[1])
    off = min(_distance(found, near), _distance(found, far))
    return off if off > _WRONG and _distance(near, far) < 0.1 * off else None


def _why_not_mapped(
    loop: InnerLoop,
    weights: list[Params],
    batch: Batch,
    along: Params | None,
    one_by_one: list[TaskDerivatives],
    tolerance: float,
) -> str:
    """Why several tasks at once are not to be had, or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that vmap takes slowly
            _by_inner_loop(loop, weights, batch, None)  # what a first pass keeps may spoil a second
            found = _by_inner_loop(loop, weights, batch, along)
    except Exception as error:  # whatever somebody's model does with tensors that are no plain ones
        return f"PyTorch cannot map it over them ({first_line(error)[:200]})"
    if loop.draws:
        return ""
    for one, other in zip(found, one_by_one, strict=True):
        pairs = [(one.gradient, other.gradient)]
        if one.product is not None and other.product is not None:
            pairs.append((one.product, other.product))
        if any(_distance(*pair) > 100 * tolerance for pair in pairs):
            return "mapped over them it gives another gradient"
    return ""


def _by_inner_loop(loop: InnerLoop, weights: list[Params], batch: Batch, along: Params | None) -> list[TaskDerivatives]:
    """The derivatives as the inner loop takes them, of as many tasks of the batch as there are weights."""
    batch = Batch(batch.inputs[: len(weights)], batch.targets[: len(weights)])
    slow = {name: weights[0][name].detach().requires_grad_() for name in loop.slow_names}
    leaves = [{n: w[n].detach().requires_grad_() for n in loop.fast_names} for w in weights]
    fast = {name: torch.stack([one[name] for one in leaves]) for name in loop.fast_names}
    with own_streams(4, batch.inputs.device):
        losses = loop.losses(fast, slow, batch)
    return [derivatives_of(loss, {**one, **slow}, along) for loss, one in zip(losses, leaves, strict=True)]


def _inner_gradient(loop: InnerLoop, weights: Params, batch: Batch) -> Params:
    """The gradient of an inner step on the first task, as the outer gradient takes it."""
    fast = {name: weights[name][None].requires_grad_() for name in loop.fast_names}
    slow = {name: weights[name].detach() for name in loop.slow_names}
    with own_streams(4, batch.inputs.device):
        one = Batch(batch.inputs[:1], batch.targets[:1])
        gradient = loop.outer_gradient.inner_gradient(loop.losses, fast, slow, one, None)
    return {name: g.detach()[0] for name, g in gradient.items()}


def _nearby(weights: Params, seed: int) -> Params:
    """Other weights of the same size: a few per cent off, so that none is zero and no kink lies at them."""
    with own_streams(seed, torch.device("cpu")):
        return {name: w + (0.03 * _size(w) + 0.01) * torch.randn_like(w) for name, w in weights.items()}


def _direction(like: Params) -> Params:
    with own_streams(3, torch.device("cpu")):
        vector = {name: torch.randn_like(weight) for name, weight in like.items()}
    length = _norm(vector)
    return {name: part / length for name, part in vector.items()}


def _size(weight: Tensor) -> float:
    return float(weight.abs().square().mean().sqrt()) if weight.numel() else 0.0


def _distance(first: Params, second: Params) -> float:
    """|first - second| / |second| over all weights; 0 where both are zero, NaN where one is not finite."""
    apart = _norm({name: first[name] - part for name, part in second.items()})
    return apart / max(_norm(second), 1e-300) if apart != 0 else 0.0


def _furthest(first: Params, second: Params) -> list[str]:
    """The names of the three weights that are furthest apart, if any is."""
    apart = {name: float((first[name] - part).abs().square().sum()) for name, part in second.items()}
    return sorted((name for name in apart if apart[name] > 0), key=lambda name: -apart[name])[:3]


def _norm(weights: Params) -> float:
    return float(sum((w.abs().double().square().sum().cpu() for w in weights.values()), torch.zeros(())).sqrt())
