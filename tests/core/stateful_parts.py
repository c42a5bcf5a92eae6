"""Parts of vectors (n, W) that draw random numbers, or keep something between forward passes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from model_parts import Apply, W, linear
from torch import Tensor, nn
from trouble import Trouble

# Random numbers.


def noisy(function: Callable[[Tensor], Tensor]) -> Trouble:
    return Trouble(lambda: Apply(lambda m, x: function(torch.tanh(m.body(x))), body=nn.Linear(W, W)), random=True)


class Drops(nn.Module):
    """F.dropout in training."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, self.training)


class OwnGenerator(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Linear(W, W)
        self.generator: Any = np.random.default_rng(0) if kind == "numpy" else torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.generator, torch.Generator):
            noise = torch.rand(W, generator=self.generator)
        else:
            noise = torch.from_numpy(self.generator.random(W))
        return self.body(x) * noise


RANDOM: dict[str, Trouble] = {
    "Dropout": Trouble(lambda: linear(nn.Dropout(0.3)), random=True),
    "AlphaDropout": Trouble(lambda: linear(nn.AlphaDropout(0.3)), random=True),
    "RReLU": Trouble(lambda: linear(nn.RReLU()), random=True),
    "F.dropout": Trouble(lambda: linear(Drops(), nn.Tanh()), random=True),
    "torch.rand": noisy(lambda x: x + torch.rand(x.shape)),
    "randn_like": noisy(lambda x: x * (1 + 0.1 * torch.randn_like(x))),
    "bernoulli": noisy(lambda x: x * torch.bernoulli(torch.full_like(x, 0.7))),
    "gumbel_softmax": noisy(lambda x: F.gumbel_softmax(x, tau=2.0)),
    "stochastic depth": noisy(lambda x: x if torch.rand(()) < 0.5 else 2 * x),
    "numpy's generator": noisy(lambda x: x * np.random.random()),  # noqa: NPY002  # as models do
    "Python's generator": noisy(lambda x: x * random.random()),
    "an own generator of numpy": Trouble(lambda: OwnGenerator("numpy"), random=True),
    "an own generator of torch": Trouble(lambda: OwnGenerator("torch"), random=True),
}


# State that forward passes change.


class Stateful(nn.Module):
    """A linear layer, and a forward pass that keeps something in the way told."""

    mean: Tensor
    count: Tensor

    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.how = nn.Linear(W, W), how
        self.register_buffer("mean", torch.zeros(W))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.calls = 0
        self.kept: Tensor | None = None
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.how)(torch.tanh(self.body(x)))

    def moving_average(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * y.mean(0))
        return y - self.mean

    def moving_average_anew(self, y: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * y.mean(0).detach()
        return y - self.mean

    def moving_average_for_eval(self, y: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.mean(0).detach()
            return y - y.mean(0)
        return y - self.mean

    def counter(self, y: Tensor) -> Tensor:
        self.count += 1
        return y / (1 + self.count)

    def unused_counter(self, y: Tensor) -> Tensor:
        self.count += 1
        return y

    def attribute(self, y: Tensor) -> Tensor:
        self.calls += 1
        return y * (1 + 0.1 * self.calls)

    def unused_attribute(self, y: Tensor) -> Tensor:
        self.calls += 1
        return y

    def hidden_state(self, y: Tensor) -> Tensor:
        if self.kept is not None and self.kept.shape == y.shape:
            y = y + 0.5 * self.kept
        self.kept = y.detach()
        return y

    def hidden_state_with_graph(self, y: Tensor) -> Tensor:
        if self.kept is not None and self.kept.shape == y.shape:
            y = y + 0.5 * self.kept
        self.kept = y
        return y

    def kept_activations(self, y: Tensor) -> Tensor:
        self.kept = y
        return y

    def listed_activations(self, y: Tensor) -> Tensor:
        self.seen.append(y.detach())
        return y

    def cache_of_shapes(self, y: Tensor) -> Tensor:
        if self.kept is None or len(self.kept) != y.shape[-1]:
            self.kept = torch.arange(y.shape[-1], dtype=y.dtype)
        return y * self.kept.cos()

    def cache_of_inputs(self, y: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = y.detach().mean(0)
        return y - self.kept

    def cache_of_weights(self, y: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.body.weight.norm()
        return y / self.kept

    def power_iteration(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean = F.normalize(self.body.weight.T @ (self.body.weight @ (self.mean + 1e-3)), dim=0)
        return y / (1 + (self.body.weight @ self.mean).norm())

    def weights_changed(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            self.body.weight.clamp_(-0.3, 0.3)
        return y

    def new_weights(self, y: Tensor) -> Tensor:
        self.body.bias = nn.Parameter(self.body.bias.detach() + 1)
        return y

    def codebook(self, y: Tensor) -> Tensor:
        nearest = self.mean + (y - self.mean).detach() * 0.5
        with torch.no_grad():
            self.mean.copy_(0.9 * self.mean + 0.1 * y.mean(0))
        return y + (nearest - y).detach()


_HONEST = ("cache_of_shapes",)
_HARMLESS = ("kept_activations", "listed_activations", "unused_attribute", "unused_counter")
_METHODS = [name for name, value in vars(Stateful).items() if callable(value) and name not in ("__init__", "forward")]
STATEFUL: dict[str, Trouble] = {
    **{
        f"state: {how.replace('_', ' ')}": Trouble(
            lambda how=how: Stateful(how),  # type: ignore[misc]
            "equal" if how in _HONEST else "either" if how in _HARMLESS else "refused",
        )
        for how in _METHODS
    },
    "BatchNorm1d with running statistics": Trouble(lambda: linear(nn.BatchNorm1d(W), nn.Tanh()), "refused"),
}
