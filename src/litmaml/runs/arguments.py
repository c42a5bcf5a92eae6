"""What was typed after a command: options and configuration files in their order, of which the last one counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml


class Arguments:
    """The arguments of a command, read before the parser reads them: where a run lies decides what it parses.

    Args:
        arguments: What follows the command's name.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments = list(arguments)
        self._given = list(options_in(self.arguments))

    @property
    def files(self) -> list[str]:
        """The configuration files."""
        return [value for name, value in self._given if name in ("-c", "--config")]

    def option(self, key: str) -> str | None:
        """What an option was given last; None if it was not typed as an option."""
        return next((value for name, value in reversed(self._given) if name == f"--{key}"), None)

    def value(self, key: str) -> Any:
        """What a dotted key has in the end, by an option or in a file; None if nowhere.

        Raises:
            ValueError: A configuration file is no YAML in UTF-8, or holds no options.
        """
        found = None
        for name, value in self._given:
            if name == f"--{key}":
                found = value
            elif name in ("-c", "--config"):
                content = read_config(value)
                if content is None and os.path.isfile(value):
                    raise ValueError(f"config: {value!r} has nothing in it; leave it out, or write options into it")
                if not isinstance(content, dict | None):
                    raise ValueError(f"config: {value!r} has to hold options by their names, got {str(content)[:60]!r}")
                read = _inner(content, key.split("."))
                found = read if read is not None else found
            elif key.startswith(f"{name[2:]}."):  # a whole group, as YAML or in a file
                group = read_config(value) if os.path.isfile(value) else _yaml(value, name[2:])
                read = _inner(group, key.removeprefix(f"{name[2:]}.").split("."))
                found = read if read is not None else found
        return found

    def without(self, key: str) -> list[str]:
        """The arguments without an option."""
        kept, skip = [], False
        for argument in self.arguments:
            if not skip and argument != f"--{key}" and not argument.startswith(f"--{key}="):
                kept.append(argument)
            skip = argument == f"--{key}"
        return kept


def read_config(file: str) -> Any:
    """The content of a configuration file, or of a configuration that is typed in its place; None if there is none,
    which the parser will say.

    Raises:
        ValueError: It is no YAML in UTF-8.
    """
    if not os.path.isfile(file):  # a long text is no name of one either
        return _typed(file)
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"config: {file!r} is not in UTF-8 ({error.reason}); save it as UTF-8") from error
    return _yaml(text, f"config: {file!r}")


def is_none(value: Any) -> bool:
    """Whether an option's value stands for nothing."""
    return value is None or (isinstance(value, str) and value.lower() in ("none", "null"))


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML would drop the first without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode) and key.value != "<<":
                raise yaml.composer.ComposerError(None, None, f"{key.value!r} stands there twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


def _yaml(text: str, what: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        tabs = "; indent by spaces, not by tabs" if r"character '\t'" in str(error) else ""
        raise ValueError(f"{what}: no YAML: {' '.join(str(error).split())}{tabs}") from error
    except RecursionError as error:
        raise ValueError(f"{what}: no YAML: it is nested too deep") from error


def _typed(text: str) -> Any:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):  # the name of a file that is not there
        return None
    return content if isinstance(content, dict) else None


def with_files(arguments: Sequence[str], other: Callable[[str], str]) -> list[str]:
    """The arguments with another configuration file, as the function has it, in the place of each."""
    found, before = list[str](), ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if before in ("-c", "--config"):
            found.append(other(argument))
        elif option in ("-c", "--config") and equals:
            found.append(f"{option}={other(value)}")
        elif argument.startswith("-c") and argument != "-c":
            found.append(f"-c{other(argument[2:])}")
        else:
            found.append(argument)
        before = "" if before in ("-c", "--config") else argument
    return found


def options_in(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options with their values, typed as ``--name value``, ``--name=value`` or ``-cFILE``."""
    for place, argument in enumerate(arguments):
        if not argument.startswith("-"):
            continue
        if argument.startswith("-c") and argument[2:3] not in ("", "="):
            yield "-c", argument[2:]
            continue
        name, equals, value = argument.partition("=")
        if not equals:
            value = arguments[place + 1] if place + 1 < len(arguments) else ""
        yield name, value


def _inner(mapping: Any, path: Sequence[str]) -> Any:
    """What lies at a path, of which a key may hold several names: ``trainer.max_epochs: 3``."""
    if not path:
        return mapping
    if not isinstance(mapping, dict):
        return None
    found = None
    for name, value in mapping.items():
        names = str(name).split(".")
        if list(path[: len(names)]) == names:
            read = _inner(value, path[len(names) :])
            found = read if read is not None else found
    return found
