"""Numbers that a function takes out of tensors while it is traced, which its trace would keep as they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import get_proxy_mode, get_proxy_slot
from torch.overrides import TorchFunctionMode

_TAKING = {
    getattr(Tensor, name)
    for name in ("item", "tolist", "numpy", "__array__", "__dlpack__", "__bool__", "__float__", "__int__", "__index__")
}


class Taken(TorchFunctionMode):
    """A context of ``make_fx`` in which no number is taken out of what depends on arguments or is drawn.

    Numbers of other tensors, such as buffers, may be, as long as these are not changed.

    Raises:
        RuntimeError: One is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self._versions: list[tuple[Tensor, int]] = []

    def changed(self) -> bool:
        """Whether a tensor that a number was taken out of has been changed since."""
        return any(tensor._version != version for tensor, version in self._versions)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _TAKING and isinstance(args[0], Tensor):
            traced = _node(args[0])
            if traced is None and not args[0].is_inference():
                self._versions.append((args[0], args[0]._version))
            elif traced is None or not _is_constant(traced):
                name = function.__name__.strip("_")
                raise RuntimeError(
                    f"its forward pass takes numbers out of a tensor by {name}, which would stay the first"
                )
        return function(*args, **(kwargs or {}))


def _node(tensor: Tensor) -> Node | None:
    """The node that computes a tensor in the trace that is being made, if one does."""
    mode = get_proxy_mode()
    slot = None if mode is None else get_proxy_slot(tensor, mode.tracer, default=None)
    return None if slot is None or slot.constant is not None else slot.proxy.node


def _is_constant(node: Node) -> bool:
    """Whether a node depends on no argument, on nothing that is drawn, and on no tensor from outside."""
    left, seen = [node], set()
    while left:
        if (one := left.pop()) in seen:
            continue
        seen.add(one)
        if one.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(one.target, "tags", ()):
            return False
        left += one.all_input_nodes
    return True
