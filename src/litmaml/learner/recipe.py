"""What a checkpoint records of a MetaLearner, and the arguments that it stands for."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from litmaml.runs.admission import admit_arguments
from litmaml.runs.proportion import check_size
from litmaml.runs.recipe import describe, made

NEEDED = {
    "model": "the module to load the weights into",
    "inner_optimizer": "as in training",
    "loss": "as in training",
}
"""Parts that every checkpoint records if it can, without which a learner would adapt otherwise."""


def recipe_of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of each part of a learner by the name of its argument; one that has none is warned of."""
    recipe: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            recipe[name] = describe(part)
        except TypeError as reason:
            warn_not_rebuilt(name, str(reason))
    return recipe


@contextmanager
def not_warned_of(names: Collection[str]) -> Iterator[None]:
    """Make a learner of which these parts are recorded already."""
    with warnings.catch_warnings():
        for name in names:
            warnings.filterwarnings("ignore", message=f"checkpoints will not rebuild {name} ")
        yield


def warn_not_rebuilt(name: str, reason: str) -> None:
    """Tell that a part has to be given when a checkpoint is loaded."""
    rank_zero_warn(
        f"checkpoints will not rebuild {name} by themselves: {reason}. Load them with "
        f"MetaLearner.load_from_checkpoint(path, {name}=...), or on the command line with -c RUN/config.yaml"
    )


def arguments_of(learner: type, saved: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a learner's class that a checkpoint's recipe stands for; an override takes a part's place.

    Raises:
        ValueError: The recipe names something that may not be made, or has no model.
    """
    recipe: Mapping[str, Any] = saved["hyper_parameters"]
    # The outer optimizer is a callable of the command line: fit makes it anew.
    others = {name: part for name, part in recipe.items() if name not in ("optimizer", "lr_scheduler", *overrides)}
    admitted = admit_arguments(learner, others, "checkpoint")
    check_size(admitted, saved["state_dict"], "checkpoint.")
    arguments = {name: made(part, f"checkpoint.{name}") for name, part in admitted.items()}
    arguments |= overrides
    for name, what in NEEDED.items():
        if name not in arguments:
            raise ValueError(
                f"{name}: the checkpoint has no recipe for it; pass {name}=..., {what}, to "
                "MetaLearner.load_from_checkpoint, whose learner adapt takes too; on the command line give the run's "
                "configuration, -c RUN/config.yaml"
            )
    return arguments
