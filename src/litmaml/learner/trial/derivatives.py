"""The inner loop's derivatives on one small batch, against those of a plain copy of the model and differences."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch

from litmaml.inner.loop import InnerLoop
from litmaml.inner.surroundings import NO_HOOKS
from litmaml.learner.trial.autograd_functions import Applied
from litmaml.learner.trial.faults import blaming, check_gradient, check_not_kept
from litmaml.learner.trial.function_modes import in_double
from litmaml.learner.trial.loop_derivatives import by_inner_loop, inner_gradient, loss_in_place_of
from litmaml.learner.trial.model_copy import copy_of, in_double_precision
from litmaml.learner.trial.own_model import check_own_model
from litmaml.learner.trial.plain_copy import PlainCopy
from litmaml.learner.trial.probed_gradients import warn_of_probes
from litmaml.learner.trial.second_derivatives import check_against_plain, check_functions, check_product
from litmaml.learner.trial.state import own_streams
from litmaml.learner.trial.weight_vectors import direction, distance, nearby
from litmaml.outer import Implicit, OuterGradient
from litmaml.shown import first_line
from litmaml.tasks import Batch, tree_map
from litmaml.weights import Params, named_weights

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
    share = try_own_model(inner_loop, batch)
    tried = _copy_for(inner_loop, batch, whole)
    with in_double() if tried.exact else nullcontext():
        at, remarks = blaming(tried.loop, lambda: _check_copies(tried, share, outer_gradient))
        if tried.loop.draws or not (at_once and tried.loop.mapped and tried.batch.tasks > 1):
            return remarks
        reason = _why_not_mapped(tried, *at)
    inner_loop.mapped &= not reason
    return [*remarks, *([f"model: tasks are computed one after another, since {reason}"] if reason else [])]


def try_own_model(inner_loop: InnerLoop, batch: Batch) -> float:
    """``check_own_model``, with remedies for what a derivative of the model or the loss raises.

    Raises:
        ValueError: As ``try_first_batch``.
    """

    def own() -> float:
        with _remedies(False):
            return check_own_model(inner_loop, batch)

    return blaming(inner_loop, own)


class _Tried(NamedTuple):
    """A copy to try with its batch. exact: in float64. light: it takes long, and only what is cheap is looked at."""

    loop: InnerLoop
    batch: Batch
    exact: bool
    light: bool = False


def _check_copies(
    tried: _Tried, share: float, outer_gradient: OuterGradient | None
) -> tuple[tuple[list[Params], Params | None], list[str]]:
    """Compare copies of the inner loop and of its model.

    Returns:
        The weights of two tasks with the direction of a product, and sentences on what was not compared.
    """
    loop, batch, twice = tried.loop, tried.batch, outer_gradient is not None and outer_gradient.twice
    tensors = named_weights(loop.model)
    weights = {name: tensors[name].detach().clone() for name in (*loop.fast_names, *loop.shared_names)}
    here = nearby(weights, 1, share)
    elsewhere = nearby(weights, 2, share)
    there = {**elsewhere, **{name: here[name] for name in loop.shared_names}}  # which tasks share
    along = direction({name: weights[name] for name in loop.fast_names}) if twice else None
    looped, tolerance, applied = _looped(loop), _tolerance(here), Applied()
    if tried.light:
        with _remedies(twice):
            with applied:
                ours = by_inner_loop(looped, [here], batch, along)[0]
            check_gradient(torch.zeros(()), inner_gradient(_looped(loop), here, batch, outer_gradient), ours, tolerance)
        names = {function.__name__ for function, _ in applied.calls.values()}
        why = "it would take long in float64"
        return ([here, there], None), [check_functions(applied, names, why)] if along else []
    plain = PlainCopy(loop)
    with _remedies(twice):
        with torch.no_grad():
            plain.loss(elsewhere, batch)  # what it keeps of these weights shows at the others
        taken = inner_gradient(_looped(loop), here, batch, outer_gradient)
        if along:  # not where no gradient is taken, as by the row of an embedding that is padding
            along = {name: part * (taken[name] != 0) for name, part in along.items()}
        theirs = plain.at(here, batch, along)
        if _CHECKPOINT in plain.functions:
            raise ValueError(NO_HOOKS)
        with applied:
            ours = by_inner_loop(looped, [here], batch, along)[0]
        in_place = loss_in_place_of(looped, there, here, batch)
    check_gradient(ours.loss - theirs.loss, ours.gradient, theirs, tolerance)
    check_gradient(torch.zeros(()), taken, theirs, tolerance)
    check_not_kept(in_place - theirs.loss, theirs.loss, tolerance)
    if tried.exact and outer_gradient is not None and (outer_gradient.probes or isinstance(outer_gradient, Implicit)):
        warn_of_probes(plain, outer_gradient, here, loop.fast_names, batch, theirs)
    if along is None or ours.product is None:
        return ([here, there], along), []
    if tried.exact and check_product(plain, here, batch, along, ours.product, theirs):
        return ([here, there], along), []
    check_against_plain(plain, here, batch, along, ours.product)
    why = "it does not compute in float64"
    if tried.exact:
        why = "its gradient is not the slope of its loss (reversed, straight through, cut off, or altered by a hook)"
    return ([here, there], along), [check_functions(applied, plain.functions, why)]


def _looped(loop: InnerLoop) -> InnerLoop:
    """A copy that takes one task after the other and has kept nothing yet."""
    copied = copy_of(loop, share_weights=True)
    copied.mapped = False
    return copied


def _tolerance(weights: Params) -> float:
    return min(max(1e3 * max(torch.finfo(weight.dtype).eps for weight in weights.values()), 1e-7), 0.05)


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
    for some in (examples, tree_map(lambda part: part[:, :: max(part.shape[1] - 1, 1)], examples)):
        one = some.task(0)
        began = time.process_time()
        try:
            with torch.no_grad(), own_streams(4, some.device), in_double():
                tried = copy_of(loop, share_weights=True)
                exact = tried.loss(tried.own_predictions(one.inputs), one.targets).dtype == torch.float64
        except Exception:  # such as of a layer that insists on float32
            return own
        if not exact:
            return own
        if whole or time.process_time() - began < LONG:
            return _Tried(loop, some, exact=True)
    return own._replace(light=True)


def _double(batch: Batch) -> Batch:
    return tree_map(lambda p: p.cpu().double() if p.is_floating_point() else p.cpu(), batch)


def _why_not_mapped(tried: _Tried, weights: list[Params], along: Params | None) -> str:
    """Why several tasks at once are not possible, or nothing.

    Not where it draws from a generator that each task begins anew; what draws from torch's is not mapped anyway.
    """
    loop, batch = tried.loop, tried.batch
    looped, mapped = _looped(loop), copy_of(loop, share_weights=True)
    each = (batch.rows(slice(k, None)) for k in range(len(weights)))
    one_by_one = [by_inner_loop(looped, [own], one, along)[0] for own, one in zip(weights, each, strict=True)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that vmap takes slowly
            if not tried.light:
                by_inner_loop(mapped, weights[::-1], batch, None)  # what a first pass keeps may spoil a second
            found = by_inner_loop(mapped, weights, batch, along)
    except Exception as error:  # whatever somebody's model does with tensors that are no plain ones
        return f"PyTorch cannot map it over them ({first_line(error)[:200]})"
    if not mapped.mapped:
        return "it draws random numbers"
    for one, other in zip(found, one_by_one, strict=True):
        pairs = [(one.gradient, other.gradient)]
        if one.product is not None and other.product is not None:
            pairs.append((one.product, other.product))
        if any(distance(*pair) > 100 * _tolerance(weights[0]) for pair in pairs):
            return "mapped over them it gives another gradient"
    return ""
