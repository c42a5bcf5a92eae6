"""How torch's functions are taken in a trial in float64: without islands of single precision, or with held results."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from litmaml.learner.trial.applied import applied

_WIDER: dict[Any, Any] = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    torch.complex64: torch.complex128,
    Tensor.float: Tensor.double,
    Tensor.half: Tensor.double,
    Tensor.bfloat16: Tensor.double,
}


class Doubled(TorchFunctionMode):
    """A context in which what a model makes of single precision (``x.float()``, ``dtype=torch.float32``) is double."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tuple(map(_wider, args)), {name: _wider(value) for name, value in (kwargs or {}).items()}
        return _wider(function)(*args, **kwargs)


def _wider(value: Any) -> Any:
    try:
        return _WIDER.get(value, value)
    except TypeError:  # of what has no hash
        return value


@contextmanager
def in_double() -> Iterator[None]:
    """The same, and with float64 as what tensors are made of by default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Doubled():
            yield
    finally:
        torch.set_default_dtype(before)


class OtherFunctions(Exception):
    """A forward pass has called other functions than the one that was recorded."""


class Held(TorchFunctionMode):
    """Results that depend on weights but carry no gradient by them, recorded in one forward pass and given in others.

    They are what ``detach``, ``data``, ``item`` or an operation under ``no_grad`` gives. Derivatives of whatever order
    take them for constants, and so has a difference between two passes to. The forward pass of a
    ``torch.autograd.Function``, whose backward pass is its derivative, holds nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._recorded: list[tuple[Any, Any]] = []
        self._left: deque[tuple[Any, Any]] | None = None

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._left = deque(self._recorded)  # the first pass records, every other one is given what it has recorded

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not _is_cut(result) or not _needs_gradient(args, kwargs) or applied() is not None:
            return result
        name = getattr(function, "__name__", function), getattr(function, "__self__", None)
        if self._left is None:
            self._recorded.append((name, _copied(result)))
            return result
        if not self._left:
            raise OtherFunctions
        recorded, held = self._left.popleft()
        if recorded != name:
            raise OtherFunctions
        return _copied(held)


def _is_cut(result: Any) -> bool:
    if isinstance(result, tuple | list):
        return len(result) > 0 and all(map(_is_cut, result))
    return isinstance(result, float) or (isinstance(result, Tensor) and not result.requires_grad)


def _needs_gradient(args: Any, kwargs: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves((args, kwargs)))


def _copied(result: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, result)
