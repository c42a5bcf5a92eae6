"""Which ``torch.autograd.Function`` is being applied, told by the Python frames that are open.

Replacing ``Function.apply`` would miss those that a module has taken before (``sine = Sine.apply``), and from torch
2.14 on ``apply`` itself has no frame: so it is the forward passes that are looked for.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

_Function = torch.autograd.Function


class Application(NamedTuple):
    """A function's class, the arguments it is given, and the frame of its forward pass."""

    function: Any
    arguments: tuple[Any, ...]
    frame: FrameType


def of_the_program(function: Any) -> bool:
    """Whether a function is the program's own: such get what they know already as constants, and cannot be tried by
    themselves; they are tested as parts of a whole."""
    return bool(function.__module__.startswith("litmaml."))


def applied() -> Application | None:
    """The function whose forward pass is going on, the innermost of several, or None."""
    if torch.is_grad_enabled():
        return None
    frame: FrameType | None = sys._getframe()
    known = _forward_passes()
    while frame is not None:
        if found := known.get(frame.f_code):
            return _application(found, frame)
        frame = frame.f_back
    return None


def _application(found: list[Any], frame: FrameType) -> Application:
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount]
    given = [frame.f_locals[name] for name in names]
    if code.co_flags & inspect.CO_VARARGS:
        given += frame.f_locals[code.co_varnames[code.co_argcount + code.co_kwonlyargcount]]
    function = found[-1]  # one that inherits its forward pass comes after its base
    if function.setup_context is _Function.setup_context:
        function = getattr(type(given[0]), "_forward_cls", function)
        given = given[1:]  # but the context
    return Application(function, tuple(given), frame)


_kinds: list[Any] = []
_known: dict[CodeType, list[Any]] = {}


def _forward_passes() -> dict[CodeType, list[Any]]:
    """The classes by the code of their forward pass."""
    if (kinds := [*_below(_Function)]) != _kinds:
        _kinds[:] = kinds
        _known.clear()
        for kind in kinds:
            if code := getattr(inspect.unwrap(kind.forward), "__code__", None):
                _known.setdefault(code, []).append(kind)
    return _known


def _below(kind: Any) -> Iterator[Any]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)
