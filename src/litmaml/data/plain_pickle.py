"""Reading pickles that somebody else made: arrays and plain containers, and nothing is called or imported.

A pickle is a program for a small machine, and Python's own lets it call what it names. This one knows only those
operations that lists, dictionaries, tuples, texts, numbers, bytes and arrays are written with. What a pickle names is
compared with the few names that arrays need, and stands for a function below, never for the thing itself.
"""

from __future__ import annotations

import os
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from litmaml.shown import one_line

_MOST_STEPS = 100_000_000
"""Operations of one pickle; half a million pictures take some ten million."""
_TIMES = 4
"""How many times its size a pickle may make by calls."""
_DTYPE = re.compile(r"[biufSU][1-9]\d{0,3}")
_MODULES = {
    **dict.fromkeys(("numpy", "numpy.core.multiarray", "numpy._core.multiarray"), "numpy"),
    **dict.fromkeys(("numpy.core.numeric", "numpy._core.numeric"), "numpy"),
    **dict.fromkeys(("builtins", "__builtin__", "collections", "_codecs"), "python"),
}


class NotPlainPickle(ValueError):
    """A pickle that holds anything else; the message goes on after its name."""


class Array:
    """An array of a pickle, which is filled in after it is made, as pickles do it."""

    def __init__(self) -> None:
        self._held: NDArray[Any] | None = None

    @property
    def held(self) -> NDArray[Any]:
        """The array itself, read only.

        Raises:
            NotPlainPickle: The pickle never filled it in.
        """
        if self._held is None:
            raise NotPlainPickle("holds an array without content")
        return self._held

    def fill(self, shape: Any, dtype: Any, fortran: Any, raw: Any) -> None:
        """Take the content.

        Raises:
            NotPlainPickle: It is not of this shape, or of objects.
        """
        if isinstance(raw, str):  # as Python 2 wrote bytes
            raw = _latin(raw)
        if not isinstance(dtype, _DType) or not isinstance(raw, bytes | bytearray):
            raise NotPlainPickle("holds an array of objects, which could be anything")
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
            raise NotPlainPickle(f"holds an array of the shape {one_line(shape)[:40]}")
        order: Literal["C", "F"] = "F" if fortran is True or fortran == "F" else "C"
        self._held = np.frombuffer(raw, dtype.made()).reshape(shape, order=order)


class _DType:
    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def made(self) -> np.dtype[Any]:
        return np.dtype(self.order.replace("|", "=") + self.code)


class _Named(NamedTuple):
    module: str
    name: str


def read_plain_pickle(path: Path) -> Any:
    """What a pickle of any protocol from 1 on holds: plain values, in which arrays are ``Array``.

    Raises:
        FileNotFoundError: There is no such file.
        NotPlainPickle: It is none, is damaged, or holds anything but arrays and plain containers.
    """
    with path.open("rb") as file:
        return _Machine().run(file)


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.allowed = 0

    def run(self, file: BinaryIO) -> Any:
        self.allowed = _TIMES * os.fstat(file.fileno()).st_size + (1 << 20)
        try:
            for steps, (opcode, argument, _) in enumerate(pickletools.genops(file)):
                if opcode.name == "STOP":
                    return self.stack.pop()
                operation = _OPERATIONS.get(opcode.name)
                if operation is None:
                    raise NotPlainPickle(f"makes objects (by {opcode.name}), and may only hold plain containers")
                if steps > _MOST_STEPS:
                    raise NotPlainPickle(f"takes more than {_MOST_STEPS} steps")
                operation(self, argument)
        except NotPlainPickle:
            raise
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
            raise NotPlainPickle(f"is damaged or no pickle ({one_line(error)[:100]})") from error
        raise NotPlainPickle("is damaged: it ends too soon")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        place = self.marks.pop()
        values = self.stack[place:]
        del self.stack[place:]
        return values

    def last(self, count: int) -> tuple[Any, ...]:
        return tuple(self.stack.pop() for _ in range(count))[::-1]

    def remember(self, key: Any) -> None:
        self.memo[int(key)] = self.stack[-1]

    def recall(self, key: Any) -> None:
        self.push(self.memo[int(key)])

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise NotPlainPickle("adds to something that is no list")
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise NotPlainPickle("adds to something that is no dictionary")
        self.stack[-1].update(_pairs(values))

    def name(self, module: Any, name: Any) -> None:
        if (_MODULES.get(module), name) not in _CALLS and (module, name) != ("numpy", "ndarray"):
            raise NotPlainPickle(
                f"names {one_line(module)[:60]}.{one_line(name)[:60]}, and may only hold arrays and plain containers"
            )
        self.push(_Named(module, name))

    def charge(self, values: Any) -> None:
        """Counts what is copied: a text of which a pickle makes bytes again and again would fill the memory."""
        self.allowed -= sum(len(value) for value in values if isinstance(value, str | bytes | bytearray | list))
        if self.allowed < 0:
            raise NotPlainPickle("makes far more of itself than it holds")

    def call(self) -> None:
        named, arguments = self.last(2)
        if not isinstance(named, _Named) or not isinstance(arguments, tuple):
            raise NotPlainPickle("calls something")
        self.charge(arguments)
        self.push(_CALLS[_MODULES[named.module], named.name](*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, Array) and isinstance(state, tuple) and len(state) == 5:
            self.charge(state)
            made.fill(*state[1:])
        elif (
            isinstance(made, _DType)
            and isinstance(state, tuple)
            and state[1] in ("<", ">", "|", "=")
            and not any(state[2:5])
        ):
            made.order = state[1]
        else:
            raise NotPlainPickle("makes objects (by BUILD), and may only hold plain containers")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    keys = values[::2]
    if not all(isinstance(key, str | bytes | int | float | None) for key in keys):
        raise NotPlainPickle("has keys that are neither text nor numbers")
    return dict(zip(keys, values[1::2], strict=True))


def _latin(text: str) -> bytes:
    return text.encode("latin-1")


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise NotPlainPickle("encodes something that is no text of bytes")
    return _latin(text)


def _dtype(code: Any, *flags: Any) -> _DType:
    text = code.decode("latin-1") if isinstance(code, bytes) else code
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise NotPlainPickle(f"holds an array of {one_line(code)[:20]}, which is neither numbers nor text")
    return _DType(text)


def _scalar(dtype: Any, raw: Any) -> Any:
    array = Array()
    array.fill((), dtype, False, raw)
    return array.held.item()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any) -> Array:
    array = Array()
    array.fill(shape, dtype, order, raw)
    return array


def _empty_dict(*arguments: Any) -> dict[Any, Any]:
    (given,) = arguments or ([],)
    if isinstance(given, _Named):  # what a defaultdict makes of a missing key
        return {}
    return _pairs([part for pair in given for part in (pair if len(pair) == 2 else [])])


def _bytearray(content: Any = b"", encoding: Any = "latin1") -> bytearray:
    return bytearray(content if isinstance(content, bytes) else _encoded(content, encoding))


def _empty_list() -> list[Any]:
    return []


_CALLS: dict[tuple[str | None, str], Callable[..., Any]] = {
    ("numpy", "_reconstruct"): lambda *arguments: Array(),
    ("numpy", "dtype"): _dtype,
    ("numpy", "scalar"): _scalar,
    ("numpy", "_frombuffer"): _frombuffer,
    ("python", "encode"): _encoded,
    ("python", "OrderedDict"): _empty_dict,
    ("python", "defaultdict"): _empty_dict,
    ("python", "dict"): _empty_dict,
    ("python", "list"): _empty_list,
    ("python", "bytes"): lambda: b"",
    ("python", "bytearray"): _bytearray,
}
"""What each name that is let in stands for."""

_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        _Machine.push,
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "DICT": lambda machine, _: machine.push(_pairs(machine.since_mark())),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.last(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.last(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.last(3)),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.update([*machine.last(2)]),
    "SETITEMS": lambda machine, _: machine.update(machine.since_mark()),
    "POP": lambda machine, _: machine.stack.__delitem__(-1),
    "POP_MARK": lambda machine, _: machine.since_mark().clear(),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    "GLOBAL": lambda machine, both: machine.name(*both.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.last(2)),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
