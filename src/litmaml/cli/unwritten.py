"""Defaults of classes that no file can hold, such as a partial function: nothing is recorded in their place."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

_UNWRITTEN = "Unable to serialize instance "
"""How the parser writes such a value, which it cannot read again."""


def without_defaults(value: Any) -> Any:
    """A written configuration without the arguments that stand at a default that could not be written.

    What was typed and cannot be written stays, so that it is not taken for the default.
    """
    if isinstance(value, list):
        return [without_defaults(part) for part in value]
    if not isinstance(value, dict):
        return value
    found = {key: without_defaults(part) for key, part in value.items()}
    arguments = found.get("init_args")
    if isinstance(arguments, dict) and any(map(_is_unwritten, arguments.values())):
        defaults = {(name, f"{_UNWRITTEN}{default}") for name, default in _defaults(found.get("class_path"))}
        found["init_args"] = {key: part for key, part in arguments.items()
                              if not (_is_unwritten(part) and (key, part) in defaults)}  # fmt: skip
    return found


def _is_unwritten(value: object) -> bool:
    return isinstance(value, str) and value.startswith(_UNWRITTEN)


def _defaults(class_path: object) -> Iterator[tuple[str, Any]]:
    """The defaults of a class, which may hand arguments on to those that it is derived from, or of a function."""
    module, _, name = str(class_path).rpartition(".")
    made = getattr(sys.modules.get(module), name, None)
    for owner in made.__mro__[:-1] if isinstance(made, type) else [made] if callable(made) else []:
        for parameter in inspect.signature(owner).parameters.values():
            yield parameter.name, parameter.default
