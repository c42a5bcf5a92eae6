"""Whether a recorded model is in proportion to the weights that come with it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchmetrics import Metric

from litmaml.runs.admitted import Recipe
from litmaml.runs.nameable import is_the_users
from litmaml.runs.recipe import made

_TIMES, _BESIDES = 2, 10_000_000
"""Weights that a model may have: so many times those in the file, and so many more."""
_CALLS = 200_000, 2_000
"""Calls and returns of functions that making it may take: at all, and for each tensor in the file."""
_FILLS = {
    getattr(Tensor, f"{name}_")
    for name in ["add", "clamp", "copy", "div", "erfinv", "fill", "mul", "normal", "sub", "uniform", "zero"]
}  # fmt: skip
"""What constructors give a tensor its content by."""
_STOPS = ("__init__", "__new__", "__setattr__", "__deepcopy__", "deepcopy", "add_state")
"""Functions before which it may end: one of them is called for each layer, weight or state."""


def check_size(arguments: Mapping[str, Any], weights: Mapping[str, Tensor], what: str) -> None:
    """Refuse to make a learner of far more weights than its file holds: a number in a file can fill the memory.

    The user's own classes are not looked at: to make them twice may have effects.

    Args:
        arguments: The admitted arguments of a learner; its modules are looked at.
        weights: What the file holds.
        what: What the arguments are called in errors.

    Raises:
        ValueError: The model is out of proportion, or cannot be made.
    """
    model, optimizer = arguments.get("model"), arguments.get("inner_optimizer")
    storages = _numbers_by_storage(weights.values())
    held, count = sum(storages.values()), 0
    # On the meta device, where tensors have a shape and no content.
    with torch.device("meta"), _Unfilled(), _at_most(_CALLS[0] + _CALLS[1] * len(storages)):
        others = {name: arguments.get(name) for name in ("loss", "outer_loss")} | (arguments.get("metrics") or {})
        for name, part in others.items():
            if isinstance(part, Recipe) and not _has_users(part):
                count += _numbers(made(part, f"{what}{name}"))
        if isinstance(model, Recipe) and not _has_users(model) and not _has_users(optimizer):
            network = made(model, f"{what}model")
            count += _numbers(network)
            if isinstance(optimizer, Recipe):
                by = made(optimizer, f"{what}inner_optimizer")
                learnt = by.learnt(dict(network.named_parameters()), arguments.get("inner_steps") or 1)
                count += sum(tensor.numel() for tensor in learnt.values())
    if count > _TIMES * held + _BESIDES:
        raise ValueError(
            f"{what}model: it, its loss and its metrics would hold {count} numbers, and the file has {held}; they were "
            "not made"
        )


class _Unfilled(TorchFunctionMode):
    """A context in which tensors without content are not filled, of which torch makes thousands of calls for each."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _FILLS and args and args[0].is_meta:
            return args[0]
        return function(*args, **(kwargs or {}))


def _numbers_by_storage(weights: Iterable[Tensor]) -> dict[int, int]:
    """How many numbers lie in each storage: one may stand in a file under many names, or be seen as more than it is."""
    found: dict[int, int] = {}
    for weight in weights:
        storage = weight.untyped_storage()
        found[storage.data_ptr()] = min(found.get(storage.data_ptr(), 0) + weight.numel(), storage.nbytes())
    return found


@contextmanager
def _at_most(calls: int) -> Iterator[None]:
    """Refuse to go on after so many calls of functions: a number in a file can also stand for endless layers."""
    before, made = sys.getprofile(), 0  # a profiler's, which sees none of these calls

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal made
        made += 1
        # Not within torch's own bookkeeping, such as of the device.
        if made > calls and event == "call" and frame.f_code.co_name in _STOPS:
            raise ValueError(f"it takes more than {calls} calls of functions, too many for the weights in the file")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


def _numbers(module: nn.Module) -> int:
    """How many numbers a module holds; a metric also in its states."""
    states = module._defaults.values() if isinstance(module, Metric) else ()
    tensors = [*module.parameters(), *module.buffers(), *(state for state in states if isinstance(state, Tensor))]
    return sum(tensor.numel() for tensor in tensors)


def _has_users(admitted: Any) -> bool:
    if isinstance(admitted, Recipe):
        return is_the_users(admitted.kind) or any(map(_has_users, admitted.arguments.values()))
    if isinstance(admitted, dict | list):
        return any(map(_has_users, admitted.values() if isinstance(admitted, dict) else admitted))
    return False
