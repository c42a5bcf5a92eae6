"""Whether a checkpoint's record of a learner makes the same learner again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from litmaml.inner import InnerOptimizer
from litmaml.inner.batch_norms import settle
from litmaml.inner.loop import InnerLoop
from litmaml.learner.metrics import value_of
from litmaml.learner.trial.agreement import off, rounding_share, sizes
from litmaml.learner.trial.function_modes import in_double
from litmaml.learner.trial.model_copy import copy_of, in_double_precision
from litmaml.learner.trial.modes import modes_kept, put
from litmaml.learner.trial.state import attributes, changed, own_streams
from litmaml.outer import OuterGradient
from litmaml.runs.recipe import build, describe
from litmaml.shown import first_line, listed
from litmaml.tasks import Batch, Tasks, Tree, of_each_form, ordinary, tree_map

_KINDS = {"inner_optimizer": InnerOptimizer, "outer_gradient": OuterGradient}
"""The parts that are no modules."""


def not_in_checkpoints(inner_loop: InnerLoop) -> dict[str, Any]:
    """What model and loss hold beside what a checkpoint does, by name: see ``_beside``."""
    parts = {"model": inner_loop.model, "loss": inner_loop.loss}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in _beside(module).items()}


def others_of(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The names that have another value in the second, or stand in one of them only."""
    return [*changed(dict(first), dict(second)), *sorted(first.keys() ^ second.keys())]


def not_made_again(
    inner_loop: InnerLoop,
    outer_gradient: OuterGradient,
    metrics: Mapping[str, Metric],
    recorded: Mapping[str, Any],
    tasks: Tasks | None,
    evaluated: Sequence[str],
) -> dict[str, str]:
    """The parts of a learner of which the record makes another one, with what is other.

    Each part is made once more from its recipe; the model gets the weights, and predicts the first task's examples,
    in training and in evaluation. Where no task has been seen, what it holds beside weights and buffers is compared.

    Args:
        inner_loop: The parts as they are; in which mode does not matter, and stays.
        outer_gradient: The part that it does not hold.
        metrics: Of the learner; with a task their values on it are compared.
        recorded: Their recipes by the name of the learner's argument. A part without one is passed over.
        tasks: What to predict, if there is something.
        evaluated: The parts that are in evaluation while it trains.

    Raises:
        ValueError: To make the model anew changes what the one that is there predicts.
    """
    found: dict[str, str] = {}
    device = next(inner_loop.parameters()).device
    with torch.inference_mode(False), torch.no_grad(), own_streams(0, device):
        before = _own_predictions(inner_loop, tasks, evaluated)
        for name in ("model", "loss", "inner_optimizer", "outer_gradient"):
            if recorded.get(name) is None:
                continue
            try:
                made = build(recorded[name], _KINDS.get(name, nn.Module), name)
                if name == "model":
                    settle(made, recorded.get("batch_norm"))
            except ValueError as error:  # whatever somebody's constructor raises
                found[name] = first_line(error)
                continue
            _check_untouched(before, _own_predictions(inner_loop, tasks, evaluated), name)
            try:
                if name in _KINDS:
                    part = inner_loop.optimizer if name == "inner_optimizer" else outer_gradient
                    why = _other_values(part, recorded[name], made)
                else:
                    why = _difference(inner_loop, name, recorded[name], made, tasks, evaluated)
            except Exception as error:  # whatever somebody's forward pass raises
                why = first_line(error)
            if why:
                found[name] = why
        if recorded.get("metrics") is not None and tasks is not None and before:
            targets = tree_map(lambda part: part.to(device), ordinary(tasks).query.task(0).targets)
            if why := _other_metrics(metrics, recorded["metrics"], before["evaluation"], targets):
                found["metrics"] = why
    return found


def _check_untouched(before: dict[str, Tensor], after: dict[str, Tensor], name: str) -> None:
    if any(mode not in after or _apart(after[mode], outputs) for mode, outputs in before.items()):
        raise ValueError(
            f"{name}: to make another one of its class, as loading a checkpoint does, changes what the model here "
            "predicts: its constructor puts a part of it where all share it (a global, an attribute of a class, a "
            "default argument); keep it in attributes of the module itself"
        )


def _own_predictions(inner_loop: InnerLoop, tasks: Tasks | None, evaluated: Sequence[str]) -> dict[str, Tensor]:
    """What the model itself, no copy, gives for the first task's query in each mode; nothing without a task."""
    if tasks is None:
        return {}
    device = next(inner_loop.parameters()).device
    inputs = tree_map(lambda part: part.to(device), ordinary(tasks).query.task(0).inputs)

    def predictions() -> Tensor:
        with own_streams(1, device):
            outputs: Tensor = inner_loop.own_predictions(inputs)
        return outputs

    try:
        return _in_each_mode(inner_loop, evaluated, predictions)
    except Exception:  # such as of torch.linalg, once weights are no longer finite: a checkpoint is to be written still
        return {}


def _in_each_mode(inner_loop: InnerLoop, evaluated: Sequence[str], outcome: Callable[[], Tensor]) -> dict[str, Tensor]:
    """An outcome as it is in training and in evaluation."""
    found = {}
    with modes_kept(inner_loop):
        put(inner_loop, evaluated)
        found["training"] = outcome()
        inner_loop.eval()
        found["evaluation"] = outcome()
    return found


def _apart(found: Tensor, wanted: Tensor) -> float:
    """By how much two outcomes of the same operations differ, if that is more than rounding."""
    exact = wanted.dtype in (torch.float64, torch.complex128)
    return off(found, wanted, (1e-6 if exact else rounding_share(wanted.dtype)) * sizes(wanted))


def _other_metrics(
    metrics: Mapping[str, Metric], recipes: Mapping[str, Any], predictions: Tensor, targets: Tree
) -> str:
    """Which metric is another one when it is made of its recipe, or nothing."""
    for name, metric in metrics.items():
        try:
            value = value_of(metric.clone(), predictions, targets)
        except Exception:  # which the trial of the first batch tells of
            continue
        try:
            again = value_of(build(recipes[name], Metric, f"metrics.{name}"), predictions, targets)
        except Exception as error:  # whatever somebody's class raises
            return f"{name}: {first_line(error)}"
        if apart := _apart(again.to(value).float(), value.float()):  # it may be a count
            return (
                f"what {recipes[name]} makes gives another value by {apart:.2g}; keep each argument of "
                f"{type(metric).__name__} as it was given under its own name"
            )
    return ""


def _beside(module: nn.Module) -> dict[str, Any]:
    """What a module holds beside weights and kept buffers: plain attributes, other buffers, the kinds of its parts."""
    found = attributes(module)
    for path, part in module.named_modules():
        found[f"{path} (its class)".strip()] = f"{type(part).__module__}.{type(part).__qualname__}"
        for name in part._non_persistent_buffers_set:
            buffer = part._buffers[name]
            found[f"{path}.{name}".lstrip(".")] = None if buffer is None else buffer.detach().clone()
    return found


def _other_values(part: Any, recipe: Any, made: Any) -> str:
    """What is other in an object without weights that a recipe has made, or nothing."""
    return "" if describe(made) == describe(part) else f"{recipe} makes {describe(made)} of {describe(part)}"


def _difference(
    inner_loop: InnerLoop, name: str, recipe: Any, made: Any, tasks: Tasks | None, evaluated: Sequence[str]
) -> str:
    """What is other in the module that a recipe has made, or nothing."""
    own, again = (copy_of(inner_loop).cpu() for _ in range(2))
    _cast(made.cpu(), like=getattr(own, name))
    if name == "model":
        made.load_state_dict(own.model.state_dict())
    setattr(again, name, made)
    held = [_beside(getattr(loop, name)) for loop in (own, again)]
    # What stands in one of them only may be what earlier forward passes have left: without a task none can tell.
    other = listed(changed(*held) if tasks is None else others_of(*held), 3)
    explained = f"with another {other}" if other else "an attribute has an argument's name and another value"
    remedy = "keep each argument as it was given under its own name, and what changes later in a registered buffer"
    if tasks is None:
        return f"what {recipe} makes is another one ({explained}; {remedy})" if other else ""
    tasks = ordinary(tasks)
    for batch in of_each_form([tasks.query, *tasks.adapting]):
        wanted, found = _outcomes([own, again], name, batch, evaluated)
        for mode in wanted:
            if apart := _apart(found[mode], wanted[mode]):
                by = f" by {apart:.2g}" if apart < float("inf") else ""
                return f"what {recipe} makes gives other numbers{by} in {mode} ({explained}; {remedy})"
    return ""


def _cast(made: nn.Module, like: nn.Module) -> None:
    """Give each weight and buffer the dtype of that of its name, which need not be one for all of them."""
    dtypes = {name: tensor.dtype for name, tensor in _tensors(like)}
    for name, tensor in _tensors(made):
        tensor.data = tensor.data.to(dtypes.get(name, tensor.dtype))


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _outcomes(loops: Sequence[InnerLoop], name: str, batch: Batch, evaluated: Sequence[str]) -> list[dict[str, Tensor]]:
    """What each gives for the first task in each mode: predictions or loss, in float64 where the model takes that."""
    one = tree_map(Tensor.cpu, batch.task(0))

    def of(loop: InnerLoop, examples: Batch) -> dict[str, Tensor]:
        return _in_each_mode(loop, evaluated, lambda: _outcome(loop, name, examples))

    try:
        exact = [in_double_precision(copy_of(loop)) for loop in loops]
        double = tree_map(lambda part: part.double() if part.is_floating_point() else part, one)
        with in_double():
            return [of(loop, double) for loop in exact]
    except Exception:  # such as of a layer that makes float32 of its inputs
        return [of(loop, one) for loop in loops]


def _outcome(loop: InnerLoop, name: str, one: Batch) -> Tensor:
    with own_streams(1, one.device):
        predictions: Tensor = loop.own_predictions(one.inputs)
    outcome: Tensor = predictions if name == "model" else loop.loss(predictions, one.targets)
    return outcome
