"""Ordinary models whose output is a picture, small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def two(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(2, outputs), nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(inplace=True),
    )  # fmt: skip


class UNet(nn.Module):
    """Two levels; a class for each place."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bottom, self.side = two(1, 4), two(4, 6), two(8, 4)
        self.up, self.head = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down(x)
        below = self.bottom(F.max_pool2d(first, 2))
        return self.head(self.side(torch.cat([first, self.up(below)], 1)))


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ELU(), nn.Conv2d(4, 4, 3, 2, 1), nn.Flatten())
        self.bottleneck = nn.Linear(64, 3)
        self.decoder = nn.Sequential(
            nn.Linear(3, 64), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.ELU(inplace=True),
            nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.bottleneck(self.encoder(x)))


class Variational(Autoencoder):
    """With the reparametrisation's noise."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        code = self.encoder(x)
        mean, log_variance = self.bottleneck(code), self.spread(code)
        return self.decoder(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())
