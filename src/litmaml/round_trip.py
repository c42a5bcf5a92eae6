"""Whether a checkpoint's record of a learner makes the same learner again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.inner_loop import InnerLoop, ordinary
from litmaml.model_copy import copy_of
from litmaml.outer_gradient import OuterGradient
from litmaml.recipe import build, describe
from litmaml.trial_state import equal, own_streams
from litmaml.types import Tasks


def not_made_again(inner_loop: InnerLoop, recorded: Mapping[str, Any], tasks: Tasks) -> dict[str, str]:
    """The parts of a learner of which the record makes another one, with what is other.

    Each part is made once more from its recipe; the model gets the weights, and predicts the first task's query.

    Args:
        inner_loop: The parts as they are.
        recorded: Their recipes by the name of the learner's argument. A part without one is passed over.
        tasks: What to predict.
    """
    found: dict[str, str] = {}
    with torch.inference_mode(False), torch.no_grad(), own_streams(0, tasks.query.inputs.device):
        for name in ("model", "loss", "inner_optimizer", "outer_gradient"):
            if recorded.get(name) is None:
                continue
            try:
                why = _difference(inner_loop, name, recorded[name], tasks)
            except Exception as error:  # whatever somebody's constructor or forward pass raises
                why = (str(error).splitlines() or [""])[0] or type(error).__name__
            if why:
                found[name] = why
    return found


def _difference(inner_loop: InnerLoop, name: str, recipe: Any, tasks: Tasks) -> str:
    """What is other, or nothing."""
    made = build(recipe, OuterGradient if name == "outer_gradient" else nn.Module, name)
    if name in ("inner_optimizer", "outer_gradient"):
        part = inner_loop.optimizer if name == "inner_optimizer" else inner_loop.outer_gradient
        return "" if describe(made) == describe(part) else f"{recipe} makes {describe(made)} of {describe(part)}"
    model, loss = copy_of(inner_loop.model), copy_of(inner_loop.loss)
    outputs = _predicted(model, tasks)
    if name == "model":
        made.load_state_dict(model.state_dict())
        made.to(next(model.parameters()))
        for own, again in zip(model.modules(), made.modules(), strict=False):
            again.training = own.training
        found = _predicted(made, tasks)
    else:
        targets = tasks.query.targets[0]
        found, outputs = made.to(outputs.device)(outputs, targets), loss(outputs, targets)
    if outputs.shape == found.shape and equal(outputs, found, 1e-4):
        return ""
    apart = f" by {float((outputs - found).abs().max()):.2g}" if outputs.shape == found.shape else ""
    return f"what {recipe} makes gives other numbers{apart}; an attribute has an argument's name and another value"


def _predicted(model: nn.Module, tasks: Tasks) -> Tensor:
    inputs = ordinary(tasks).query.inputs[0].clone()
    with own_streams(1, inputs.device):
        outputs: Tensor = model(inputs)
    return outputs
