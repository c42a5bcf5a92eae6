"""Convolution by a matrix product, for kernels of each task's own on a GPU, and for those that cut images into patches.

Under ``vmap`` such kernels make a grouped convolution. Where float32 may not round to TF32, cuDNN computes its
derivatives group by group, in thousands of short kernels: on an H100 they take most of a meta-gradient's time. With the
patches of the images as rows, one batched matrix product does for all tasks. Inside of ``Grouped`` they stay grouped,
which other precisions and devices may compute faster. Where patches do not overlap, as those of a vision transformer,
they take no more memory than the images, and the product is faster on a CPU, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from litmaml.engine.switches import is_on
from litmaml.engine.twice_differentiable import pair


class Grouped:
    """A context in which kernels of each task's own make a grouped convolution, on a GPU too.

    Attributes:
        met: Whether there were such kernels inside.
    """

    entered: ClassVar[list[Grouped]] = []

    def __init__(self) -> None:
        self.met = False

    def __enter__(self) -> Self:
        self.entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.entered.pop()


def convolution(
    input: Tensor,  # named as torch does
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    otherwise: Callable[..., Tensor] = torch.conv2d,
) -> Tensor:
    """``torch.conv2d``, by rows (n h w, c k k) of patches times the kernels (c k k, o) where that is faster."""
    plain = input.dim() == 4 and groups == 1 and pair(dilation) == (1, 1) and not isinstance(padding, str)
    if _are_taken_wrong(input, weight):
        weight = weight.contiguous()
    if not (plain and is_on("convolution") and _by_patches(weight, stride)):
        # In pairs: of one number in a list torch makes something else under vmap.
        at_sides = padding if isinstance(padding, str) else pair(padding)
        return otherwise(input, weight, bias, pair(stride), at_sides, pair(dilation), groups)
    (down, right), (above, beside) = pair(stride), pair(padding)
    height, width = weight.shape[-2:]
    patches = functional.pad(input, (beside, beside, above, above)).unfold(2, height, down).unfold(3, width, right)
    rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)
    y = functional.linear(rows, weight.flatten(1), bias)
    return y.view(input.shape[0], *patches.shape[2:4], weight.shape[0]).permute(0, 3, 1, 2)


def _by_patches(weight: Tensor, stride: Any) -> bool:
    if _cut(weight, stride):
        return True
    if not _are_own(weight):
        return False
    for context in Grouped.entered:
        context.met = True
    return not Grouped.entered


def _are_taken_wrong(images: Tensor, weight: Tensor) -> bool:
    """Whether these may be images of which torch finds a wrong gradient by the kernels.

    So it does of a single one of each task, with kernels of each task's own, where both are in channels-last format and
    oneDNN does not compute them, as in float64 and on some machines.
    """
    single = (images.dim() < 4 or len(images) == 1) and torch._C._functorch.is_batchedtensor(weight)
    return single and weight.is_cpu and (weight.dtype == torch.float64 or not torch._C._has_mkldnn)


def _are_own(weight: Tensor) -> bool:
    """Whether each task has its own kernels, on a GPU."""
    return weight.is_cuda and torch._C._functorch.is_batchedtensor(weight)


def _cut(weight: Tensor, stride: Any) -> bool:
    """Whether each task has its own kernels, which cut images into patches side by side."""
    return tuple(weight.shape[-2:]) == pair(stride) and torch._C._functorch.is_batchedtensor(weight)
