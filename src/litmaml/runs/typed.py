"""What was typed on the command line, as far as it takes the place of what a checkpoint records."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from litmaml.runs.arguments import options_in
from litmaml.runs.plain_files import read_text

_WRAPPERS = ("init_args", "dict_kwargs")
SECTIONS = "model|data|trainer|checkpoint|report|preemption|seed_everything|float32_matmul_precision"
"""Beginnings of options that say what is made, and how."""


class Typed:
    """A tree of what was typed: the classes and the values of each part, the latest last."""

    def __init__(self) -> None:
        self.classes: list[str] = []
        self.value: Any = None
        self.given = False
        self.parts: dict[str, Typed] = {}

    def put(self, path: Sequence[str], value: Any) -> None:
        """Add what was typed for an argument: ``--model.model.init_args.ways=5`` is (model, model, ways), 5."""
        path = [part for part in path if part not in _WRAPPERS]
        if path:
            if path == ["class_path"]:
                self.classes.append(str(value))
            else:
                self.parts.setdefault(path[0], Typed()).put(path[1:], value)
        elif isinstance(value, Mapping):
            for key, part in value.items():
                self.put([str(key)], part)
        else:
            self.given, self.value = True, value
            if isinstance(value, str):
                self.classes.append(value)

    def __bool__(self) -> bool:
        """Whether anything was typed here."""
        return bool(self.given or self.classes or self.parts)

    def within(self, key: str) -> Typed:
        return self.parts.get(key, _NOTHING)

    def replaces(self, key: Any, recorded: Any) -> bool:
        """Whether what was typed for an argument leaves nothing of what is recorded, unless it names its class."""
        typed = self.within(str(key))
        is_object = isinstance(recorded, Mapping) and "class_path" in recorded
        return (typed.given and not (is_object and typed.classes)) or bool(typed.classes and not is_object)

    def found(self, recorded: object) -> type | None:
        """The class that is recorded, imported if it was typed by the same name: then it is the user who names it."""
        if not isinstance(recorded, str) or recorded not in self.classes:
            return None
        module, _, name = recorded.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError):
            return None
        return found if isinstance(found, type) else None

    def names_another(self, recorded: object, found: type | Callable[..., Any] | None) -> bool:
        """Whether another class or function was typed than the one recorded, which is ``found`` if it may be made."""
        return any(not _same(name, recorded, found) for name in self.classes)


_NOTHING = Typed()


def _same(typed: str, recorded: object, found: type | Callable[..., Any] | None) -> bool:
    if typed == recorded:
        return found is not None
    if found is None:
        return False
    module, _, name = typed.rpartition(".")
    if not module:
        return name == found.__name__
    return module in sys.modules and getattr(sys.modules[module], name, None) is found


def what_was_typed(arguments: Sequence[str]) -> Typed:
    """The tree of a command's arguments and of the configuration files that they name."""
    typed = Typed()
    for name, value in options_in(arguments):
        if name in ("-c", "--config"):
            typed.put((), _read(value))
        elif re.match(rf"--({SECTIONS})(\.|$)", name) and not name.endswith("+"):
            typed.put(name.removeprefix("--").split("."), _read(value))
    return typed


def _read(value: str) -> Any:
    """What a value stands for: a file, whatever its name is, or text that is YAML, as the command line reads it."""
    try:
        return yaml.safe_load(read_text(Path(value)) if os.path.isfile(value) else value)
    except (ValueError, yaml.YAMLError):
        return value  # the parser will say what is wrong
