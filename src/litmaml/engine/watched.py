"""What modules hold beside the numbers of their tensors, watched for changes: attributes, buffers, hooks, closures."""

from __future__ import annotations

import functools
import operator
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_INSIDE = frozenset(("_parameters", "_buffers", "_modules", *_HOOKS))
_OTHERS = frozenset(vars(nn.Module())) - _INSIDE - {"training"}
_SEQUENCES = (list, tuple, set, frozenset, deque)
_NUMBERS = (bool, int, float, complex, str, bytes)
_NO_OBJECTS = (*_NUMBERS, type(None), type, types.ModuleType, types.BuiltinFunctionType, Tensor)


class Watched:
    """The containers that an object reaches, each with what is in it, as it was when this was made.

    Reached are the attributes and hooks of its modules, containers and functions there, what functions close over, and
    the attributes of other objects. Tensors are told apart by which they are, not by their numbers.

    Args:
        root: What to watch: a module, or a dict of such and other objects by name.
        before: An earlier look. What is another one now, a module changes by itself: it is left out.
    """

    def __init__(self, root: Any, before: Watched | None = None) -> None:
        found: dict[int, _Container] = {
            id(container.inside): container for container in _reached(root) if not container.fixed
        }
        if before is not None:
            known = before._found
            found = {key: container.as_in(known[key]) for key, container in found.items() if key in known}
        self._found: dict[int, _Container] = found
        self._look()

    def changed(self) -> str:
        """The name of something that is another one now, or nothing."""
        if self._is_as_seen():
            return ""
        other = next((name for container in self._found.values() if (name := container.changed())), "")
        if not other:  # only other objects for the same numbers
            self._look()
        return other

    def _look(self) -> None:
        # In one go for all containers: it is done in every step. Most are empty.
        self._empty = [container.inside for container in self._found.values() if not container.inside]
        others = [container for container in self._found.values() if container.inside]
        self._insides = [container.inside for container in others]
        self._sizes = [container.size for container in others]
        self._takes = [(container.take, container.inside) for container in others]
        self._held = [held for container in others for held in container.held]

    def _is_as_seen(self) -> bool:
        if any(self._empty) or [*map(len, self._insides)] != self._sizes:
            return False
        try:
            now = [held for take, inside in self._takes for held in take(inside)]
        except (KeyError, ValueError):  # an entry is gone
            return False
        return all(map(operator.is_, now, self._held))


class _Container:
    """A dict, a sequence or the cells of a function, with what was in it; of a dict: what was under some of its keys.

    Attributes:
        inside: The container itself.
        held: Its entries, which are kept, so that nothing else gets their identity.
        take: Its entries as they are now.
        fixed: Whether they can be no others.
    """

    def __init__(self, name: str, inside: Any, keys: list[Any] | None, take: Callable[[Any], tuple[Any, ...]]) -> None:
        self.name, self.inside, self.size = name, inside, len(inside)
        self._keys, self.take, self.held = keys, take, take(inside)
        self.fixed = take is tuple and isinstance(inside, tuple | frozenset)

    def entries(self) -> Iterator[tuple[str, Any]]:
        """What is inside, by name."""
        names = range(len(self.held)) if self._keys is None else self._keys
        for name, held in zip(names, self.held, strict=True):
            yield self.name if name in _INSIDE else f"{self.name}.{name}".lstrip("."), held

    def as_in(self, before: _Container) -> _Container:
        """The same, with only those entries watched that are what they were before."""
        if self._keys is None or before._keys is None:
            return self if before.changed() == "" else _of_dict(self.name, {}, [])
        was = dict(zip(before._keys, before.held, strict=True))
        now = zip(self._keys, self.held, strict=True)
        return _of_dict(self.name, self.inside, [key for key, held in now if key in was and _is_same(held, was[key])])

    def changed(self) -> str:
        """The name of an entry that is another one now, or nothing, if only another object for the same number is."""
        try:
            now = self.take(self.inside)
        except (KeyError, ValueError):
            return self.name
        if len(self.inside) != self.size or len(now) != len(self.held):
            return self.name
        for (name, held), found in zip(self.entries(), now, strict=True):
            if not _is_same(held, found):
                return name
        self.held = now
        return ""


def _reached(root: Any) -> Iterator[_Container]:
    left: list[tuple[str, Any, bool]] = [("", root, True)]
    seen: set[int] = set()
    while left:
        name, value, enter = left.pop()
        if isinstance(value, functools.partial):
            left += [(name, part, enter) for part in (value.func, value.args, value.keywords)]
        elif isinstance(value, types.MethodType):
            left += [(name, value.__func__, enter), (name, value.__self__, False)]
        elif (container := _container(name, value, enter)) and id(container.inside) not in seen:
            seen.add(id(container.inside))
            yield container
            # The objects that an object has, such as those of a logger, are none of the module's.
            enter = enter and isinstance(value, (nn.Module, dict, *_SEQUENCES))
            left += [(path, held, enter) for path, held in container.entries()]


def _container(name: str, value: Any, enter: bool) -> _Container | None:
    """What holds the entries of a value; of an object that is neither module nor container if it may be entered."""
    if isinstance(value, nn.Module):
        return _of_dict(name, vars(value), [key for key in vars(value) if key not in _OTHERS])
    if isinstance(value, dict):
        return _of_dict(name, value, [*value])
    if isinstance(value, _SEQUENCES):
        return _Container(name, value, None, tuple)
    if isinstance(value, types.FunctionType):
        return _Container(name, value.__closure__, None, _contents) if value.__closure__ else None
    if enter and not isinstance(value, _NO_OBJECTS) and isinstance(getattr(value, "__dict__", None), dict):
        return _of_dict(name, vars(value), [*vars(value)])
    return None


def _of_dict(name: str, inside: dict[Any, Any], keys: list[Any]) -> _Container:
    if len(keys) > 1:
        return _Container(name, inside, keys, operator.itemgetter(*keys))
    return _Container(name, inside, keys, lambda held: tuple(held[key] for key in keys))


def _contents(cells: tuple[types.CellType, ...]) -> tuple[Any, ...]:
    return tuple(cell.cell_contents for cell in cells)


def _is_same(first: Any, second: Any) -> bool:
    """Whether two are one object, or equal numbers or texts of one type, or tuples of such."""
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(_is_same, first, second))
    return isinstance(first, _NUMBERS) and (first == second or first != first)
