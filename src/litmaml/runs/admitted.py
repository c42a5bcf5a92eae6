"""What was let in of a record: a tree of its own, of which objects are made, or plain data again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from torch import Tensor


class NotAdmitted(ValueError):
    """A record that says something else than how to make an object."""


@dataclass
class Recipe:
    """An object to be made.

    kind: its class, or the function that makes it.
    arguments: what it is made with, admitted too.
    name: the class as the record names it; None for a dataclass that is written as its fields alone.
    later: whether some argument comes later, as an optimizer's weights do.
    further: the arguments that ``kind`` takes by ``**kwargs``.
    """

    kind: type | Callable[..., Any]
    arguments: dict[str, Any]
    name: str | None
    later: bool = False
    further: frozenset[str] = frozenset()


@dataclass
class Named:
    """A function, a class or a member of an enumeration that is an argument itself."""

    thing: Any
    name: str


class Choice(str):
    """A text that is one of those in the annotation, and so no stranger's."""


def make(admitted: Any) -> Any:
    """The object, or the value, that was admitted."""
    if isinstance(admitted, Recipe):
        arguments = {key: make(value) for key, value in admitted.arguments.items()}
        return functools.partial(admitted.kind, **arguments) if admitted.later else admitted.kind(**arguments)
    if isinstance(admitted, Named):
        return admitted.thing
    if isinstance(admitted, dict):
        return {key: make(value) for key, value in admitted.items()}
    if isinstance(admitted, list):
        return [make(value) for value in admitted]
    return str(admitted) if isinstance(admitted, Choice) else admitted


def write(admitted: Any, seal: Callable[[str], str]) -> Any:
    """What was admitted as plain data again, with ``seal`` of every text that came from the record."""
    if isinstance(admitted, Recipe):
        arguments = write(admitted.arguments, seal)
        if admitted.name is None:
            return arguments
        written: dict[str, Any] = {"class_path": admitted.name, "init_args": {}}
        for key, value in arguments.items():
            written.setdefault("dict_kwargs" if key in admitted.further else "init_args", {})[key] = value
        return written
    if isinstance(admitted, Named):
        return admitted.name
    if isinstance(admitted, dict):
        return {key: write(value, seal) for key, value in admitted.items()}
    if isinstance(admitted, list):
        return [write(value, seal) for value in admitted]
    if isinstance(admitted, Choice):
        return str(admitted)
    if isinstance(admitted, Tensor):
        return admitted.tolist()
    return seal(str(admitted)) if isinstance(admitted, str | PurePath) else admitted


def short(value: object) -> str:
    """A value for an error message: never long, never with what a terminal would obey."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value[:80]) if isinstance(value, str | bytes) else ascii(value)
    return text if len(text) <= 100 else text[:97] + "..."
