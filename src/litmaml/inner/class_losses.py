"""Losses that are taken of the index of the true class."""

from __future__ import annotations

from torch import nn


def takes_class_indices(loss: nn.Module) -> bool:
    """Whether a loss of torch takes scores of classes (n, classes, ...) and the true class's index (n, ...)."""
    return isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss | nn.MultiMarginLoss)


def ignored_index(loss: nn.Module) -> int | None:
    """The index that stands for no class, at places that count neither in the loss nor in an accuracy; or None."""
    ignored = getattr(loss, "ignore_index", None)
    return ignored if isinstance(ignored, int) else None
