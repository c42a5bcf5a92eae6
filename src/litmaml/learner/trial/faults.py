"""What a trial finds wrong with a model's or a loss's numbers, and which of the two is to blame."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.plain_copy import TaskDerivatives
from litmaml.learner.trial.weight_vectors import distance, furthest, norm
from litmaml.weights import Params

T = TypeVar("T")


class Fault(ValueError):
    """What is wrong, as it is told of the model; ``of_loss``: as it is told of the loss, where that is to blame."""

    def __init__(self, of_model: str, of_loss: str = "") -> None:
        super().__init__(f"model: {of_model}")
        self.of_loss = of_loss or of_model


def blaming(inner_loop: InnerLoop, check: Callable[[], T]) -> T:
    """The outcome of a check; what it finds wrong with the loss alone is told of the loss.

    Args:
        inner_loop: Has another loss while the check is done again, one that is right with any model.
        check: Of this inner loop.

    Raises:
        ValueError: As the check does.
    """
    try:
        return check()
    except ValueError as fault:
        loss, what = inner_loop.loss, getattr(fault, "of_loss", str(fault).removeprefix("model: "))
        try:
            inner_loop.loss = _Plain()
            check()
        except Exception:
            raise ValueError(str(fault)) from fault.__cause__
        finally:
            inner_loop.loss = loss
        raise ValueError(f"loss: {type(loss).__name__}: {what}") from fault


class _Plain(nn.Module):
    """sum_k c_k p_k + |p|^2 / 2 of the predictions p, with some constants c, whatever the targets."""

    def forward(self, predictions: Tensor, _: Tensor) -> Tensor:
        p = predictions.flatten()
        real: Tensor = p.real if p.is_complex() else p
        return (real * torch.arange(len(p), device=p.device).cos()).sum() + (p * p.conj()).real.sum() / 2


def check_gradient(apart: Tensor, gradient: Params, theirs: TaskDerivatives, tolerance: float) -> None:
    """Refuse a loss or a gradient that the model with these weights does not have.

    Args:
        apart: The difference of the losses.
        gradient: By some weights or all.
        theirs: Of the model with the weights written into it.
        tolerance: Relative to its loss and gradient.

    Raises:
        Fault: Naming the weights.
    """
    true = {name: theirs.gradient[name] for name in gradient}
    off = float(apart.abs()) / max(float(theirs.loss.abs()), 1e-300)
    if off > tolerance or distance(gradient, true) > tolerance:
        raise _other_weights(furthest(gradient, true) or [*true])


def check_each(gradient: Params, theirs: TaskDerivatives, tolerance: float, rounding: dict[str, float]) -> None:
    """Refuse a gradient of which a part is off that is too small to be seen in the whole.

    Args:
        gradient: As above.
        theirs: As above.
        tolerance: Relative to the gradient by the same weight.
        rounding: How far that moves, by each weight, when all of them are rounded otherwise.

    Raises:
        Fault: Naming the weights.
    """
    true = {name: theirs.gradient[name] for name in gradient}
    wrong = [n for n in true if norm({n: gradient[n] - true[n]}) > tolerance * norm({n: true[n]}) + 100 * rounding[n]]
    if wrong:
        raise _other_weights(furthest({n: gradient[n] for n in wrong}, {n: true[n] for n in wrong}))


def _other_weights(names: list[str]) -> Fault:
    named = ", ".join(names[:3])
    here = "with other weights in the place of its parameters it does not give what it gives when they are written"
    return Fault(
        f"{here} into it; furthest off is the gradient by {named}: the forward pass uses that weight by a second "
        "reference (a list, a closure, a global, a view made before); use it as an attribute of its module",
        f"it reads weights of the model ({named}) by itself, which inner steps do not change for it; take a "
        "penalty on weights out of it (the inner optimizer and the outer one have weight_decay), or let the model "
        "return what it needs",
    )


def check_not_kept(apart: Tensor, loss: Tensor, tolerance: float) -> None:
    """Refuse a model that gives another loss where its weights stand in the tensors of earlier ones.

    Raises:
        Fault: They are apart by more than the tolerance, relative to the loss.
    """
    if float(apart.abs()) > tolerance * float(loss.abs()):
        kept = (
            "what it keeps of a weight under its id, address or version, which a later inner step's weights get again "
            "once memory is freed"
        )
        raise Fault(f"it uses {kept}; compute that in each forward pass", f"it uses {kept}; compute that in each call")
