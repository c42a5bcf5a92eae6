"""Where modules of the user's own are found: beside the configuration that names them, or in the current folder."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from litmaml.runs.arguments import options_in
from litmaml.runs.plain_files import read_text
from litmaml.runs.typed import SECTIONS

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def find_own_modules(arguments: Sequence[str], imports: Sequence[str]) -> None:
    """Let Python look for the modules that were typed also where the user's own lie, after all other places.

    A program that is installed does not look into the current folder, which may be a stranger's. So a folder is added
    only where a name was typed, on the command line or in a configuration file, that no other place has and that this
    folder does: what a checkpoint names is looked for nowhere.

    Args:
        arguments: Those of a command.
        imports: The modules that are typed as such.
    """
    here = Path.cwd()
    for name, folder in [*((name, here) for name in imports), *_typed_names(arguments, here)]:
        top = name.partition(".")[0]
        if _is_found(top):
            continue
        for place in (folder, here):
            if _holds(place, name.split(".")):
                sys.path.append(str(place))
                importlib.invalidate_caches()
                break


def _typed_names(arguments: Sequence[str], here: Path) -> Iterator[tuple[str, Path]]:
    """The dotted names in what was typed, with the folder of the file that they stand in."""
    for option, value in options_in(arguments):
        if option in ("-c", "--config"):
            yield from _names_in_file(here / value, ()) if os.path.isfile(value) else _names(_yaml(value), here, ())
        elif re.match(rf"--(({SECTIONS}|loss|network|env)(\.|\+?$))", option) and option != "--checkpoint":
            yield from _names(_yaml(value), here, ())


def _names(value: Any, folder: Path, seen: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _names(part, folder, seen)
    elif isinstance(value, str):
        if value.endswith((".yaml", ".yml")) and (folder / value).is_file():  # a part of the configuration
            yield from _names_in_file(folder / value, seen)
        elif _DOTTED.fullmatch(value) and not (folder / value).exists():
            yield value, folder


def _names_in_file(file: Path, seen: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    if file not in seen:
        content = _yaml(file)
        named = content.get("imports") if isinstance(content, dict) else None
        for name in module_names(named):
            yield name, file.parent
        yield from _names(content, file.parent, (*seen, file))


def _yaml(text: str | Path) -> Any:
    try:
        return yaml.safe_load(read_text(text) if isinstance(text, Path) else text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return None  # the parser will say what is wrong


def module_names(given: Any) -> list[str]:
    """The modules that ``imports`` of a configuration, or the option, names."""
    if isinstance(given, str):
        return [name for part in given.strip("[] ").split(",") if (name := part.strip(" '\""))]
    return [str(name) for name in given] if isinstance(given, list | tuple) else []


def _is_found(module: str) -> bool:
    try:
        return module in sys.modules or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _holds(folder: Path, parts: Sequence[str]) -> bool:
    """Whether a folder has the module that a name begins with."""
    first = folder / parts[0]
    if first.with_suffix(".py").is_file() or (first / "__init__.py").is_file():
        return True
    return len(parts) > 1 and ((first / f"{parts[1]}.py").is_file() or (first / parts[1] / "__init__.py").is_file())


def where_modules_are_found(module: str) -> str:
    """What to do where there is no such module, for an error."""
    return (
        f"put {module.partition('.')[0]}.py beside the configuration file or into the current folder, or name its "
        "folder in PYTHONPATH; if it is a package, install it"
    )
