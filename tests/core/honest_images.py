"""Ordinary models of images, small: as they are written in papers and by users."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv4(norm: str = "batch", left: int = 1, filters: int = 4) -> nn.Module:
    """Of Vinyals et al. and MAML: convolution, norm, ReLU and max-pooling four times; so many places are left."""

    def block(inputs: int) -> nn.Sequential:
        layers = {
            "batch": lambda: nn.BatchNorm2d(filters, track_running_stats=False),
            "running": lambda: nn.BatchNorm2d(filters),
            "instance": lambda: nn.InstanceNorm2d(filters, affine=True),
        }
        return nn.Sequential(
            nn.Conv2d(inputs, filters, 3, padding=1), layers[norm](), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )

    blocks = [block(filters if k else 1) for k in range(4)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(filters * left, 3))


class Residual(nn.Module):
    """A block of ResNet-12 (three convolutions, leaky ReLU) or of a ResNet with group norm (two, ReLU)."""

    def __init__(self, inputs: int, outputs: int, norm: str, depth: int) -> None:
        super().__init__()
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        for k in range(depth):
            self.convolutions.append(nn.Conv2d(inputs if k == 0 else outputs, outputs, 3, padding=1, bias=False))
            self.norms.append(
                nn.GroupNorm(2, outputs) if norm == "group" else nn.BatchNorm2d(outputs, track_running_stats=False)
            )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.activation = nn.ReLU(inplace=True) if norm == "group" else nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for k, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            out = norm(convolution(out))
            if k < len(self.convolutions) - 1:
                out = self.activation(out)
        out += self.shortcut(x)
        return F.max_pool2d(self.activation(out), 2)


def resnet(norm: str, depth: int) -> nn.Module:
    body = [Residual(1, 4, norm, depth), Residual(4, 6, norm, depth)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


class ViT(nn.Module):
    """Patches, a class token, learnt positions, an encoder."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.encoder(tokens))[:, 0])


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(1e-1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.narrow(F.gelu(self.widen(out)))).permute(0, 3, 1, 2)


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.across = nn.Sequential(nn.Linear(tokens, 8), nn.GELU(), nn.Linear(8, tokens))
        self.within = nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norms[0](x).mT).mT
        return x + self.within(self.norms[1](x))


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(1, 6, 4, 4), nn.Sequential(MixerBlock(16, 6), MixerBlock(16, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).mT).mean(1))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int, gate: type[nn.Module]) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(2, width, 1), gate(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def mobile(inputs: int, outputs: int, gate: type[nn.Module] = nn.Sigmoid, stride: int = 2) -> nn.Module:
    """Expansion, depthwise convolution, squeeze and excitation, projection."""
    return nn.Sequential(
        nn.Conv2d(inputs, 6, 1, bias=False), nn.GroupNorm(1, 6), nn.ReLU6(inplace=True),
        nn.Conv2d(6, 6, 3, stride, 1, groups=6, bias=False), nn.GroupNorm(1, 6), nn.Hardswish(inplace=True),
        SqueezeExcite(6, gate), nn.Conv2d(6, outputs, 1, bias=False), nn.GroupNorm(1, outputs),
    )  # fmt: skip


class Dense(nn.Module):
    """DenseNet: each layer sees all before."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(1 + 3 * k, track_running_stats=False), nn.ReLU(), nn.Conv2d(1 + 3 * k, 3, 3, padding=1)
            )
            for k in range(3)
        )
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(layer(torch.cat(seen, 1)))
        return self.head(F.adaptive_avg_pool2d(torch.cat(seen, 1), 1).flatten(1))


class Capsules(nn.Module):
    """Routing by agreement over three rounds, with the routing's own gradient cut off before the last."""

    def __init__(self) -> None:
        super().__init__()
        self.primary = nn.Conv2d(1, 8, 5, 4)
        self.weight = nn.Parameter(0.3 * torch.randn(18, 3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        capsules = squash(self.primary(x).unflatten(1, (2, 4)).movedim(2, -1).flatten(1, 3))
        votes = torch.einsum("niu,icuv->nicv", capsules, self.weight)
        agreement = torch.zeros_like(votes[..., 0])
        for _ in range(2):
            outputs = squash((agreement.softmax(2).unsqueeze(-1) * votes).sum(1))
            agreement = agreement + (votes.detach() * outputs.detach().unsqueeze(1)).sum(-1)
        return squash((agreement.softmax(2).unsqueeze(-1) * votes).sum(1)).square().sum(-1).add(1e-9).sqrt()


def squash(x: Tensor) -> Tensor:
    size = x.square().sum(-1, keepdim=True)
    return size / (1 + size) * x / (size + 1e-9).sqrt()


class SpatialTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        last = nn.Linear(72, 6)
        self.where = nn.Sequential(nn.Conv2d(1, 2, 5, 2), nn.ReLU(), nn.Flatten(), last)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3))

    def forward(self, x: Tensor) -> Tensor:
        places = F.affine_grid(self.where(x).view(-1, 2, 3), list(x.shape), align_corners=False)
        return self.body(F.grid_sample(x, places, align_corners=False))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList([nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 5, padding=2)])
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = [F.relu(way(x), inplace=True) for way in self.ways] + [F.max_pool2d(x, 3, 1, 1)]
        return self.head(torch.cat(found, 1).mean((2, 3)))


class AttentionPooling(nn.Module):
    """A learnt query looks at all places; what it looked at is kept for pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.query = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.GELU()), nn.Parameter(torch.randn(1, 1, 4))
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)
        self.looked_at: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        places = self.body(x).flatten(2).mT
        pooled, weights = self.attention(self.query.expand(len(x), -1, -1), places, places)
        self.looked_at = weights.detach()
        return self.head(pooled[:, 0])


class CosineHead(nn.Module):
    """Cosines to class weights, with a learnt temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.classes, self.log_scale = nn.Parameter(torch.randn(3, 16)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.log_scale.exp() * F.linear(F.normalize(self.body(x), dim=1), F.normalize(self.classes, dim=1))
