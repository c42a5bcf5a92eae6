"""Which classes and functions a file that somebody else made may name, found without running anything of it.

To construct a class at will (``subprocess.Popen``) is to run code, and so is to import a module. So a name is looked
up among what is loaded already and nothing is imported for it; and of large libraries only those parts can be named
whose constructors do nothing but make layers, losses, metrics and optimizers.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import site
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from litmaml.runs.former_names import name_now
from litmaml.runs.signatures import returned_class


class _Part(NamedTuple):
    """A part of a package: how its modules may be spelled, where its classes are defined, and what they are."""

    spelled: str
    defined: str
    kinds: tuple[type, ...]


_OWN = tuple(f"litmaml.{name}" for name in ("data", "inner", "learner.metrics", "models", "outer", "problems", "rl"))
_CHOICES = (
    r"data|inner\.(adam|higher|meta_curvature|proximal|sgd)|learner\.metrics|models|"
    r"outer\.(estimators|evolution|exact|hypergradient|implicit|loss|losses|reptile)|problems|"
    r"rl\.(evolution|gymnasium_tasks|metaworld|mujoco|navigation|outer_losses|policies|rollouts|surrogate|tabular|trust_region)"
)
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
        "litmaml.callbacks": "AdaptiveMetaStep DerivativeOrderAnnealing Regret",
        "litmaml.callbacks.wandb_report": "WandbReport",
        "litmaml.runs.wandb_logger": "ResumableWandbLogger",
    }.items()
    for name in names.split()
}
"""Callbacks, loggers and strategies that can be named: others load, write elsewhere, or start programs."""
_NOT_THE_USERS = {*sys.stdlib_module_names, "higher", "jsonargparse", "lightning", "lightning_fabric", "matplotlib"} | {
    *("gymnasium", "metaworld", "mujoco", "numpy", "PIL", "pytorch_lightning", "rich", "safetensors", "wandb", "yaml")
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
    found, part = _look_up(name, kinds)
    if not isinstance(found, type):
        raise NotNameable("is no class" if found is not None else "is the name of no class that there is")
    if not issubclass(found, kinds):
        raise NotNameable(f"is no {_listed(kinds)}")
    if part is not None and not (re.fullmatch(part.defined, found.__module__) and issubclass(found, part.kinds)):
        raise NotNameable("cannot be named by a file: it may do more than make a layer, loss, metric or optimizer")
    if inspect.isabstract(found):
        raise NotNameable("is abstract: it cannot be made")
    return found


def find_maker(name: object, kinds: tuple[type, ...]) -> type | Callable[..., Any]:
    """The class of a dotted name, or the function of the user's own that makes such an object.

    Functions of installed packages are not called for a file: many of them load others, or download.

    Args:
        name: As in ``find_class``.
        kinds: What it may make.

    Raises:
        NotNameable: There is none, or it may not be called; the message goes on after its name.
    """
    found, part = _look_up(name, kinds)
    if not inspect.isfunction(found) or part is not None:
        return find_class(name, kinds)
    # Also where a module of the user's own has imported it from elsewhere.
    if not is_the_users(found) or _is_installed(found.__module__):
        raise NotNameable(
            "is a function of an installed package, which is not called for a file: it may load others; a function of "
            "your own is, and classes such as litmaml.models.Timm"
        )
    returned = returned_class(found)
    if returned is None or not issubclass(returned, kinds):
        raise NotNameable(f"is a function that does not say that it makes a {_listed(kinds)}; annotate what it returns")
    return found


def _look_up(name: object, kinds: tuple[type, ...]) -> tuple[Any, _Part | None]:
    """What a name stands for, None if for nothing, and the part of a package that it is in."""
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
    return vars(sys.modules[module]).get(last) if module in sys.modules else None, part


def _import(module: str) -> None:
    """Import one of the few modules whose names stand above."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise NotNameable(f"cannot be imported ({error})") from error


def is_the_users(kind: type | Callable[..., Any]) -> bool:
    """Whether a class or function is of the user's own modules, whose arguments may be anything plain."""
    return kind.__module__.partition(".")[0] not in {*_PARTS, *_NOT_THE_USERS}


def users_modules(record: object) -> list[str]:
    """The modules of the user's own that a record names, which have to be imported before anything is made of it."""
    found: dict[str, None] = {}
    name = record.get("class_path") if isinstance(record, Mapping) else record if _is_function(record) else None
    module = name_now(name).rpartition(".")[0] if isinstance(name, str) else ""
    if module and module.partition(".")[0] not in {*_PARTS, *_NOT_THE_USERS} and _NAME.fullmatch(module):
        found[module] = None
    parts = record.values() if isinstance(record, Mapping) else record if isinstance(record, list) else ()
    for part in parts:
        found |= dict.fromkeys(users_modules(part))
    return [*found]


def imports_again(*records: object) -> str:
    """The option, with a blank before it, by which a command imports the user's own modules that records name."""
    modules = users_modules([*records])
    return f" --imports {' '.join(modules)}" if modules else ""


def _is_function(record: object) -> bool:
    """Whether a value of a record is the name of a function that is there."""
    module, _, name = record.rpartition(".") if isinstance(record, str) else ("", "", "")
    return module in sys.modules and inspect.isfunction(vars(sys.modules[module]).get(name))


def python_path(modules: Sequence[str]) -> str:
    """``PYTHONPATH=FOLDERS`` to type before a command that is to find the user's own modules where they were found.

    Nothing, where it finds them by itself: in the current folder, or where packages are.
    """
    folders = {folder: None for module in modules if (folder := _searched(module)) and not _is_installed(module)}
    own, here = os.environ.get("PYTHONPATH", ""), Path.cwd()
    known = {here, *(Path(folder).resolve() for folder in own.split(os.pathsep))}
    others = [os.path.relpath(folder) if folder.is_relative_to(here) else str(folder) for folder in folders
              if folder not in known]  # fmt: skip
    named = shlex.quote(os.pathsep.join(others))
    return f"PYTHONPATH={named}{os.pathsep + '$PYTHONPATH' if own else ''} " if others else ""


def _searched(module: str) -> Path | None:
    """The folder in which Python has found a module, or the package that it is in."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    return path.parents[module.count(".") + (path.stem == "__init__")]


def _is_installed(module: str) -> bool:
    """Whether a module lies where packages are installed, and not among files of the user's own."""
    if (searched := _searched(module)) is None:
        return True
    if any(folder.name in ("site-packages", "dist-packages") for folder in (searched, *searched.parents)):
        return True
    return any(searched.glob("*.dist-info")) or searched in _linked()  # of pip install --target; of an editable one


def _linked() -> set[Path]:
    """The folders that the environment's own .pth files have Python search, as editable installations do."""
    files = (file for folder in site.getsitepackages() for file in Path(folder).glob("*.pth"))
    lines = (line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
    return {Path(line).resolve() for line in lines if line and not line.startswith(("#", "import "))}


def _listed(kinds: tuple[type, ...]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)
