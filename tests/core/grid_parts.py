"""Parts of grids (n, W, ...) of one to three dimensions: convolutions, norms and pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from model_parts import Apply, Parts, W
from torch import nn


def grid(d: int) -> Parts:
    """Of d dimensions; without spatial dimensions of their own they would be alike, so that each has all."""
    conv, up = getattr(nn, f"Conv{d}d"), getattr(nn, f"ConvTranspose{d}d")
    batch, instance = getattr(nn, f"BatchNorm{d}d"), getattr(nn, f"InstanceNorm{d}d")
    most, average = getattr(nn, f"MaxPool{d}d"), getattr(nn, f"AvgPool{d}d")

    def after(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(conv(W, W, 3, padding=1), *layers)

    return {
        f"Conv{d}d": lambda: after(nn.Tanh()),
        f"Conv{d}d, stride": lambda: nn.Sequential(conv(W, W, 3, 2, padding=1), nn.Softplus()),
        f"Conv{d}d, groups": lambda: nn.Sequential(conv(W, W, 3, padding=1, groups=2), nn.Tanh()),
        f"Conv{d}d, depthwise": lambda: nn.Sequential(conv(W, W, 3, padding=1, groups=W), conv(W, W, 1), nn.Tanh()),
        f"Conv{d}d, dilation": lambda: nn.Sequential(conv(W, W, 3, padding=2, dilation=2), nn.Tanh()),
        f"Conv{d}d, circular": lambda: nn.Sequential(conv(W, W, 3, padding=1, padding_mode="circular"), nn.Tanh()),
        f"Conv{d}d, same": lambda: nn.Sequential(conv(W, W, 2, padding="same", bias=False), nn.Tanh()),
        f"ConvTranspose{d}d": lambda: nn.Sequential(up(W, W, 3, padding=1), nn.Tanh()),
        f"ConvTranspose{d}d, stride and groups": lambda: nn.Sequential(up(W, W, 2, stride=2, groups=2), nn.Tanh()),
        f"BatchNorm{d}d": lambda: after(batch(W, track_running_stats=False), nn.Tanh()),
        f"BatchNorm{d}d without affine": lambda: after(batch(W, affine=False, track_running_stats=False), nn.Tanh()),
        f"InstanceNorm{d}d": lambda: after(instance(W), nn.Tanh()),
        f"InstanceNorm{d}d with affine": lambda: after(instance(W, affine=True), nn.Tanh()),
        f"GroupNorm of {d}d": lambda: after(nn.GroupNorm(2, W), nn.Tanh()),
        f"LocalResponseNorm of {d}d": lambda: after(nn.LocalResponseNorm(3), nn.Tanh()),
        f"MaxPool{d}d": lambda: after(most(2)),
        f"AvgPool{d}d": lambda: after(average(2), nn.Tanh()),
        f"upsampling of {d}d": lambda: after(nn.Upsample(scale_factor=2), nn.Tanh()),
        f"channel attention of {d}d": lambda: Apply(
            lambda m, x: x * torch.sigmoid(m.gate(x.flatten(2).mean(2))).reshape(*x.shape[:2], *[1] * d),
            gate=nn.Linear(W, W),
        ),
        f"ReLU in place after batch norm of {d}d": lambda: after(
            batch(W, track_running_stats=False), nn.ReLU(inplace=True), conv(W, W, 1)
        ),
    }


GRID: dict[int, Parts] = {d: grid(d) for d in (1, 2, 3)}
GRID[2] |= {
    "LPPool2d": lambda: nn.Sequential(nn.Conv2d(W, W, 1), nn.Softplus(), nn.LPPool2d(2, 2)),
    "PixelShuffle": lambda: nn.Sequential(nn.Conv2d(W, 4 * W, 1), nn.PixelShuffle(2), nn.Tanh()),
    "bilinear upsampling": lambda: nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(W, W, 2, 2), nn.Tanh()
    ),
    "Dropout2d of zero": lambda: nn.Sequential(nn.Conv2d(W, W, 1), nn.Dropout2d(0.0), nn.Tanh()),
    "AdaptiveMaxPool2d": lambda: nn.Sequential(nn.Conv2d(W, W, 1), nn.AdaptiveMaxPool2d(2)),
    "unfold": lambda: Apply(
        lambda m, x: torch.tanh(m.layer(F.unfold(x, 2).transpose(1, 2)).transpose(1, 2).unsqueeze(-1)),
        layer=nn.Linear(4 * W, W),
    ),
}
