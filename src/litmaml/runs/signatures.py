"""The arguments that a class can be made with, and what their annotations allow."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, Union, cast, get_args, get_origin

from torch import Tensor, nn

LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
"""Kinds that a list of values may stand for."""
PLAIN = (bool, int, float, complex, str, bytes, dict, type, type(None), Mapping, *LISTS)
"""Kinds of which no recipe is made."""


def constructor_parameters(kind: type | Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor, or of a function, without those that take any argument and keep none."""
    if not isinstance(kind, type):
        return dict(inspect.signature(kind).parameters)
    made = _constructor(kind)
    if made in (object.__init__, nn.Module.__init__):
        return {}
    _, *own = inspect.signature(made).parameters.items()
    return dict(own)


def parameters(kind: type | Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """The annotations of the arguments of a class or function by name, and whether it takes others besides.

    Where a constructor takes ``**kwargs``, the arguments of the constructors behind it count as its own.
    """
    found: dict[str, Any] = {}
    more = False
    for depth, owner in enumerate(_owners(kind)):
        hints = _hints(_constructor(owner))
        if is_dataclass(owner):  # whose fields may be of a base in another module, by names that only that one knows
            hints = _hints(owner) | hints
        open_ended = False
        for name, parameter in constructor_parameters(owner).items():
            if parameter.kind is parameter.VAR_KEYWORD:
                open_ended = True
            elif parameter.kind not in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
                hint = hints.get(name, Any)
                found.setdefault(name, (hint, None) if parameter.default is None else hint)
        more = more or (open_ended and depth == 0)
        if not open_ended:
            break
    return found, more


def options(annotation: Any) -> list[Any]:
    """The kinds that an annotation, or one of several, allows; ``Any`` where it says nothing that is understood."""
    if isinstance(annotation, tuple):
        return [option for part in annotation for option in options(part)]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return options(get_args(annotation))
    if origin is Annotated:
        return options(get_args(annotation)[0])
    if isinstance(annotation, typing.NewType):
        return options(annotation.__supertype__)
    if annotation is None:
        return [type(None)]
    if annotation in (Callable, typing.Callable):
        return [Callable]
    known = origin is not None or isinstance(annotation, type)
    return [annotation] if known and annotation is not object else [Any]


def made_by(annotation: Any) -> tuple[type, ...]:
    """The classes of what functions of an annotation make; none where any function, or a module, may stand."""
    results = [option for option in options((get_args(annotation) or (Any,))[-1]) if isinstance(option, type)]
    return tuple(result for result in results if result not in (Any, object, Tensor) and result not in PLAIN)


def returned_class(function: Callable[..., Any]) -> type | None:
    """The class that a function is annotated to return; None if it is to none."""
    returned = _hints(function).get("return")
    return returned if isinstance(returned, type) else None


def _owners(kind: type | Callable[..., Any]) -> list[Any]:
    """The class and those of its bases that have a constructor of their own; or the function."""
    if not isinstance(kind, type):
        return [kind]
    return [kind, *(base for base in kind.__mro__[1:] if "__init__" in vars(base) and base is not object)]


def _constructor(kind: type | Callable[..., Any]) -> Any:
    if not isinstance(kind, type):
        return kind
    new, init = cast(Any, kind.__new__), cast(Any, kind).__init__
    return init if new is object.__new__ else new


def _hints(made: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(made)
    except Exception:  # a name that stands under TYPE_CHECKING, say: the others still count
        hints = {}
        for name, text in getattr(made, "__annotations__", {}).items():
            try:
                hints[name] = eval(text, made.__globals__) if isinstance(text, str) else text
            except Exception:
                continue
        return hints
