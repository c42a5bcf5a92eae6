"""Max-pooling by halves without the places of what is left, which only gradients need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_halving(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> bool:
    """Whether it is 2 x 2 to one, side by side."""
    sizes = [kernel_size, 2 if stride is None else stride, padding, dilation]
    pairs = [tuple(size) if isinstance(size, Sequence) else (size, size) for size in sizes]
    return pairs == [(2, 2), (2, 2), (0, 0), (1, 1)] and not ceil_mode and not return_indices


def may_be_sliced(y: Tensor) -> bool:
    """Whether ``halved`` is for it: floating-point images on a CPU, which torch would not refuse.

    What is left lies in memory as torch's pooling leaves it, for a ``view`` behind it.
    """
    images = y.is_cpu and y.is_floating_point() and y.dim() in (3, 4) and y.numel() > 0 and min(y.shape[-2:]) > 1
    return images and (_descends(y) or _descends(y.movedim(-3, -1)))


def _descends(y: Tensor) -> bool:
    strides = [stride for stride, size in zip(y.stride(), y.shape, strict=True) if size > 1]
    return strides == sorted(strides, reverse=True)


def halved(y: Tensor) -> Tensor:
    """The largest of each 2 x 2 values without their places, which takes torch up to ten times as long on a CPU."""
    height, width = (size // 2 * 2 for size in y.shape[-2:])
    rows = torch.maximum(y[..., 0:height:2, :], y[..., 1:height:2, :])
    return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])
