"""What somebody else's record may say of the arguments of a class: the one way from a file to objects.

A record is plain data, recipes within recipes. It is read along the signatures of the classes that are to be made:
only their own arguments, only values of the kinds that are annotated, a recipe only where an object is wanted and then
of a class that may stand there (see ``nameable``). What is let in is a tree of its own, of which objects are made, or
a configuration for the command line. What the user typed takes a part's place before that is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
import yaml
from torch import Tensor, nn

from litmaml.runs.admitted import Choice, Named, NotAdmitted, Recipe, short
from litmaml.runs.former_names import arguments_now, name_now
from litmaml.runs.nameable import FUNCTIONS, NotNameable, find_class, find_maker, is_the_users
from litmaml.runs.signatures import LISTS, PLAIN, made_by, options, parameters
from litmaml.runs.typed import Typed
from litmaml.shown import UNSEEN

_DEEPEST, _MOST = 20, 5_000
"""Values within each other, and in one record: a small file can stand for endlessly much."""
_LONGEST = 4096
"""Characters of a text."""
_INVISIBLE = re.compile(rf"[\t\n{UNSEEN}]")
"""Characters that move a terminal's cursor, or turn the direction of a line."""
_DOTTED = re.compile(r"\w+(\.\w+)+")
_KEY = re.compile(r"(?!__)[\w/-]{1,100}")
_SIMPLE = (bool, int, float, str, type(None), Path, PurePath)
_NO_KEYS = ("class_path", "init_args", "dict_kwargs")


def admit_arguments(kind: type, record: object, what: str, typed: Typed | None = None) -> dict[str, Any]:
    """The admitted arguments of a class, without those that were typed.

    Args:
        kind: The class.
        record: Its arguments by name, as a file has them.
        what: What they are called in errors.
        typed: What the user typed in their place.

    Raises:
        NotAdmitted: The record holds anything else.
    """
    return _Reader().arguments(kind, record, _Place(what, typed or Typed(), typable=typed is not None))


def admit(record: object, kinds: tuple[type, ...], what: str) -> Recipe:
    """The admitted recipe of an object of one of these classes or their subclasses.

    Raises:
        NotAdmitted: The record is no such recipe.
    """
    if not isinstance(record, Mapping) or "class_path" not in record:
        raise NotAdmitted(f"{what}: has no recipe (a class_path with init_args), got {short(record)}")
    return _Reader().recipe(record, kinds, _Place(what, Typed()))


class _Other(Exception):
    """The value is none of this kind."""


class _Replaced(Exception):
    """Another class was typed in the place of the one recorded."""


class _Place(NamedTuple):
    """Where the reader is: the argument's name, what was typed there, how deep, whether a text needs no annotation, and
    whether something can be typed there."""

    what: str
    typed: Typed
    depth: int = 0
    free: bool = False
    typable: bool = False

    def within(self, key: str, separator: str = ".") -> _Place:
        what = f"{self.what}[{key}]" if separator == "[" else f"{self.what}{separator}{key}"
        return self._replace(what=what, typed=self.typed.within(key), depth=self.depth + 1)

    def refuse(self, why: str) -> NotAdmitted:
        option = self.what.removeprefix("checkpoint.").partition("[")[0]
        return NotAdmitted(f"{self.what}: {why}" + (f"; type --{option} to take another" if self.typable else ""))


class _Reader:
    """Reads one record."""

    def __init__(self) -> None:
        self.read = 0

    def arguments(self, kind: type | Callable[..., Any], record: object, at: _Place) -> dict[str, Any]:
        if not isinstance(record, Mapping):
            raise at.refuse(f"has to be arguments by name, got {short(record)}")
        known, more = parameters(kind)
        at = at._replace(free=is_the_users(kind))
        admitted: dict[str, Any] = {}
        for name, value in arguments_now(record, known).items():
            if not isinstance(name, str) or not name.isidentifier() or not _KEY.fullmatch(name):
                raise at.refuse(f"{short(name)} is no name of an argument")
            if name not in known and not more:
                raise at.within(name).refuse(f"{kind.__name__} takes no argument of this name")
            if value == "" and name not in known:
                admitted[name] = ""  # the default of an argument that is handed on; it can name nothing
                continue
            self._put(admitted, name, value, known.get(name, Any), at)
        if of_record := getattr(kind, "of_record", None):  # of a class that can do more than its record may ask for
            try:
                return dict(of_record(admitted))
            except (ValueError, ImportError) as error:
                raise at.refuse(str(error)) from error
        return admitted

    def recipe(self, record: Mapping[Any, Any], kinds: tuple[type, ...], at: _Place, later: bool = False) -> Recipe:
        name = record["class_path"]
        try:
            found = at.typed.found(name) or find_maker(name, kinds)
        except NotNameable as error:
            if at.typed.names_another(name, None):
                raise _Replaced from None
            raise at.refuse(f"{short(name)} {error}") from error
        if at.typed.names_another(name, found):
            raise _Replaced
        if other := [key for key in record if key not in _NO_KEYS]:
            raise at.refuse(f"has {short(other[0])} beside class_path and init_args")
        given: dict[Any, Any] = {}
        for part in ("init_args", "dict_kwargs"):
            if not isinstance(inner := record.get(part) or {}, Mapping):
                raise at.refuse(f"{part} has to be arguments by name, got {short(inner)}")
            given |= inner
        arguments, known = self.arguments(found, given, at), parameters(found)[0]
        # The command line's parser is told of them apart.
        further = [key for key in arguments if key not in known or key in (record.get("dict_kwargs") or {})]
        return Recipe(found, arguments, name_now(name), later, frozenset(further))

    def _put(self, admitted: dict[str, Any], key: Any, value: Any, annotation: Any, at: _Place) -> None:
        if at.typed.replaces(key, value):
            return
        with suppress(_Replaced):
            admitted[key] = self._value(value, annotation, at.within(key))

    def _value(self, value: Any, annotation: Any, at: _Place) -> Any:
        """The value as the annotation has it."""
        self.read += 1
        if at.depth > _DEEPEST or self.read > _MOST:
            raise at.refuse(f"holds more than {_MOST} values, or more than {_DEEPEST} within each other")
        first: NotAdmitted | None = None
        kinds = options(annotation)
        if value is None and bool in kinds and type(None) not in kinds and Any not in kinds:
            return False  # as torch's layers keep bias=False
        for kind in kinds:
            try:
                if isinstance(value, Mapping) and "class_path" in value:
                    return self._object(value, kind, at)
                admitted = self._plain(value, kind, at)
                if type(admitted) is str and not all(get_origin(kind) is Literal or kind in _SIMPLE for kind in kinds):
                    _check_reads_as_text(admitted, kinds, at)
                return admitted
            except _Other:
                continue
            except NotAdmitted as error:
                first = first or error
        if isinstance(value, Mapping) and "class_path" in value:
            raise first or at.refuse(f"is no object, got the recipe of {short(value['class_path'])}")
        raise first or at.refuse(f"cannot be {short(value)}")

    def _object(self, value: Mapping[Any, Any], kind: Any, at: _Place) -> Recipe:
        """An object of a kind."""
        if kind is Any:
            return self.recipe(value, (nn.Module,), at)
        base = get_origin(kind) or kind
        if base is Callable:
            made = made_by(kind)
            return self.recipe(value, made or (nn.Module,), at, later=bool(made))
        if isinstance(base, type) and base not in PLAIN and not issubclass(base, Enum | Tensor):
            return self.recipe(value, (base,), at)
        raise _Other

    def _plain(self, value: Any, kind: Any, at: _Place) -> Any:
        """A value that is no recipe, as one of a kind."""
        base, inner = get_origin(kind) or kind, get_args(kind)
        if kind is Any:
            return self._anything(value, at)
        if base is Literal:
            for choice in inner:
                if type(choice) is type(value) and choice == value:
                    return Choice(choice) if isinstance(choice, str) else choice
        elif base is Tensor:
            if 0 < _count_numbers(value) <= _MOST:
                return torch.tensor(value, dtype=torch.get_default_dtype())
        elif base in (bool, int, float, str, type(None)):
            if type(value) is base or (base is float and type(value) is int):
                return _scalar(value, at)
        elif base is Callable:
            if isinstance(value, str):
                return self._function(value, made_by(kind), at)
        elif base is type:
            if isinstance(value, str):
                return self._class(value, tuple(option for option in inner if isinstance(option, type)), at)
        elif base is tuple and inner and inner[-1] is not Ellipsis:
            if isinstance(value, list | tuple) and len(value) == len(inner):
                parts = enumerate(zip(value, inner, strict=True))
                return [self._value(part, each, at.within(str(k), "[")) for k, (part, each) in parts]
        elif base in LISTS:
            if isinstance(value, list | tuple):
                each = inner[0] if inner else Any
                return [self._value(part, each, at.within(str(k), "[")) for k, part in enumerate(value)]
        elif isinstance(base, type):
            return self._of_class(value, base, inner, at)
        raise _Other

    def _of_class(self, value: Any, base: type, inner: tuple[Any, ...], at: _Place) -> Any:
        if issubclass(base, Enum) and isinstance(value, str) and value in base.__members__:
            return Named(base[value], value)
        if issubclass(base, PurePath) and isinstance(value, str):
            return Path(_scalar(value, at))
        if is_dataclass(base) and isinstance(value, Mapping):
            return Recipe(base, self.arguments(base, value, at), None)
        if issubclass(base, Mapping) and isinstance(value, Mapping):
            return self._mapping(value, inner[1] if len(inner) == 2 else Any, at)
        raise _Other

    def _anything(self, value: Any, at: _Place) -> Any:
        """A value where nothing is said of its kind."""
        if isinstance(value, list | tuple):
            return [self._value(part, Any, at.within(str(k), "[")) for k, part in enumerate(value)]
        if isinstance(value, Mapping):
            return self._mapping(value, Any, at)
        if value is None or type(value) in (bool, int, float) or (type(value) is str and at.free):
            return _scalar(value, at)
        raise _Other

    def _mapping(self, value: Mapping[Any, Any], annotation: Any, at: _Place) -> dict[Any, Any]:
        admitted: dict[Any, Any] = {}
        for key, part in value.items():
            if type(key) is not int and (not isinstance(key, str) or not _KEY.fullmatch(key) or key in _NO_KEYS):
                raise at.refuse(f"{short(key)} is no name that a value may have")
            self._put(admitted, key, part, annotation, at)
        return admitted

    def _function(self, value: str, made: tuple[type, ...], at: _Place) -> Named:
        """A function that can be named, or one of the user's own that says that it makes what is wanted."""
        if value in FUNCTIONS:
            return Named(FUNCTIONS[value], value)
        if not made:
            raise at.refuse(f"a function by its name is not called, got {short(value)}")
        try:
            return Named(find_maker(value, made), value)
        except NotNameable as error:
            raise at.refuse(f"{short(value)} {error}") from error

    def _class(self, value: str, kinds: tuple[type, ...], at: _Place) -> Named:
        try:
            return Named(find_class(value, kinds or (nn.Module,)), value)
        except NotNameable as error:
            raise at.refuse(f"{short(value)} {error}") from error


def _count_numbers(value: Any, dimensions: int = 5) -> int:
    """How many numbers a tensor of such a list has, of lists of one length, or of a number; 0 where there is none."""
    if type(value) in (int, float):
        return int(abs(value) < 2**63 or type(value) is float)
    if type(value) is not list or not dimensions or not 0 < len(value) <= _MOST:
        return 0
    if len({len(part) if type(part) is list else -1 for part in value}) > 1:
        return 0
    counts = [_count_numbers(part, dimensions - 1) for part in value]
    return sum(counts) if min(counts) == max(counts) else 0


def _scalar(value: Any, at: _Place) -> Any:
    if isinstance(value, str) and (len(value) > _LONGEST or _INVISIBLE.search(value)):
        raise at.refuse(f"has more than {_LONGEST} characters, or some that cannot be seen, got {short(value)}")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise at.refuse("is a number of more than 64 bits")
    return value


def _check_reads_as_text(text: str, kinds: list[Any], at: _Place) -> None:
    """Refuse a text that the command line would read as more, where more is wanted and a run writes it to its folder.

    Nothing reads it here; but a user may hand that folder's ``config.yaml`` to another run, as a file of their own.
    """
    try:
        events = [next(events) for events in [yaml.parse(text, yaml.SafeLoader)] for _ in range(3)]
        structured = isinstance(events[2], yaml.CollectionStartEvent) and list(yaml.parse(text, yaml.SafeLoader))
    except (yaml.YAMLError, StopIteration):
        structured = False
    imported = any((get_origin(kind) or kind) in (Callable, type) for kind in kinds)
    if structured or (imported and _DOTTED.fullmatch(text)):
        raise at.refuse(f"could be read as more than a text, got {short(text)}")
