"""What outer gradients that do not follow the path refuse: each would train something else than it reads."""

from __future__ import annotations

from collections.abc import Sequence

from litmaml.inner.loop import InnerLoop
from litmaml.outer.loss import OuterLoss
from litmaml.shown import listed


def refuse_along(outer_loss: OuterLoss, name: str, *methods: str) -> None:
    """Refuse an outer loss of points along the path, for an outer gradient that has none of them.

    Args:
        outer_loss: What is minimised.
        name: Of the outer gradient.
        methods: Of the outer loss, those that it must not have of its own.

    Raises:
        ValueError: It has one.
    """
    if outer_loss.has_own(*methods):
        raise ValueError(
            f"outer_loss: {type(outer_loss).__name__} takes terms along the path of the inner steps, which {name} does "
            "not differentiate; use MeanLoss, or SecondOrder as the outer gradient"
        )


def refuse_learnt(inner_loop: InnerLoop, name: str, but: Sequence[str] = ()) -> None:
    """Refuse what the inner loop learns and an outer gradient has no gradient for.

    Raises:
        ValueError: It learns more than the names in ``but``.
    """
    if learnt := [learnt for learnt in inner_loop.optimizer_learns if learnt not in but]:
        raise ValueError(
            f"inner_optimizer: what it learns ({listed(learnt, 3)}) has no gradient with {name} and would stay as it "
            "is; set learn to none and leave out MetaCurvature, or use SecondOrder as the outer gradient"
        )


def refuse_rows(inner_loop: InnerLoop, name: str, why: str) -> None:
    """Refuse weights with a row for each inner step.

    Raises:
        ValueError: There are some.
    """
    if inner_loop.rows:
        raise ValueError(
            f"per_step_weights: {why} with {name}, got {listed(inner_loop.rows, 3)}; leave them out, or use "
            "SecondOrder as the outer gradient"
        )
