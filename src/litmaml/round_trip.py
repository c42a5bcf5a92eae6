"""Whether a checkpoint's record of a learner makes the same learner again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.inner_loop import InnerLoop, ordinary
from litmaml.model_copy import copy_of, in_double_precision
from litmaml.outer_gradient import OuterGradient
from litmaml.recipe import build, describe
from litmaml.shown import first_line, listed
from litmaml.trial_state import attributes, changed, equal, own_streams
from litmaml.types import Tasks


def not_in_checkpoints(inner_loop: InnerLoop) -> dict[str, Any]:
    """What model and loss hold beside what a checkpoint does, by name: see ``_beside``."""
    parts = {"model": inner_loop.model, "loss": inner_loop.loss}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in _beside(module).items()}


def others_of(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The names that have another value in the second, or stand in one of them only."""
    return [*changed(dict(first), dict(second)), *sorted(first.keys() ^ second.keys())]


def not_made_again(inner_loop: InnerLoop, recorded: Mapping[str, Any], tasks: Tasks | None) -> dict[str, str]:
    """The parts of a learner of which the record makes another one, with what is other.

    Each part is made once more from its recipe; the model gets the weights, and predicts the first task's query. Where
    no task has been seen, what it holds beside weights and buffers is compared.

    Args:
        inner_loop: The parts as they are.
        recorded: Their recipes by the name of the learner's argument. A part without one is passed over.
        tasks: What to predict, if there is something.

    Raises:
        ValueError: To make the model anew changes what the one that is there predicts.
    """
    found: dict[str, str] = {}
    device = next(inner_loop.parameters()).device
    with torch.inference_mode(False), torch.no_grad(), own_streams(0, device):
        before = _own_predictions(inner_loop, tasks)
        for name in ("model", "loss", "inner_optimizer", "outer_gradient"):
            if recorded.get(name) is None:
                continue
            try:
                made = build(recorded[name], OuterGradient if name == "outer_gradient" else nn.Module, name)
            except ValueError as error:  # whatever somebody's constructor raises
                found[name] = first_line(error)
                continue
            _check_untouched(before, _own_predictions(inner_loop, tasks), name)
            try:
                why = _difference(inner_loop, name, recorded[name], made, tasks)
            except Exception as error:  # whatever somebody's forward pass raises
                why = first_line(error)
            if why:
                found[name] = why
    return found


def _check_untouched(before: Tensor | None, after: Tensor | None, name: str) -> None:
    if before is not None and (after is None or not equal(before, after, 1e-2)):
        raise ValueError(
            f"{name}: to make another one of its class, as loading a checkpoint does, changes what the model here "
            "predicts: its constructor puts a part of it where all share it (a global, an attribute of a class, a "
            "default argument); keep it in attributes of the module itself"
        )


def _own_predictions(inner_loop: InnerLoop, tasks: Tasks | None) -> Tensor | None:
    """What the model itself, no copy, gives for the first task's query."""
    if tasks is None:
        return None
    inputs = ordinary(tasks).query.inputs[0].clone().to(next(inner_loop.parameters()).device)
    try:
        with own_streams(1, inputs.device):
            predictions: Tensor = inner_loop.model(inputs)
    except Exception:  # such as of torch.linalg, once weights are no longer finite: a checkpoint is to be written still
        return None
    return predictions


def _beside(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside weights and kept buffers: plain attributes, other buffers, the kinds of its parts."""
    found = attributes(module)
    for path, part in module.named_modules():
        found[f"{path} (its class)".strip()] = f"{type(part).__module__}.{type(part).__qualname__}"
        for name in part._non_persistent_buffers_set:
            buffer = part._buffers[name]
            found[f"{path}.{name}".lstrip(".")] = None if buffer is None else buffer.detach().clone()
    return found


def _difference(inner_loop: InnerLoop, name: str, recipe: Any, made: Any, tasks: Tasks | None) -> str:
    """What is other in what a recipe has made, or nothing."""
    if name in ("inner_optimizer", "outer_gradient"):
        part = inner_loop.optimizer if name == "inner_optimizer" else inner_loop.outer_gradient
        return "" if describe(made) == describe(part) else f"{recipe} makes {describe(made)} of {describe(part)}"
    own, again = (copy_of(inner_loop).cpu() for _ in range(2))
    if name == "model":
        made.load_state_dict(own.model.state_dict())
        for module, other in zip(own.model.modules(), made.modules(), strict=False):
            other.training = module.training
    setattr(again, name, made.to(next(own.parameters())))
    held = [_beside(getattr(loop, name)) for loop in (own, again)]
    # What stands in one of them only may be what earlier forward passes have left: without a task none can tell.
    other = listed(changed(*held) if tasks is None else others_of(*held), 3)
    explained = f"with another {other}" if other else "an attribute has an argument's name and another value"
    remedy = "keep each argument as it was given under its own name, and what changes later in a registered buffer"
    if tasks is None:
        return f"what {recipe} makes is another one ({explained}; {remedy})" if other else ""
    outputs, found = _outcomes([own, again], name, tasks)
    if outputs.shape == found.shape and equal(outputs, found, 1e-6 if outputs.dtype == torch.float64 else 1e-2):
        return ""
    apart = f" by {float((outputs - found).abs().max()):.2g}" if outputs.shape == found.shape else ""
    return f"what {recipe} makes gives other numbers{apart} ({explained}; {remedy})"


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
