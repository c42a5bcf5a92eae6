"""What a checkpoint records of a MetaLearner, and the arguments that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torchmetrics import Metric

from litmaml.inner_optimizer import InnerOptimizer
from litmaml.outer_gradient import OuterGradient
from litmaml.recipe import build, describe


def recipe_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of each part of a learner by the name of its argument; one that has none is warned of."""
    recipe: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            recipe[name] = describe(part)
        except TypeError as reason:
            warn_not_rebuilt(name, str(reason))
    return recipe


def warn_not_rebuilt(name: str, reason: str) -> None:
    """Tell that a part has to be given when a checkpoint is loaded."""
    rank_zero_warn(
        f"checkpoints will not rebuild {name} by themselves: {reason}. Load them with "
        f"MetaLearner.load_from_checkpoint(path, {name}=...)"
    )


def arguments_of(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``MetaLearner`` that a checkpoint's recipe stands for; an override takes a part's place."""
    kinds = {
        "model": nn.Module,
        "inner_optimizer": InnerOptimizer,
        "outer_gradient": OuterGradient,
        "loss": nn.Module,
    }
    arguments: dict[str, Any] = {}
    for name, value in {**recipe, **overrides}.items():
        if name in overrides or value is None:
            arguments[name] = value
        elif name in kinds:
            arguments[name] = build(value, kinds[name], name)
        elif name == "metrics":
            arguments[name] = {key: build(part, Metric, f"metrics.{key}") for key, part in value.items()}
        elif name not in ("optimizer", "lr_scheduler"):  # callables of the command line; fit makes them anew
            arguments[name] = value
    if "model" not in arguments:
        raise ValueError(
            "model: the checkpoint has no recipe for it; pass model=..., the module to load the weights into"
        )
    return arguments
