"""Where the derivative of a model jumps."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from litmaml.inner.layers import kinked_layers
from litmaml.inner.loop import InnerLoop
from litmaml.tasks import Tasks, select

_KINKED = (
    "relu",
    "relu6",
    "leaky_relu",
    "rrelu_with_noise",
    "threshold",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "hardshrink",
    "softshrink",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
)
"""Operations of torch, by their names in its dispatcher."""


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    """The names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def kinks(inner_loop: InnerLoop, tasks: Tasks) -> list[str]:
    """The layers whose derivative jumps, else the operations of that kind that a prediction runs through."""
    if layers := kinked_layers(inner_loop.model):
        return layers
    fast, _ = inner_loop.shared_start(1)
    with torch.no_grad(), _Operations() as operations:
        inner_loop.predict(fast, select(tasks, [0]).query.inputs)
    return [f"forward ({name})" for name in _KINKED if name in operations.names]
