"""``--imports``: the modules of the user's own that a command may take classes from."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence

from litmaml.cli.own_modules import find_own_modules, module_names, where_modules_are_found
from litmaml.runs.arguments import options_in, read_config

OPTION = "--imports"
HELP = (
    "Your own modules to import first, such as the one with the checkpoint's model: --imports one two, or one,two; "
    "they are found beside the configuration file, in the current folder and through PYTHONPATH. A checkpoint's own "
    "classes and functions are taken from these alone, and from litmaml, torch and torchmetrics."
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
            named += module_names(value) if has_value else []
            while not has_value and rest and not rest[0].startswith("-"):
                named += module_names(rest.pop(0))
            continue
        others.append(argument)
    for name, value in options_in(others):
        if name in ("-c", "--config"):
            configured += _configured(value)
    find_own_modules(arguments, named)
    for module in (*configured, *named):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the user's module raises
            missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
            raise ValueError(
                f"imports: {module!r} cannot be imported ({type(error).__name__}: {error})"
                + (f"; {where_modules_are_found(module)}" if missing else "; mend it, or name another module")
            ) from error
    return [*others, f"{OPTION}={json.dumps(named)}"] if named else others


def _configured(file: str) -> list[str]:
    try:
        content = read_config(file)
    except OSError:
        return []  # the parser will say what is wrong
    return module_names(content.get("imports") if isinstance(content, dict) else None)
