"""Recipes: what an object was made with, as plain data that a checkpoint may hold, and the way back.

A recipe is ``{"class_path": "litmaml.models.Conv4", "init_args": {"ways": 5, ...}}``, the same that stands in YAML.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping, Sequence
from types import FunctionType
from typing import Any

from torch import Tensor

from litmaml.runs.admission import admit
from litmaml.runs.admitted import make
from litmaml.runs.signatures import constructor_parameters, made_by, parameters

Plain = Any  # None, bool, int, float, str, and lists and dicts of them


_LONGEST = 4096
"""Numbers that a recipe holds of one tensor."""


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
    arguments: dict[str, Plain] = {}
    for name, parameter in constructor_parameters(kind).items():
        if hasattr(thing, name) and parameter.kind is not parameter.VAR_POSITIONAL:
            value = getattr(thing, name)
            if parameter.kind is parameter.VAR_KEYWORD and isinstance(value, Mapping):
                arguments |= describe(value)
                continue
            if (maker := _maker(value)) is not None and made_by(parameters(kind)[0].get(name)):
                arguments[name] = maker
                continue
            arguments[name] = value.tolist() if _is_numbers(value, parameter) else describe(value)
        elif (
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        ) or not kind.__module__.startswith(("torch.", "torchmetrics.")):
            # torch's own classes drop arguments that are deprecated; elsewhere a lost one would go unnoticed.
            raise TypeError(
                f"{kind.__module__}.{kind.__qualname__} does not keep its argument {name!r} as an attribute"
            )
    if not arguments and not hasattr(thing, "__dict__"):
        raise TypeError(f"{thing!r} is no plain value")
    return {"class_path": class_path(kind), "init_args": arguments}


def _maker(value: object) -> Plain | None:
    """What stands for a class, with arguments of its own or without, or for a function, each to be called later; None
    where a file could not name it."""
    made, given = value, {}
    if isinstance(value, functools.partial) and not value.args:
        made, given = value.func, value.keywords
    if not isinstance(made, type | FunctionType) or "<" in made.__qualname__:
        return None
    if isinstance(made, type):
        return {"class_path": class_path(made), "init_args": describe(given)}
    return None if given else f"{made.__module__}.{made.__qualname__}"


def class_path(kind: type) -> str:
    """The name that a class is imported by; a class of litmaml by its package, if that gives it too."""
    package = kind.__module__.rpartition(".")[0]
    if package.startswith("litmaml.") and vars(sys.modules[package]).get(kind.__name__) is kind:
        return f"{package}.{kind.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"


def _is_numbers(value: object, parameter: inspect.Parameter) -> bool:
    """Whether an argument is a few numbers given as a tensor, such as a loss's weights of the classes."""
    if not isinstance(value, Tensor) or "Tensor" not in str(parameter.annotation):
        return False
    return value.is_floating_point() and not value.is_meta and 0 < value.numel() <= _LONGEST


def build(recipe: Plain, kind: type, what: str) -> Any:
    """Make the object of a recipe, which may be a stranger's: see ``admission``.

    Args:
        recipe: What ``describe`` gave, or a ``class_path`` and ``init_args`` from a configuration.
        kind: The class that it has to be an instance of.
        what: What is being built, for the errors.

    Raises:
        ValueError: The recipe is none, names what may not be made, or its class refuses the arguments.
    """
    return made(admit(recipe, (kind,), what), what)


def made(admitted: Any, what: str) -> Any:
    """The object of an admitted recipe.

    Raises:
        ValueError: Its class refuses the arguments.
    """
    try:
        return make(admitted)
    except Exception as error:  # of any class: its arguments are a stranger's
        raise ValueError(f"{what}: cannot be made of what is recorded: {error}") from error


def is_plain(value: object) -> bool:
    """Whether a checkpoint may hold the value (``torch.load`` with ``weights_only``)."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(part) for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
