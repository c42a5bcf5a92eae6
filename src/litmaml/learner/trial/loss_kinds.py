"""What targets a loss takes."""

from __future__ import annotations

from torch import nn

from litmaml.inner.class_losses import takes_class_indices
from litmaml.problems.losses import HalfSquaredLoss, LogCoshLoss


def is_elementwise(loss: nn.Module) -> bool:
    """Whether targets have to be of the predictions' shape, as for all losses of torch without class indices."""
    own = isinstance(loss, HalfSquaredLoss | LogCoshLoss)
    return own or (type(loss).__module__.startswith("torch.nn.") and not takes_class_indices(loss))
