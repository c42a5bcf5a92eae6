"""The four-block convolutional network of the few-shot literature."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["batch", "group", "instance", "none"]


class Conv4(nn.Module):
    """Four blocks of 3 x 3 convolution, normalisation, ReLU and halving, then a linear head (Vinyals et al. 2016).

    Images (n, channels, size, size) to logits (n, ways). The body is ``body.*``, the head ``head.*``.

    Args:
        ways: Number of logits.
        filters: Channels of each block: 64 for Omniglot, 32 for mini-ImageNet in Finn et al. 2017.
        channels: 1 for grey images, 3 for colour.
        size: Height and width of the images in pixels.
        norm: batch normalises by the statistics of the batch it is given, at test too (transductive: the images of
            a query help each other); group, instance and none treat every image alone.
        pooling: Halve by 2 x 2 max-pooling, else by convolutions of stride 2 (Omniglot in Finn et al. 2017).
        affine: Whether the normalisation has a learnt scale and shift.
        context_size: Entries of a context, the buffer ``context``, which scales and shifts the channels after the third
            normalisation by a linear map (FiLM), and is zero at the start: with ``fast_weights: [context]`` this is the
            CAVIA of Zintgraf et al. 2019 (arXiv 1810.03642), which has 100. At 0 there is none.

    Raises:
        ValueError: The images are too small for four halvings, or norm is unknown.
    """

    context: Tensor

    def __init__(
        self,
        ways: int = 5,
        filters: int = 64,
        channels: int = 1,
        size: int = 28,
        norm: Norm = "batch",
        pooling: bool = True,
        affine: bool = True,
        context_size: int = 0,
    ) -> None:
        super().__init__()
        self.ways, self.filters, self.channels, self.size = ways, filters, channels, size
        self.norm, self.pooling, self.affine, self.context_size = norm, pooling, affine, context_size
        for name, value in (("ways", ways), ("filters", filters), ("channels", channels)):
            if value < 1:
                raise ValueError(f"{name}: has to be at least 1, got {value}")
        if context_size < 0:
            raise ValueError(f"context_size: has to be at least 0, got {context_size}")
        blocks: list[nn.Module] = []
        places: list[int] = []
        width, side = channels, size
        for _ in range(4):
            side = side // 2 if pooling else (side + 1) // 2
            blocks.append(nn.Conv2d(width, filters, 3, stride=1 if pooling else 2, padding=1))
            blocks += _normalisation(norm, filters, affine)
            places.append(len(blocks))
            # Pooling first is the same function, and leaves ReLU a quarter of the numbers to hold and to go through.
            blocks += [nn.MaxPool2d(2), nn.ReLU()] if pooling else [nn.ReLU()]
            width = filters
        if side < 1:
            raise ValueError(f"size: images of {size} x {size} are too small to be halved four times")
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self._third = places[2]
        if context_size:
            self.register_buffer("context", torch.zeros(context_size))
            self.film = nn.Linear(context_size, 2 * filters, bias=False)
        self.head = nn.Linear(filters * side * side, ways)

    def forward(self, images: Tensor) -> Tensor:
        if self.context_size:
            scale, shift = self.film(self.context)[:, None, None].chunk(2)
            channels = self.body[: self._third](images)
            logits: Tensor = self.head(self.body[self._third :](channels + scale * channels + shift))
        else:
            logits = self.head(self.body(images))
        return logits


def _normalisation(norm: Norm, filters: int, affine: bool) -> list[nn.Module]:
    if norm == "batch":
        return [nn.BatchNorm2d(filters, affine=affine, track_running_stats=False)]
    if norm == "group":
        groups = next(g for g in (8, 4, 2, 1) if filters % g == 0)
        return [nn.GroupNorm(groups, filters, affine=affine)]
    if norm == "instance":
        return [nn.InstanceNorm2d(filters, affine=affine)]
    if norm == "none":
        return []
    raise ValueError(f"norm: got {norm!r}; one of batch, group, instance, none")
