"""Training or evaluation: the mode of each part of a module, which need not be that of the whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from torch import nn


def in_evaluation(module: nn.Module) -> list[str]:
    """The names of the parts in evaluation, such as a frozen body's batch norms; the module itself is ``""``."""
    return [name for name, part in module.named_modules() if not part.training]


def put(module: nn.Module, evaluated: Collection[str]) -> None:
    """Put the parts of these names into evaluation, and all others into training."""
    names = {*evaluated}
    for name, part in module.named_modules():
        part.training = name not in names


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Put each part's own mode back afterwards: ``train()`` would put all of them into training."""
    evaluated = in_evaluation(module)
    try:
        yield
    finally:
        put(module, evaluated)
