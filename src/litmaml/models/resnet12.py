"""The residual network of the few-shot literature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from litmaml.inner.batch_norms import settle


class ResNet12(nn.Module):
    """Four residual blocks of three 3 x 3 convolutions each, global average pooling, then a linear head.

    Images (n, channels, height, width) to logits (n, ways), of any height and width from 16 pixels. The body is
    ``body.*``, the head ``head.*``. After Mishra et al. 2018 (SNAIL, arXiv 1707.03141); widths (64, 128, 256, 512) are
    those of Oreshkin et al. 2018 (TADAM, arXiv 1805.10123), widths (64, 160, 320, 640) those of Lee et al. 2019
    (MetaOptNet, arXiv 1904.03758). Without their dropout, which an inner loop rather suffers from.

    Args:
        ways: Number of logits.
        widths: Channels of each block.
        channels: 1 for grey images, 3 for colour.
        norm: batch normalises by the statistics of the batch it is given, at test too (transductive); group treats
            every image alone.

    Raises:
        ValueError: There are not four widths, a number is below 1, or norm is unknown.
    """

    def __init__(
        self,
        ways: int = 5,
        widths: Sequence[int] = (64, 128, 256, 512),
        channels: int = 3,
        norm: Literal["batch", "group"] = "batch",
    ) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"widths: has to be one for each of four blocks, got {list(widths)}")
        for name, value in (("ways", ways), ("channels", channels), *(("widths", width) for width in widths)):
            if value < 1:
                raise ValueError(f"{name}: has to be at least 1, got {value}")
        if norm not in ("batch", "group"):
            raise ValueError(f"norm: got {norm!r}; one of batch, group")
        self.ways, self.widths, self.channels, self.norm = ways, list(widths), channels, norm
        before = (channels, *widths)
        self.body = nn.Sequential(
            *(_Block(inputs, outputs) for inputs, outputs in zip(before, widths, strict=False)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(widths[-1], ways)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out")
        settle(self, norm)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


class _Block(nn.Module):
    """Three convolutions with a way around them, then half the height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(3):
            layers += [nn.Conv2d(inputs if k == 0 else outputs, outputs, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)]
        self.convolutions = nn.Sequential(*layers[:-1])
        self.around = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.end(self.convolutions(x) + self.around(x))
        return halved
