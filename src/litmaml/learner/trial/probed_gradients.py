"""Whether an outer gradient by probes, or by conjugate gradients, is that of the inner loop: it is not where a gradient
is no slope of the loss."""

from __future__ import annotations

import warnings

from litmaml.inner.derivatives import Derivatives
from litmaml.learner.trial.plain_copy import SLOPE_RADIUS, PlainCopy, TaskDerivatives, slope_rounding
from litmaml.learner.trial.weight_vectors import direction, distance, inner
from litmaml.outer import OuterGradient, ZerothOrder
from litmaml.tasks import Batch
from litmaml.weights import Params

_RADII = (SLOPE_RADIUS, 4 * SLOPE_RADIUS)
_WRONG = 1e-3
"""The share of a slope or of a product that rounding does not explain, in float64 at these radii."""


def warn_of_probes(
    plain: PlainCopy,
    outer_gradient: OuterGradient,
    weights: Params,
    fast: list[str],
    batch: Batch,
    theirs: TaskDerivatives,
) -> None:
    """Warn of probes of a model whose gradient g is not the slope of its loss l.

    The recursion needs J' v, with J the Jacobian of g and v a vector. Differences of gradients estimate J v, those of
    losses the Hessian of l. All are one where g = grad l, but not where g is cut off, reversed or goes straight through
    on its way. In J' v, what a gradient takes for a constant stays one. Conjugate gradients need J to be symmetric.

    Args:
        plain: In float64.
        outer_gradient: Probes, or solves by conjugate gradients.
        weights: Where it is looked at.
        fast: The names of the fast weights.
        batch: Support examples.
        theirs: l and g there, by all weights.
    """
    # Not where no gradient is taken, as by the row of an embedding that is padding.
    along = {name: part * (theirs.gradient[name] != 0) for name, part in direction(weights).items()}
    if _is_slope(plain, weights, batch, along, theirs):
        return
    name, share = type(outer_gradient).__name__, ""
    if not isinstance(outer_gradient, ZerothOrder):
        off = _off(plain, weights, batch, {name: along[name] for name in fast})
        if off is not None and off <= _WRONG:
            return
        share = f" by {off:.1%} along a random direction" if off is not None else ""
    warnings.warn(
        "model: its gradient is not the slope of its loss (cut off by detach(), straight through, reversed, or altered "
        f"by a hook), so that the Hessian products of {name} are others than those of the inner steps{share}; use "
        "SecondOrder, which follows the gradient's own path, or a model without such a part",
        stacklevel=2,
    )


def _is_slope(plain: PlainCopy, weights: Params, batch: Batch, along: Params, theirs: TaskDerivatives) -> bool:
    """Whether the gradient along the direction is the slope of the loss, or two radii disagree, as across a kink."""
    found = inner(theirs.gradient, along)
    allowed = _WRONG * abs(found) + slope_rounding(theirs)
    near, far = (plain.slope_by_difference(weights, batch, along, radius, held=False) for radius in _RADII)
    off = min(abs(near - found), abs(far - found))
    return not (off > allowed and abs(near - far) < 0.1 * off)


def _off(plain: PlainCopy, weights: Params, batch: Batch, along: Params) -> float | None:
    """How far J v is from J' v; None if torch has no second derivative, or two radii disagree."""
    near, far = (plain.product_by_difference(weights, batch, along, radius, held=False) for radius in _RADII)
    try:
        with Derivatives():  # since torch's own of normalised weights is wrong
            exact = plain.at(weights, batch, along).product
    except RuntimeError:
        return None
    if exact is None or distance(near, far) > 0.1 * max(distance(near, exact), _WRONG):
        return None
    return min(distance(near, exact), distance(far, exact))
