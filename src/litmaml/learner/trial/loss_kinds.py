"""What targets a loss takes."""

from __future__ import annotations

from torch import nn

from litmaml.problems.losses import HalfSquaredLoss, LogCoshLoss


def takes_class_indices(loss: nn.Module) -> bool:
    """Whether a loss of torch takes scores of classes (n, classes, ...) and the true class's index (n, ...)."""
    return isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss | nn.MultiMarginLoss)


def is_elementwise(loss: nn.Module) -> bool:
    """Whether targets have to be of the predictions' shape, as for all losses of torch without class indices."""
    own = isinstance(loss, HalfSquaredLoss | LogCoshLoss)
    return own or (type(loss).__module__.startswith("torch.nn.") and not takes_class_indices(loss))


def ignored_index(loss: nn.Module) -> int | None:
    """The index that stands for no class, at places that count neither in the loss nor in an accuracy; or None."""
    ignored = getattr(loss, "ignore_index", None)
    return ignored if isinstance(ignored, int) else None
