"""Where a model's weights stand: one may stand in several places, and a module too; two may share their memory."""

from __future__ import annotations

from itertools import chain, combinations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def aliases(model: nn.Module) -> dict[str, str]:
    """The further places of tied weights: another name of a place, by which it can be set, to the weight's own.

    Weights are parameters and buffers, since one of these may be adapted too.

    A place is an attribute of a module. A module that stands in the model twice has its attributes once: to set one by
    both of its names would set it twice, and to put back what was there before, in the same order, would leave what the
    first had set. ``named_parameters`` gives a parameter the name of its first place, ``named_buffers`` a buffer.
    """
    first: dict[int, str] = {}
    further: dict[str, str] = {}
    for path, module in model.named_modules():
        for name, weight in chain(
            module.named_parameters(path, recurse=False, remove_duplicate=False),
            module.named_buffers(path, recurse=False, remove_duplicate=False),
        ):
            if id(weight) in first:
                further[name] = first[id(weight)]
            else:
                first[id(weight)] = name
    return further


def all_places(model: nn.Module) -> dict[str, str]:
    """All further names of parameters, also by a module that stands in the model twice, to their first names."""
    first: dict[int, str] = {}
    weights = list(model.named_parameters(remove_duplicate=False))
    for name, weight in weights:
        first.setdefault(id(weight), name)
    return {name: first[id(weight)] for name, weight in weights if first[id(weight)] != name}


def in_the_same_memory(model: nn.Module) -> list[tuple[str, str]]:
    """Pairs of a trainable parameter and another parameter or a buffer of which a number lies at the same address.

    One of the two changes with the other where it is written to, as the outer optimizer does, but not where another
    tensor stands in its place, as in inner steps. A parameter that stands in several places is one.
    """
    by_storage: dict[int, list[tuple[str, Tensor]]] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not is_lazy(tensor) and tensor.layout == torch.strided and not tensor.is_meta and tensor.numel():
            by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor))
    return [
        (one, other)
        for together in by_storage.values()
        for (one, first), (other, second) in combinations(together, 2)
        if (first.requires_grad or second.requires_grad) and first is not second and _overlap(first, second)
    ]


def _overlap(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one storage have a number in common; parts that lie between each other have none."""
    ranges = [(t.data_ptr(), t.data_ptr() + _reach(t) * t.element_size()) for t in (first, second)]
    start, end = max(low for low, _ in ranges), min(high for _, high in ranges)
    if start >= end or first.element_size() != second.element_size():
        return start < end
    low = min(first.storage_offset(), second.storage_offset())
    used = torch.zeros(max(t.storage_offset() + _reach(t) for t in (first, second)) - low, dtype=torch.bool)
    used.as_strided(first.shape, first.stride(), first.storage_offset() - low).fill_(True)
    return bool(used.as_strided(second.shape, second.stride(), second.storage_offset() - low).any())


def _reach(tensor: Tensor) -> int:
    """How many numbers further than its first one a tensor's memory ends."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
