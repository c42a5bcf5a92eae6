"""``--imports``: the modules of the user's own that a command may take classes from."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence

from litmaml.runs.arguments import read_config

OPTION = "--imports"
HELP = (
    "Your own modules to import first, such as the one with the checkpoint's model: --imports one two, or one,two. A "
    "checkpoint's own classes are taken from these alone, and from litmaml, torch and torchmetrics."
)


def import_named(arguments: Sequence[str]) -> list[str]:
    """Import what ``--imports`` names, and the configuration files; the arguments with one option in place of all.

    Raises:
        ValueError: A module cannot be imported, or a configuration file is no YAML, or has a key twice.
    """
    named, others, configured = [], [], []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, has_value, value = argument.partition("=")
        if name in (OPTION, f"{OPTION}+"):
            named += _names(value) if has_value else []
            while not has_value and rest and not rest[0].startswith("-"):
                named += _names(rest.pop(0))
            continue
        others.append(argument)
        if name in ("-c", "--config"):
            configured += _configured(value if has_value else (rest or [""])[0])
    for module in (*configured, *named):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the user's module raises
            raise ValueError(
                f"imports: {module!r} cannot be imported ({type(error).__name__}: {error}); give the name of a module "
                "that Python finds, with its folder in PYTHONPATH"
            ) from error
    return [*others, f"{OPTION}={json.dumps(named)}"] if named else others


def _configured(file: str) -> list[str]:
    try:
        content = read_config(file)
    except OSError:
        return []  # the parser will say what is wrong
    names = content.get("imports") if isinstance(content, dict) else None
    return _names(names) if isinstance(names, str) else [str(name) for name in names or ()]


def _names(text: str) -> list[str]:
    return [name for part in text.strip("[] ").split(",") if (name := part.strip(" '\""))]
