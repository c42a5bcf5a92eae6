"""The inner loop's derivatives on one small batch, against those of a plain copy of the model and differences."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch

from litmaml.function_modes import OtherFunctions, in_double
from litmaml.inner.loop import NO_HOOKS, InnerLoop
from litmaml.loop_derivatives import by_inner_loop, inner_gradient
from litmaml.model_copy import copy_of, in_double_precision
from litmaml.outer import OuterGradient, SecondOrder
from litmaml.own_model import check_own_model
from litmaml.plain_copy import PlainCopy, TaskDerivatives
from litmaml.shown import first_line
from litmaml.tasks import Batch
from litmaml.trial_faults import blaming, check_gradient
from litmaml.trial_state import own_streams
from litmaml.weight_vectors import direction, distance, nearby, norm
from litmaml.weights import Params

_RADII = (1e-7, 4e-7)
_WRONG = 1e-3
"""The share of a Hessian product that rounding does not explain, in float64 at these radii."""

_CHECKPOINT = "CheckpointFunction"
"""Of torch.utils.checkpoint with use_reentrant: its weights are not among the inputs that a gradient is asked for."""

_LARGE = 20_000_000
"""Weights from which on nothing is computed in float64."""

LONG = 0.1
"""Seconds for a forward pass, from which on two examples have to do, or else the model's own precision."""


def try_derivatives(
    inner_loop: InnerLoop, batch: Batch, at_once: bool, outer_gradient: OuterGradient | None, whole: bool
) -> list[str]:
    """Compare the inner loop's gradient and Hessian product with the model's own, and its tasks at once with a loop.

    The gradient first on the model itself, in its own precision (``check_own_model``). Then on copies in float64 on the
    CPU, with the difference of gradients; of a model that takes no float64, or long in it, in its own precision and
    without.

    Args:
        inner_loop: Is not changed, but for ``mapped``.
        batch: Support examples of one or two tasks.
        at_once: Whether several tasks of the real batches would be computed at once.
        outer_gradient: What will be taken, or None where only inner steps of an evaluation are.
        whole: Whether the model or its loss takes only batches of this size.

    Returns:
        A sentence where several tasks at once are not possible.

    Raises:
        ValueError: As ``try_first_batch``.
    """

    def own() -> float:
        with _remedies(False):
            return check_own_model(inner_loop, batch)

    share = blaming(inner_loop, own)
    tried = _copy_for(inner_loop, batch, whole)
    with in_double() if tried.exact else nullcontext():
        at = blaming(tried.loop, lambda: _check_copies(tried, share, outer_gradient))
        if not (at_once and tried.loop.mapped and len(tried.batch.inputs) > 1):
            return []
        reason = _why_not_mapped(tried, *at)
    inner_loop.mapped &= not reason
    return [f"model: tasks are computed one after another, since {reason}"] if reason else []


class _Tried(NamedTuple):
    """A copy to try with its batch. exact: in float64. light: it takes long, and only what is cheap is looked at."""

    loop: InnerLoop
    batch: Batch
    exact: bool
    light: bool = False


def _check_copies(
    tried: _Tried, share: float, outer_gradient: OuterGradient | None
) -> tuple[list[Params], Params | None]:
    """Compare copies of the inner loop and of its model; gives the weights of two tasks and the direction."""
    loop, batch, twice = tried.loop, tried.batch, isinstance(outer_gradient, SecondOrder)
    parameters = dict(loop.model.named_parameters())
    weights = {name: parameters[name].detach().clone() for name in (*loop.fast_names, *loop.slow_names)}
    here = nearby(weights, 1, share)
    there = {**nearby(weights, 2, share), **{name: here[name] for name in loop.slow_names}}  # which tasks share
    along = direction({name: weights[name] for name in loop.fast_names}) if twice else None
    looped, tolerance = copy_of(loop, share_weights=True), _tolerance(here)
    looped.mapped = False
    if tried.light:
        with _remedies(twice):
            ours = by_inner_loop(looped, [here], batch, along)[0]
            check_gradient(torch.zeros(()), inner_gradient(looped, here, batch, outer_gradient), ours, tolerance)
        return [here, there], None
    plain = PlainCopy(loop)
    with _remedies(twice):
        with torch.no_grad():
            plain.loss(there, batch)  # what it keeps of these weights shows at the others
        theirs = plain.at(here, batch, along)
        if _CHECKPOINT in plain.functions:
            raise ValueError(NO_HOOKS)
        ours = by_inner_loop(looped, [here], batch, along)[0]
        taken = inner_gradient(looped, here, batch, outer_gradient)
    check_gradient(ours.loss - theirs.loss, ours.gradient, theirs, tolerance)
    check_gradient(torch.zeros(()), taken, theirs, tolerance)
    if along is not None and ours.product is not None:
        _check_product(plain, here, batch, along, ours.product, theirs, tried.exact)
    return [here, there], along


def _tolerance(weights: Params) -> float:
    dtype = next(iter(weights.values())).dtype
    return 1e-7 if dtype in (torch.float64, torch.complex128) else min(1e3 * torch.finfo(dtype).eps, 0.05)


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


def _copy_for(inner_loop: InnerLoop, batch: Batch, whole: bool) -> _Tried:
    """A copy in float64 with its batch, or as they are where the model does not take that."""
    own = _Tried(copy_of(inner_loop, share_weights=True), batch, exact=False)
    if sum(weight.numel() for weight in inner_loop.parameters()) > _LARGE:
        return own._replace(light=True)
    loop, examples = in_double_precision(copy_of(inner_loop)), _double(batch)
    for some in (examples, Batch(*(part[:, :: max(part.shape[1] - 1, 1)] for part in examples[:2]))):
        began = time.process_time()
        try:
            with torch.no_grad(), own_streams(4, some.inputs.device), in_double():
                tried = copy_of(loop, share_weights=True)
                exact = tried.loss(tried.model(some.inputs[0].clone()), some.targets[0]).dtype == torch.float64
        except Exception:  # such as of a layer that insists on float32
            return own
        if not exact:
            return own
        if whole or time.process_time() - began < LONG:
            return _Tried(loop, some, exact=True)
    return own._replace(light=True)


def _double(batch: Batch) -> Batch:
    return Batch(*(p.cpu().double() if p.is_floating_point() else p.cpu() for p in (batch.inputs, batch.targets)))


def _check_product(
    plain: PlainCopy, weights: Params, batch: Batch, along: Params, ours: Params, theirs: TaskDerivatives, exact: bool
) -> None:
    product = theirs.product or ours
    if exact and _is_slope(plain, weights, batch, along, theirs.gradient):
        wrong = _wrong_product(plain, weights, batch, along, ours)
    else:
        # The model cuts derivatives off (detach, straight-through): a difference tells nothing of those that are left.
        wrong = off if (off := distance(ours, product)) > _WRONG else None
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
    try:
        slope = plain.slope_by_difference(weights, batch, along, 10 * _RADII[0])
    except OtherFunctions:
        return False
    found = float(sum((gradient[name] * along[name]).sum() for name in along).real)
    return abs(slope - found) <= _WRONG * abs(found) + 1e-7 * norm(gradient)


def _wrong_product(plain: PlainCopy, weights: Params, batch: Batch, along: Params, found: Params) -> float | None:
    """How far a Hessian product is from a central difference, if two radii agree that it is wrong; else None.

    Where they disagree there is a kink between the points, or the difference is all rounding.
    """
    near = plain.product_by_difference(weights, batch, along, _RADII[0])
    if not distance(found, near) > _WRONG:
        return None
    far = plain.product_by_difference(weights, batch, along, _RADII[1])
    off = min(distance(found, near), distance(found, far))
    return off if off > _WRONG and distance(near, far) < 0.1 * off else None


def _why_not_mapped(tried: _Tried, weights: list[Params], along: Params | None) -> str:
    """Why several tasks at once are not to be had, or nothing."""
    loop, batch = tried.loop, tried.batch
    looped, mapped = copy_of(loop, share_weights=True), copy_of(loop, share_weights=True)
    looped.mapped = False
    one_by_one = by_inner_loop(looped, weights, batch, along)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that vmap takes slowly
            if not tried.light:
                by_inner_loop(mapped, weights, batch, None)  # what a first pass keeps may spoil a second
            found = by_inner_loop(mapped, weights, batch, along)
    except Exception as error:  # whatever somebody's model does with tensors that are no plain ones
        return f"PyTorch cannot map it over them ({first_line(error)[:200]})"
    if loop.draws:
        return ""
    for one, other in zip(found, one_by_one, strict=True):
        pairs = [(one.gradient, other.gradient)]
        if one.product is not None and other.product is not None:
            pairs.append((one.product, other.product))
        if any(distance(*pair) > 100 * _tolerance(weights[0]) for pair in pairs):
            return "mapped over them it gives another gradient"
    return ""
