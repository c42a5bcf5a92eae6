"""Ordinary models of vectors, sets and graphs, small."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(2, 8), nn.Linear(8, 8)]
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(8, 1)
        with torch.no_grad():
            for layer in layers:
                layer.weight.uniform_(-0.3, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(5.0 * layer(x))
        return self.head(x)


class FourierFeatures(nn.Module):
    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, 4))
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        phases = 2 * math.pi * x @ self.frequencies
        return self.body(torch.cat([phases.sin(), phases.cos()], -1))


class FiLM(nn.Module):
    """Half of the input modulates what is made of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.modulation, self.head = nn.Linear(1, 6), nn.Linear(1, 12), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.modulation(x[:, 1:]).chunk(2, -1)
        return self.head(F.relu((1 + scale) * self.body(x[:, :1]) + shift))


class HyperNetwork(nn.Module):
    """A layer whose weights another layer makes for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.head = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 12)), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        made = self.maker(x)
        hidden = torch.bmm(made[:, :8].view(-1, 4, 2), x.unsqueeze(-1)).squeeze(-1) + made[:, 8:]
        return self.head(torch.tanh(hidden))


class SparseExperts(nn.Module):
    """The best two of three experts for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(2, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 1)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        best, which = self.gate(x).topk(2, dim=-1)
        every = torch.stack([expert(x) for expert in self.experts], 1)
        chosen = every.gather(1, which.unsqueeze(-1))
        return (best.softmax(-1).unsqueeze(-1) * chosen).sum(1)


class NeuralODE(nn.Module):
    """Four steps of Runge-Kutta of fourth order."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.head = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = 0.25

        def slope(t: float, state: Tensor) -> Tensor:
            return self.field(torch.cat([state, torch.full_like(state[:, :1], t)], 1))

        for k in range(4):
            a = slope(k * h, x)
            b = slope(k * h + h / 2, x + h / 2 * a)
            c = slope(k * h + h / 2, x + h / 2 * b)
            x = x + h / 6 * (a + 2 * b + 2 * c + slope((k + 1) * h, x + h * c))
        return self.head(x)


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for body, gate in zip(self.bodies, self.gates, strict=True):
            open_ = torch.sigmoid(gate(x) - 1)
            x = open_ * F.relu(body(x)) + (1 - open_) * x
        return self.head(x)


def weight_normalised() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(2, 8)), nn.Tanh(), norm(nn.Linear(8, 8)), nn.Tanh(), norm(nn.Linear(8, 1)))


class Equilibrium(nn.Module):
    """A fixed point, by eight rounds of the same layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(4, 4), nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        z, given = torch.zeros(len(x), 4, dtype=x.dtype, device=x.device), self.outer(x)
        for _ in range(8):
            z = torch.tanh(0.5 * self.inner(z) + given)
        return self.head(z)


class RadialBases(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres, self.log_widths, self.head = (
            nn.Parameter(torch.randn(6, 2)),
            nn.Parameter(torch.zeros(6)),
            nn.Linear(6, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head((-(x.unsqueeze(1) - self.centres).square().sum(-1) * self.log_widths.exp()).exp())


class DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8))
        self.all = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.all(self.each(x).sum(1))


class PointNet(nn.Module):
    """With a transformation of the points that it finds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(nn.Linear(3, 8), nn.ReLU())
        self.to_matrix = nn.Linear(8, 9)
        self.each = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.to_matrix(self.turn(x).max(1).values).view(-1, 3, 3) + torch.eye(
            3, dtype=x.dtype, device=x.device
        )
        return self.head(self.each((x @ matrix).mT).max(-1).values)


class GraphConvolution(nn.Module):
    """Nodes (n, 5, 3) beside their dense adjacency (n, 5, 5) in one input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        nodes, adjacency = x[..., :3], x[..., 3:].sigmoid() + torch.eye(5, dtype=x.dtype, device=x.device)
        root = adjacency.sum(-1, keepdim=True).rsqrt()
        adjacency = root * adjacency * root.mT
        nodes = F.relu(adjacency @ self.first(nodes))
        return self.head((adjacency @ self.second(nodes)).mean(1))


class SetTransformer(nn.Module):
    """Induced points between two attentions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.points = nn.Linear(3, 8), nn.Parameter(torch.randn(1, 2, 8))
        self.inwards = nn.MultiheadAttention(8, 2, batch_first=True)
        self.outwards = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        few = self.inwards(self.points.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        return self.head(self.outwards(x, few, few, need_weights=False)[0].mean(1))


class MovingCodebook(nn.Module):
    """Vector quantisation whose code words follow moving averages."""

    words: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 4), nn.Linear(4, 1)
        self.register_buffer("words", torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        code = self.body(x)
        nearest = torch.cdist(code, self.words).argmin(-1)
        if self.training:
            with torch.no_grad():
                chosen = F.one_hot(nearest, 5).to(code.dtype)
                self.words.lerp_(chosen.T @ code / (chosen.sum(0).unsqueeze(1) + 1), 0.1)
        return self.head(code + (self.words[nearest] - code).detach())
