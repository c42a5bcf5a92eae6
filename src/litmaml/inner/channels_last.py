"""Images for kernels in channels-last format: a convolution takes the format of its work from both."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def has_channels_last(model: nn.Module) -> bool:
    """Whether a kernel of the model is in channels-last format, and in no other at the same time."""
    return any(
        weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        for weight in model.parameters()
    )


def to_channels_last(module: nn.Module) -> None:
    """Bring all kernels of two-dimensional convolutions, and what else is as they are, into channels-last format."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def channels_last(images: Tensor) -> Tensor:
    """The images (n, channels, height, width) with strides in the order of n, height, width, channels; others as are.

    For a single channel torch's own conversion keeps the strides, from which convolutions then take it that the images
    are not channels-last, and go on so down to the layers that do most of the work.
    """
    if images.dim() != 4 or torch._C._functorch.is_batchedtensor(images):  # of several tasks at once: see below
        return images
    channels = images.movedim(1, -1)
    return channels.flatten().view(channels.shape).movedim(-1, 1)


def channels_last_of_tasks(images: Tensor) -> Tensor:
    """Several tasks' images (T, n, channels, height, width), the tasks' channels side by side; others as are.

    As the images of one convolution with T times as many channels, which ``vmap`` makes of them, they are then
    channels-last too.
    """
    if images.dim() != 5:
        return images
    return images.permute(1, 3, 4, 0, 2).contiguous().permute(3, 0, 4, 1, 2)
