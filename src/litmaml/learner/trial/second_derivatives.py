"""Whether Hessian products are right: against differences of gradients, or of the backward passes in a model."""

from __future__ import annotations

from typing import NoReturn

from litmaml.inner.derivatives import Derivatives
from litmaml.learner.trial.autograd_functions import Applied, names_tried
from litmaml.learner.trial.function_modes import OtherFunctions
from litmaml.learner.trial.plain_copy import SLOPE_RADIUS, PlainCopy, TaskDerivatives, slope_rounding
from litmaml.learner.trial.weight_vectors import distance, inner
from litmaml.shown import listed
from litmaml.tasks import Batch
from litmaml.weights import Params

_RADII = (1e-7, 4e-7)
_WRONG = 1e-3
"""The share of a Hessian product that rounding does not explain, in float64 at these radii."""


def check_product(
    plain: PlainCopy, weights: Params, batch: Batch, along: Params, found: Params, theirs: TaskDerivatives
) -> bool:
    """Compare a Hessian product of the inner loop in float64 with a central difference of the model's gradient.

    Returns:
        Whether it could be compared: not where a gradient is no slope of the loss, since a model alters it on its way.

    Raises:
        ValueError: It is wrong.
    """
    slope = _is_slope(plain, weights, batch, along, theirs)
    if slope and (wrong := _wrong_product(plain, weights, batch, along, found)) is not None:
        _refuse(wrong, plain)
    return slope


def check_against_plain(plain: PlainCopy, weights: Params, batch: Batch, along: Params, found: Params) -> None:
    """Compare it with the plain copy's own, if torch has one.

    Raises:
        ValueError: They differ.
    """
    with Derivatives():  # since torch's own of normalised weights is wrong
        theirs = plain.at(weights, batch, along).product
    if theirs is not None and (wrong := distance(found, theirs)) > _WRONG:
        _refuse(wrong, plain)


def check_functions(applied: Applied, functions: set[str], why: str) -> str:
    """Try the ``torch.autograd.Function``s of a model by themselves; gives a sentence on what was tried.

    Args:
        applied: The functions with their arguments.
        functions: The names of those that are known to stand in its graph.
        why: The product as a whole could not be compared.

    Raises:
        ValueError: One has a wrong derivative.
    """
    tried = names_tried(applied)
    left = sorted(functions - tried)
    which = listed(sorted(tried), 3) if tried else "none"
    which += f"; {listed(left, 3)} could not be" if left else ""
    return f"model: {why}, so that second derivatives were tried of its torch.autograd.Functions alone ({which})"


def _refuse(wrong: float, plain: PlainCopy) -> NoReturn:
    named = f" ({', '.join(sorted(plain.functions)[:3])})" if plain.functions else ""
    raise ValueError(
        "model: an exact Hessian product is not the change of the gradient along its direction, it is off by "
        f"{wrong:.1%}: an operation in it has a wrong second derivative, such as a torch.autograd.Function whose "
        f"backward is not differentiable or a fused kernel{named}; write it by other operations, or use FirstOrder "
        "or FiniteDifference"
    )


def _is_slope(plain: PlainCopy, weights: Params, batch: Batch, along: Params, theirs: TaskDerivatives) -> bool:
    """Whether the gradient along the direction is the slope of the loss, by one radius or a smaller: between the points
    of a larger one a network of photographs has kinks, of rectifiers and pooling."""
    found = inner(theirs.gradient, along)
    try:
        return any(
            abs(plain.slope_by_difference(weights, batch, along, radius) - found)
            <= _WRONG * abs(found) + slope_rounding(theirs, radius)
            for radius in (SLOPE_RADIUS, SLOPE_RADIUS / 10, SLOPE_RADIUS / 100)
        )
    except OtherFunctions:
        return False


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
