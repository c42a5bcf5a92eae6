"""Copies of modules, on which something can be tried without a trace in the module itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from litmaml.learner.trial.reached import FunctionCopies, not_copied, reached

M = TypeVar("M", bound=nn.Module)


def copy_of(module: M, share_weights: bool = False) -> M:
    """A deep copy, also of a module that keeps computed tensors in attributes (weight norm by hooks, last attention).

    Functions in attributes and hooks are copied with what they close over: a closure over a weight or a dictionary of
    the module has that of the copy. Objects that cannot be copied, such as a lock or an open file, are shared.

    Args:
        module: What to copy.
        share_weights: Leave the parameters themselves in the copy; it has to leave them as they are.

    Raises:
        Exception: Whatever a module that cannot be copied raises.
    """
    shared = [*module.parameters()] if share_weights else []
    try:
        return _copy(module, shared)
    except Exception:
        if not (others := not_copied(module)):
            raise
        return _copy(module, [*shared, *others])


def _copy(module: M, shared: Sequence[Any]) -> M:
    everything = reached(module)
    memo: dict[int, Any] = {id(t): values_of(t) for t in everything if isinstance(t, Tensor) and _cannot_be_copied(t)}
    memo |= {id(value): value for value in (*shared, *_profilers(module))}
    functions = FunctionCopies([value for value in everything if isinstance(value, FunctionType)], memo)
    with torch.no_grad():  # a scripted part would hold its copies as computed from its own
        copied = copy.deepcopy(module, memo)
        functions.fill()
    for own, weight in zip(module.parameters(), copied.parameters(), strict=True):
        weight.requires_grad_(own.requires_grad)
    return copied


def in_double_precision(module: M) -> M:
    """The module itself, on the CPU with all real numbers in float64, also those that it keeps in attributes."""
    module.to("cpu").double()
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(part, name, value.detach().to("cpu", torch.float64))
    return module


def kept_values(module: nn.Module) -> dict[str, Any]:
    """Numbers, texts and tensors that the modules keep in plain attributes and in containers there, by name."""
    kept: dict[str, Any] = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if (name.startswith("_") and name in _OWN) or name == "training":
                continue
            for key, leaf in pytree.tree_leaves_with_path(value):
                if isinstance(leaf, Tensor | bool | int | float | str):
                    kept[f"{path}.{name}".lstrip(".") + pytree.keystr(key)] = leaf
    return kept


def values_of(kept: Tensor) -> Tensor:
    """A copy; of what is left of a pass over several tasks at once, which no longer has values, a zero."""
    if torch._C._functorch.is_functorch_wrapped_tensor(kept):
        return torch.zeros(())
    return kept.detach().clone()


def _cannot_be_copied(kept: Tensor) -> bool:
    return not kept.is_leaf or torch._C._functorch.is_functorch_wrapped_tensor(kept)


def _profilers(module: nn.Module) -> Iterator[Any]:
    """What notes the calls of parts for ``trainer.profiler=pytorch``: it only looks on, and cannot be copied."""
    for part in module.modules():
        for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values()):
            owner = getattr(getattr(hook, "func", None), "__self__", None)
            if type(owner).__module__.startswith("lightning.pytorch.profilers"):
                yield owner


_OWN = frozenset(vars(nn.Module()))
"""What every module has: parameters, buffers, sub-modules and hooks."""
