"""Whether a checkpoint's record of a learner makes the same learner again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.inner import InnerOptimizer
from litmaml.inner.loop import InnerLoop, ordinary
from litmaml.model_copy import copy_of, in_double_precision
from litmaml.outer import OuterGradient
from litmaml.recipe import build, describe
from litmaml.shown import first_line
from litmaml.tasks import Tasks
from litmaml.trial_state import equal, own_streams


def not_made_again(
    inner_loop: InnerLoop, outer_gradient: OuterGradient, recorded: Mapping[str, Any], tasks: Tasks
) -> dict[str, str]:
    """The parts of a learner of which the record makes another one, with what is other.

    Each part is made once more from its recipe; the model gets the weights, and predicts the first task's query.

    Args:
        inner_loop, outer_gradient: The parts as they are.
        recorded: Their recipes by the name of the learner's argument. A part without one is passed over.
        tasks: What to predict.
    """
    found: dict[str, str] = {}
    with torch.inference_mode(False), torch.no_grad(), own_streams(0, tasks.query.inputs.device):
        for name in ("model", "loss", "inner_optimizer", "outer_gradient"):
            if recorded.get(name) is None:
                continue
            try:
                why = _difference(inner_loop, outer_gradient, name, recorded[name], tasks)
            except Exception as error:  # whatever somebody's constructor or forward pass raises
                why = first_line(error)
            if why:
                found[name] = why
    return found


def _difference(inner_loop: InnerLoop, outer_gradient: OuterGradient, name: str, recipe: Any, tasks: Tasks) -> str:
    """What is other, or nothing."""
    plain = {"inner_optimizer": inner_loop.optimizer, "outer_gradient": outer_gradient}
    kind = {"inner_optimizer": InnerOptimizer, "outer_gradient": OuterGradient}.get(name, nn.Module)
    made = build(recipe, kind, name)
    if part := plain.get(name):
        return "" if describe(made) == describe(part) else f"{recipe} makes {describe(made)} of {describe(part)}"
    own, again = (copy_of(inner_loop).cpu() for _ in range(2))
    if name == "model":
        made.load_state_dict(own.model.state_dict())
        for module, other in zip(own.model.modules(), made.modules(), strict=False):
            other.training = module.training
    setattr(again, name, made.to(next(own.parameters())))
    outputs, found = _outcomes([own, again], name, tasks)
    if outputs.shape == found.shape and equal(outputs, found, 1e-6 if outputs.dtype == torch.float64 else 1e-2):
        return ""
    apart = f" by {float((outputs - found).abs().max()):.2g}" if outputs.shape == found.shape else ""
    return f"what {recipe} makes gives other numbers{apart}; an attribute has an argument's name and another value"


def _outcomes(loops: Sequence[InnerLoop], name: str, tasks: Tasks) -> list[Tensor]:
    """What each gives for the first task: its predictions or its loss, in float64 where the model takes that."""
    inputs, targets = (part[0].cpu() for part in ordinary(tasks).query[:2])
    try:
        exact = [in_double_precision(copy_of(loop)) for loop in loops]
        x, y = (part.double() if part.is_floating_point() else part for part in (inputs, targets))
        return [_outcome(loop, name, x, y) for loop in exact]
    except (RuntimeError, TypeError, ValueError):  # such as of a layer that makes float32 of its inputs
        return [_outcome(loop, name, inputs, targets) for loop in loops]


def _outcome(loop: InnerLoop, name: str, inputs: Tensor, targets: Tensor) -> Tensor:
    with own_streams(1, inputs.device):
        predictions: Tensor = loop.model(inputs.clone())
    outcome: Tensor = predictions if name == "model" else loop.loss(predictions, targets)
    return outcome
