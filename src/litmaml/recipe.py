"""Recipes: what an object was made with, as plain data that a checkpoint may hold, and the way back.

A recipe is ``{"class_path": "litmaml.models.Conv4", "init_args": {"ways": 5, ...}}``, the same that stands in YAML.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

TRUSTED = ("litmaml", "torch", "torchmetrics")
"""Packages whose classes a checkpoint may name without the user having imported them."""

Plain = Any  # None, bool, int, float, str, and lists and dicts of them


def describe(thing: object) -> Plain:
    """The recipe of an object whose constructor arguments stand in attributes of the same names.

    Raises:
        TypeError: An argument cannot be found again, or is no plain value.
    """
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [describe(value) for value in thing]
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    kind = type(thing)
    if isinstance(thing, Tensor):
        raise TypeError(f"a tensor of shape {tuple(thing.shape)} is no plain value")
    if kind.__module__ == "builtins":
        raise TypeError(f"{thing!r} is no plain value")
    arguments = {}
    for name, parameter in _parameters(kind).items():
        if hasattr(thing, name) and parameter.kind is not parameter.VAR_POSITIONAL:
            arguments[name] = describe(getattr(thing, name))
        elif (
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ) or not kind.__module__.startswith(("torch.", "torchmetrics.")):
            # torch's own classes drop arguments that are deprecated; elsewhere a lost one would go unnoticed.
            raise TypeError(
                f"{kind.__module__}.{kind.__qualname__} does not keep its argument {name!r} as an attribute"
            )
    if not arguments and not hasattr(thing, "__dict__"):
        raise TypeError(f"{thing!r} is no plain value")
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    new, init = cast(Any, kind.__new__), cast(Any, kind).__init__
    made = init if new is object.__new__ else new
    if made in (object.__init__, nn.Module.__init__):  # these take anything and keep nothing
        return {}
    _, *parameters = inspect.signature(made).parameters.items()
    return dict(parameters)


def build(recipe: Plain, kind: type, what: str) -> Any:
    """Make the object of a recipe.

    Only classes of packages in ``TRUSTED`` or that the program has imported already are made, and only subclasses
    of ``kind``, as arguments only modules: a checkpoint is somebody else's data, and to construct a class at will
    (``subprocess.Popen``) is to run code.

    Args:
        recipe: What ``describe`` gave, or a ``class_path`` and ``init_args`` from a configuration.
        kind: The class that it has to be an instance of.
        what: What is being built, for the errors.

    Raises:
        ValueError: The recipe names no such class, or one that is not to be trusted.
    """
    if not isinstance(recipe, Mapping) or "class_path" not in recipe:
        raise ValueError(f"{what}: has no recipe (a class_path with init_args), got {recipe!r}")
    module, _, name = str(recipe["class_path"]).rpartition(".")
    if module.partition(".")[0] not in TRUSTED and module not in sys.modules:
        raise ValueError(f"{what}: the class {recipe['class_path']!r} is not loaded; import {module!r} first")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{what}: there is no class {recipe['class_path']!r}") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ValueError(f"{what}: {recipe['class_path']!r} is no {kind.__name__}")
    arguments = {
        key: build(value, nn.Module, f"{what}.{key}") if _is_recipe(value) else value
        for key, value in recipe.get("init_args", {}).items()
    }
    return found(**arguments)


def check_classes(recipe: Plain, kinds: tuple[type, ...], what: str) -> None:
    """Refuse a recipe, of a checkpoint for the command line, that names anything but classes of these kinds.

    The command line makes whatever a configuration names; a checkpoint is somebody else's data.

    Raises:
        ValueError: It names something else, or functions in place of data.
    """
    if isinstance(recipe, Mapping):
        if _is_recipe(recipe):
            module, _, name = str(recipe["class_path"]).rpartition(".")
            try:
                found = getattr(importlib.import_module(module), name)
            except (ImportError, AttributeError, ValueError) as error:
                raise ValueError(f"{what}: there is no class {recipe['class_path']!r}") from error
            if not (isinstance(found, type) and issubclass(found, kinds)):
                raise ValueError(
                    f"{what}: the checkpoint names {recipe['class_path']!r}, which is none of "
                    + ", ".join(kind.__name__ for kind in kinds)
                    + "; it is not made, since that could run code"
                )
        for key, part in recipe.items():
            check_classes(part, kinds, f"{what}.{key}")
    elif isinstance(recipe, Sequence) and not isinstance(recipe, str):
        for part in recipe:
            check_classes(part, kinds, what)


def _is_recipe(value: Plain) -> bool:
    return isinstance(value, Mapping) and "class_path" in value


def is_plain(value: object) -> bool:
    """Whether a checkpoint may hold the value (``torch.load`` with ``weights_only``)."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(part) for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
