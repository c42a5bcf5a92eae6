"""Errors of the command line in a line that names the option as it is typed; LITMAML_DEBUG=1 shows where they arose."""

from __future__ import annotations

import inspect
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from typing import Any, Literal, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from litmaml.cli.class_names import no_class, no_maker, other_kind
from litmaml.cli.own_modules import where_modules_are_found
from litmaml.cli.short_help import ShortHelp
from litmaml.cli.usual_names import meant_by
from litmaml.runs.arguments import Arguments, read_config
from litmaml.runs.former_names import argument_now
from litmaml.shown import printable

_LONGEST = 700
_LOST = r"\bgloo\b|\bNCCL\b|\bc10d\b|TCPStore"
_END = r"(?= - | Given value type: |\. Got value: |$)"
"""Of a part of what jsonargparse says, which goes on with the other types that an option might have had."""
_THE_USERS = (ValueError, OSError, ImportError, FloatingPointError, MisconfigurationException)
"""What is raised of wrong options and data; others are said with their names."""


@contextmanager
def errors_in_one_line(command: str, arguments: Sequence[str]) -> Iterator[None]:
    """End the program with status 1 and one line on an error, with 130 on Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as ending:
        # Lightning makes a status of its own of Ctrl-C.
        if ending.code == 1 and isinstance(ending.__context__, KeyboardInterrupt):
            sys.exit(130)
        raise
    except Exception as error:
        if debugging():
            raise
        line = " ".join(_named(str(error), arguments).split())
        if isinstance(error, RuntimeError) and re.search(_LOST, line):
            line = f"another process of this run has ended or does not answer; what it said itself tells why ({line})"
        elif not isinstance(error, _THE_USERS):
            line = f"{type(error).__name__}: {line} (LITMAML_DEBUG=1 shows where)"
        if rank := getattr(rank_zero_only, "rank", 0):
            # Whole at once, lest the lines of several processes run into each other.
            sys.stderr.write(f"litmaml {command} (process {rank}): {_short(line)}\n")
            sys.exit(1)
        sys.exit(f"litmaml {command}: {_short(line)}")


def debugging() -> bool:
    """Whether errors are shown with where they arose."""
    return os.environ.get("LITMAML_DEBUG", "0") not in ("", "0")


class OneLineErrors(ShortHelp):
    """A parser that tells what is wrong with an option in one line, without all the others.

    An option has to be typed whole: what reads the arguments before this parser knows no abbreviations.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        # Of LightningCLI's commands it is called so too.
        return super().add_argument(*(("-c", *args) if args == ("--config",) else args), **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # of a class within an option: its own parser is told, and tells
            super().error(message, ex)
        if debugging() and ex is not None:
            traceback.print_exception(ex)
        name = self.prog.removesuffix(" [options]").split(" [")[0]
        sys.stderr.write(f"{name}: {_short(_told(message, _leaves(self)))}\n")
        sys.exit(2)


class OneLineParser(OneLineErrors, LightningArgumentParser):
    """The parser of LightningCLI with errors in one line."""


def _told(message: str, options: dict[str, Any]) -> str:
    """What jsonargparse says over several lines, by the option's whole name."""
    flat = " ".join(message.split())
    keys = re.findall(r'Parser key "([^"]+)"', flat)
    key = ".".join(k for place, k in enumerate(keys) if k not in keys[:place]) or "arguments"
    made = re.search(r"class_path[ =]'([^']+)'", flat)
    below = [f"{key}.{name}" for name in _parameters_of(made[1])] if made else []
    open_ended = made is not None and _takes_others(made[1])
    if found := re.search(r"unrecognized arguments: ([^-\s]\S*)", flat):
        return f"{found[1]}: is no option; a configuration is given by -c {found[1]}, an option by --NAME=VALUE"
    if found := re.search(r"unrecognized arguments: (?:--?)?([^\s=]+)|does not accept option '([^']+)'", flat):
        name = found[1] or found[2]
        return _no_option(f"{key}.{name}", below, True, open_ended) if keys and made else _no_option(name, options)
    if found := re.search(rf"arguments are required: (.+?){_END}", flat):
        names = re.sub(r"\b(?:fit|validate|test|predict)\.", "", found[1])
        if keys:  # of a class that was named
            names = ", ".join(f"{key}.{name}" for name in names.split(", "))
        return f"{names}: have to be given, as options or in a configuration file"
    if found := re.search(r"(?:Option|Key) '([^']+)' is not (?:accepted|expected)", flat):
        return _no_option(f"{key}.{found[1]}", below, made is not None, open_ended)
    if keys and (found := re.search(r'Unable to load config "(.*)"$', flat)):
        group = key.rpartition(".")[2]
        inner = [name.removeprefix(f"{key}.{group}.") for name in below if name.startswith(f"{key}.{group}.")]
        named = f"{key}.{(inner or ['NAME'])[0]}"
        return f"{key}: is a group of options, got {found[1]!r}; give them by their names, such as {named}"
    hint = getattr(options.get(key.partition(".init_args")[0]), "_typehint", None)
    if found := re.search(r"No module named '([^']+)'", flat):
        return f"{key}: there is no module {found[1]!r}; {where_modules_are_found(found[1])}"
    if found := re.search(r"Expected a path but (?:\S*/)?(\w+)\.py ", flat):
        return f"{key}: got a file; name a class in it by its import path, {found[1]}.CLASS"
    if found := re.search(
        r"Expected a dot import path string: (\S+)|class_path '([^']+)': (?:module|Import|\S+ is not|Not a valid)"
        r"|[Ii]mport path '?([\w.]+)'? does not|Discard init_args given with class_path: (\S+)",
        flat,
    ):
        return no_class(key, next(group for group in found.groups() if group), hint)
    if found := re.search(r"Expected '([\w.]+)' to be a function that returns <class '(\w+)'>", flat):
        return f"{key}: {no_maker(found[1], found[2])}"
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", flat):
        return no_class(key, f"{found[1]}.{found[2]}", hint)
    if choices := _choices(hint):
        return f"{key}: got {_value(flat)}; one of {', '.join(map(str, choices))}"
    if found := re.search(r"Expected an? typing\.Literal\[(.+?)\]\. Got value: ", flat):
        return f"{key}: got {_value(flat)}; one of {found[1].replace(chr(39), '')}"
    if found := re.search(r"Not a valid subclass of (\w+)\. Got value: (.+?)(?: Subclass types|$)", flat):
        return f"{key}: expected a {found[1]} by its class_path, got {found[2]}"
    if found := re.search(
        rf"Expected an? (?!path but)(<class '[^']+'>|[\w.\[\], ']+?)(?:{_END}.*)?\. Got value: ", flat
    ):
        return f"{key}: expected {_kind(found[1])}, got {_value(flat)}{_unquoted(_kind(found[1]), _value(flat))}"
    if found := re.search(r"Union subtypes Subtypes: \[(.*?)\] Errors", flat):
        if why := other_kind(_value(flat).strip("'"), hint):
            return f"{key}: {why}"
        return f"{key}: expected {_kind(str(hint or found[1].replace(', ', ' | ')))}, got {_value(flat)}"
    return f"{key}: {re.sub(r'Parser key .[^ ]+: ', '', flat).removeprefix('- ')}" if key != "arguments" else flat


def _no_option(key: str, options: Collection[str], of_class: bool = False, open_ended: bool = False) -> str:
    group, _, last = key.rpartition(".")
    if now := argument_now(last, {name.removeprefix(f"{group}.") for name in options}):
        return f"{key}: there is no such option any more; it is {group}.{now} now"
    if open_ended:
        return (
            f"{key}: there is no such option; where it is taken by **kwargs, it is {group}.dict_kwargs.{last} (in YAML "
            "dict_kwargs beside init_args)"
        )
    near = meant_by(key, options, of_class)
    return f"{key}: there is no such option" + (f"; did you mean {near}?" if near else "; --help lists them")


def _choices(hint: Any) -> list[Any]:
    """The values of an option that has only some."""
    if get_origin(hint) is Literal:
        return [*get_args(hint)]
    parts = [arg for arg in get_args(hint) if arg is not type(None)]
    if parts and all(get_origin(part) is Literal for part in parts):
        return list(dict.fromkeys(str(value) for part in parts for value in get_args(part)))
    return []


def _value(flat: str) -> str:
    found = re.search(rf"Given value type: (?:<class ')?str(?:'>)? Given value: (.*?){_END}", flat)  # as it was typed
    found = found or re.search(rf"(?:Given|Got) value: (.*?){_END}", flat)
    return repr(found[1]) if found else "another value"


def _unquoted(kind: str, value: str) -> str:
    """What to do about a number that was given as a text."""
    with suppress(ValueError):
        if number := {"int": int, "float": float}.get(kind.removesuffix(" | None")):
            number(value.strip("'"))
            return "; a number stands without quotes"
    return ""


def _kind(text: str) -> str:
    short = re.sub(r"<class '([^']+)'>", lambda m: m[1].rpartition(".")[2], text)
    return short.replace("typing.", "").replace("NoneType", "None")


def _takes_others(class_path: str) -> bool:
    """Whether a class or function takes arguments that its signature does not name."""
    module, _, name = class_path.rpartition(".")
    try:
        taken = inspect.signature(getattr(sys.modules[module], name)).parameters.values()
    except (KeyError, AttributeError, TypeError, ValueError):
        return False
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken)


def _parameters_of(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        taken = inspect.signature(getattr(sys.modules[module], name)).parameters
    except (KeyError, AttributeError, TypeError, ValueError):
        return []
    groups = {name: parameter.default for name, parameter in taken.items() if is_dataclass(parameter.default)}
    return [*taken, *(f"{name}.{field.name}" for name, default in groups.items() for field in fields(default))]


def _leaves(parser: ArgumentParser) -> dict[str, Any]:
    """The options of a parser and its commands by their names."""
    found = {name[2:]: action for name, action in parser._option_string_actions.items() if name.startswith("--")}
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                if isinstance(command, ArgumentParser):
                    found = _leaves(command) | found
    return found


def _named(message: str, arguments: Sequence[str]) -> str:
    """The message with its argument's whole name, where just one that was typed fits."""
    if "Union subtypes" in message:  # an error in making an object that may also be null
        errors = re.split(r"\n\s*- ", message.partition("Errors:")[2].partition("Given value type")[0])
        told = [e.strip() for e in errors if e.strip() and not re.match(r"\s*Expected an? <class '\w+'>", e)]
        message = next((e for e in told if "NoneType" not in e), message)
    given = Arguments(arguments)
    options = {argument[2:].partition("=")[0] for argument in arguments if argument.startswith("--")}
    if found := re.match(r"Problem with given class_path '([^']+)':?\s*(.*)", message, re.DOTALL):
        early = "Module.__init__() call" in found[2]
        remedy = "; its __init__ has to begin with super().__init__()" if early else ""
        option = next((f"{key}: " for key in sorted(options) if given.option(key) == found[1]), "")
        return f"{option}{found[1]}: {found[2]}{remedy}"
    if found := re.match(r"([\w.]+)(?=:|=| must | has )", message):
        typed = [key for key in options if f".{key}".endswith(f".{found[1]}")]
        if not typed:
            with suppress(ValueError):
                keys = [key for file in given.files for key in _keys(read_config(file))]
                typed = [key for key in keys if key.endswith(f".{found[1]}")]
        if len({*typed}) == 1:
            return typed[0] + message[found.end() :]
        if "." not in found[1]:
            return message
    if re.match(r"[\w.]+: ", message):
        return message
    words = {key: key.rpartition(".")[2] for key in options}
    values = {key: value for key in options if re.fullmatch(r"[^\W\d]\w+", value := str(given.option(key)))}
    for said in (words, values):
        typed = [key for key, word in said.items() if re.search(rf"\b{re.escape(word)}\b", message)]
        if len(typed) == 1:
            return f"{typed[0]}: {message}"
    return message


def _keys(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _keys(part, f"{key}.{name}".lstrip("."))
    else:
        yield key


def _short(line: str) -> str:
    line = printable(line)
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]} ..."
