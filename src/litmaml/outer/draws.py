"""What draws random numbers where a step has to be taken twice."""

from __future__ import annotations

from litmaml.outer.exact import SecondOrder
from litmaml.outer.gradient import OuterGradient, PathGradient


def check_draws(outer_gradient: OuterGradient, what: str, remedy: str) -> None:
    """Refuse what draws random numbers, for an outer gradient that needs the same step twice.

    Args:
        outer_gradient: By which the learner is trained.
        what: Draws: the argument and the layers or functions.
        remedy: What else would help.

    Raises:
        ValueError: Naming the outer gradient and the remedy.
    """
    name = type(outer_gradient).__name__
    if isinstance(outer_gradient, SecondOrder) and outer_gradient.recompute:
        raise ValueError(
            f"{what} draws anew when {name} recomputes an inner step, which would be another step; set recompute to "
            f"false, or {remedy}"
        )
    if outer_gradient.repeats:
        again = f"in each probe of {name}, whose difference would be noise"
        if isinstance(outer_gradient, PathGradient) and not outer_gradient.probes:
            again = f"where {name} takes the loss of an inner step again, which would be another step"
            remedy += ", set repeats = False in the class if its hop takes no loss,"
        raise ValueError(f"{what} draws anew {again}; {remedy} or use SecondOrder or FirstOrder")
