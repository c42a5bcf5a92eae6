"""Where a model's parameters stand: one may stand in several places, and a module too."""

from __future__ import annotations

from torch import nn


def aliases(model: nn.Module) -> dict[str, str]:
    """The further places of tied parameters: another name of a place, by which it can be set, to the parameter's own.

    A place is an attribute of a module. A module that stands in the model twice has its attributes once: to set one by
    both of its names would set it twice, and to put back what was there before, in the same order, would leave what the
    first had set. ``named_parameters`` gives a parameter the name of its first place.
    """
    first: dict[int, str] = {}
    further: dict[str, str] = {}
    for path, module in model.named_modules():
        for name, weight in module.named_parameters(path, recurse=False, remove_duplicate=False):
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
