"""Which classes and functions a file that somebody else made may name, found without running anything of it.

To construct a class at will (``subprocess.Popen``) is to run code, and so is to import a module. So a name is looked
up among what is loaded already and nothing is imported for it; and of large libraries only those parts can be named
whose constructors do nothing but make layers, losses, metrics and optimizers.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from typing import Any, NamedTuple

import torch
from torch import nn

from litmaml.runs.former_names import name_now


class _Part(NamedTuple):
    """A part of a package: how its modules may be spelled, where its classes are defined, and what they are."""

    spelled: str
    defined: str
    kinds: tuple[type, ...]


_OWN = tuple(f"litmaml.{name}" for name in ("data", "inner", "learner.metrics", "models", "outer", "problems"))
_CHOICES = r"data|inner\.(adam|higher|sgd)|learner\.metrics|models|outer\.(estimators|exact|loss)|problems"
"""Where the classes are that a learner is made with, which are not all of the rooms."""
_METRICS = "(aggregation|classification|clustering|nominal|regression|retrieval|segmentation)"
_PARTS = {
    "litmaml": [_Part(rf"({'|'.join(map(re.escape, _OWN))})(\.\w+)*", rf"litmaml\.({_CHOICES})(\..*)?", (object,))],
    "torch": [
        _Part(r"torch\.nn(\.modules(\.\w+)?)?", r"torch\.nn\.modules\..*", (nn.Module,)),
        _Part(
            r"torch\.optim(\.\w+)?", r"torch\.optim\..*", (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
        ),
    ],
    # Others load networks or word lists from the internet when they are made.
    "torchmetrics": [_Part(rf"torchmetrics(\.{_METRICS}(\.\w+)*)?", rf"torchmetrics\.{_METRICS}\b.*", (object,))],
}
_OF_A_RUN = {
    f"{module}.{name}"
    for module, names in {
        "lightning.pytorch.callbacks": (
            "DeviceStatsMonitor EMAWeightAveraging EarlyStopping GradientAccumulationScheduler LearningRateMonitor "
            "ModelCheckpoint ModelSummary RichModelSummary RichProgressBar TQDMProgressBar Timer WeightAveraging"
        ),
        "lightning.pytorch.loggers": "CSVLogger TensorBoardLogger WandbLogger",
        "lightning.pytorch.strategies": "DDPStrategy",
        "litmaml.callbacks": "AdaptiveMetaStep",
        "litmaml.callbacks.wandb_report": "WandbReport",
        "litmaml.runs.wandb_logger": "ResumableWandbLogger",
    }.items()
    for name in names.split()
}
"""Callbacks, loggers and strategies that can be named: others load, write elsewhere, or start programs."""
_NOT_THE_USERS = {*sys.stdlib_module_names, "higher", "jsonargparse", "lightning", "lightning_fabric", "matplotlib"} | {
    *("numpy", "PIL", "pytorch_lightning", "rich", "safetensors", "wandb", "yaml")
}
"""Packages that litmaml itself loads: that they are loaded says nothing about the user's trust."""

FUNCTIONS = {
    f"torch.{name}": getattr(torch, name) for name in ("relu", "sigmoid", "tanh")
} | {
    f"torch.nn.functional.{name}": getattr(nn.functional, name)
    for name in ("elu", "gelu", "leaky_relu", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "tanh")
}  # fmt: skip
"""All functions that can be named."""

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class NotNameable(ValueError):
    """A name that is not looked up, or stands for nothing that may be made."""


def find_class(name: object, kinds: tuple[type, ...]) -> type:
    """The class of a dotted name, a subclass of one of ``kinds``.

    Args:
        name: As ``torch.nn.MSELoss``; of litmaml, torch or torchmetrics, or of a module that the user has imported.
        kinds: What it may be.

    Raises:
        NotNameable: There is no such class, or it may not be made; the message goes on after its name.
    """
    if not isinstance(name, str) or len(name) > 300 or not _NAME.fullmatch(name):
        raise NotNameable("is no name of a class")
    name = name_now(name)
    module, _, last = name.rpartition(".")
    top = module.partition(".")[0]
    part = next((part for part in _PARTS.get(top, ()) if re.fullmatch(part.spelled, module)), None)
    if name in _OF_A_RUN:
        _import(module)
    elif top in _PARTS:
        if part is None:
            raise NotNameable("cannot be named by a file: it may do more than make a layer, loss, metric or optimizer")
        for home in (own for own in (*_OWN, "torchmetrics") if module == own or module.startswith(f"{own}.")):
            _import(home)
    elif module not in sys.modules:
        raise NotNameable(f"is not loaded, and nothing is imported for a file; type --imports {module or 'MODULE'}, "
                          f"or in Python import {module or 'its module'} first")  # fmt: skip
    elif top in _NOT_THE_USERS:
        raise NotNameable(f"is no {_listed(kinds)} of yours, of litmaml, torch or torchmetrics")
    # Not by getattr: a module may run code to make a name.
    found: Any = vars(sys.modules[module]).get(last) if module in sys.modules else None
    if not isinstance(found, type):
        raise NotNameable("is no class" if found is not None else "is the name of no class that there is")
    if not issubclass(found, kinds):
        raise NotNameable(f"is no {_listed(kinds)}")
    if part is not None and not (re.fullmatch(part.defined, found.__module__) and issubclass(found, part.kinds)):
        raise NotNameable("cannot be named by a file: it may do more than make a layer, loss, metric or optimizer")
    if inspect.isabstract(found):
        raise NotNameable("is abstract: it cannot be made")
    return found


def _import(module: str) -> None:
    """Import one of the few modules whose names stand above."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise NotNameable(f"cannot be imported ({error})") from error


def is_the_users(kind: type) -> bool:
    """Whether a class is of the user's own modules, whose arguments may be anything plain."""
    return kind.__module__.partition(".")[0] not in {*_PARTS, *_NOT_THE_USERS}


def _listed(kinds: tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)
