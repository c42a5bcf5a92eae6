"""What a module reaches by its attributes and hooks, and by the functions there."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, types.ModuleType, types.BuiltinFunctionType)

Function = types.FunctionType


def reached(module: nn.Module) -> list[Any]:
    """Tensors and functions that the module reaches, each once.

    Searched are attributes and hooks of its modules, containers and partial functions there, and what functions close
    over or have as defaults.
    """
    return [value for value in _everything(module) if isinstance(value, Tensor | Function)]


def not_copied(module: nn.Module) -> list[Any]:
    """Objects reached likewise that cannot be copied, such as a lock, an open file, or what holds one."""
    others = (Tensor, Function, nn.Module, dict, list, tuple, set, functools.partial, types.MethodType)
    return [value for value in _everything(module) if not isinstance(value, others) and not _can_be_copied(value)]


def _can_be_copied(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:  # whatever somebody's class raises
        return False
    return True


def _everything(module: nn.Module) -> Iterator[Any]:
    left: list[Any] = [module]
    seen: dict[int, Any] = {}
    while left:
        value = left.pop()
        if not isinstance(value, _PLAIN) and id(value) not in seen:
            seen[id(value)] = value  # held, since a method is made where it is asked for
            yield value
            left += _next(value)


def _next(value: Any) -> list[Any]:
    if isinstance(value, nn.Module):
        return [*vars(value).values()]
    if isinstance(value, dict):
        return [*value.values()]
    if isinstance(value, list | tuple | set):
        return [*value]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, Function):
        return [*_held(value)]
    return []


def _held(function: Function) -> Iterator[Any]:
    """What a function closes over and has as defaults."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # of a name that is not assigned yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


class FunctionCopies:
    """Copies of functions that hold more than plain values, for ``copy.deepcopy``, which takes functions as they are.

    Args:
        functions: Which to copy.
        memo: Of ``deepcopy``: it gets the copies, which hold nothing before ``fill``.
    """

    def __init__(self, functions: list[Function], memo: dict[int, Any]) -> None:
        self._memo = memo
        self._cells: dict[int, tuple[Any, Any]] = {}
        self._pairs = [(function, self._empty(function)) for function in _stateful(functions)]
        memo.update((id(function), made) for function, made in self._pairs)

    def fill(self) -> None:
        """Let the copies hold what ``deepcopy`` has copied since, and copies of tensors and containers.

        Other modules and objects (a teacher, a logger) are none of the module's, and stay what they are.
        """
        for old, new in self._cells.values():
            try:
                new.cell_contents = self._copied(old.cell_contents)
            except ValueError:
                continue
        for function, made in self._pairs:
            made.__defaults__ = self._copied(function.__defaults__)
            made.__kwdefaults__ = self._copied(function.__kwdefaults__)

    def _copied(self, value: Any) -> Any:
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, Tensor):
            return copy.deepcopy(value, self._memo)
        if isinstance(value, dict):
            entries = self._memo[id(value)] = copy.copy(value)  # first, since it may hold itself
            entries.update((key, self._copied(held)) for key, held in value.items())
            return entries
        if isinstance(value, list):
            items = self._memo[id(value)] = copy.copy(value)
            items[:] = map(self._copied, value)
            return items
        if isinstance(value, set):
            return {self._copied(held) for held in value}
        if type(value) is tuple:
            return tuple(map(self._copied, value))
        if isinstance(value, functools.partial):
            keywords = {name: self._copied(held) for name, held in value.keywords.items()}
            return functools.partial(self._copied(value.func), *map(self._copied, value.args), **keywords)
        if isinstance(value, types.MethodType):
            return types.MethodType(self._copied(value.__func__), self._copied(value.__self__))
        return value

    def _empty(self, function: Function) -> Function:
        cells = tuple(self._cells.setdefault(id(c), (c, types.CellType()))[1] for c in function.__closure__ or ())
        made = Function(function.__code__, function.__globals__, function.__name__, None, cells)
        functools.update_wrapper(made, function)
        return made


def _stateful(functions: list[Function]) -> list[Function]:
    """Those that hold more than plain values and functions that do not."""
    holding = {id(function): [*_held(function)] for function in functions}
    kept = list(functions)

    def is_plain(value: Any) -> bool:
        return isinstance(value, _PLAIN) or (isinstance(value, Function) and id(value) not in {*map(id, kept)})

    while plain := [function for function in kept if all(map(is_plain, holding[id(function)]))]:
        kept = [function for function in kept if function not in plain]
    return kept
