"""Parts of vectors (n, W) whose weights stand in two places, or are made of other weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from model_parts import Apply, Make, W, linear, weight
from torch import Tensor, nn
from torch.nn.utils import parametrize
from trouble import Trouble

# A weight or module in two places.


def twice(layer: nn.Module) -> nn.Module:
    """One module at two places of a Sequential."""
    return nn.Sequential(nn.Linear(W, W), layer, nn.Linear(W, W), layer)


class Tied(nn.Module):
    """Two layers of one matrix."""

    def __init__(self, also_bias: bool = False) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(W, W), nn.Linear(W, W)
        self.decode.weight = self.encode.weight
        if also_bias:
            self.encode.bias = self.decode.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.decode(torch.tanh(self.encode(x))))


class Listed(nn.Module):
    """Parameters used by way of plain Python containers, registered elsewhere or nowhere."""

    def __init__(self, registered: bool, module: bool = False) -> None:
        super().__init__()
        self.body, scale = linear(nn.Tanh()), weight(W)
        if registered:
            self.scale = scale
        self.scales = [scale]
        self.by_name = {"body": [self.body]} if module else {}

    def forward(self, x: Tensor) -> Tensor:
        body = self.by_name["body"][0] if self.by_name else self.body
        return body(x) * self.scales[0]


class Alias(nn.Module):
    """A sub-module reached by a second path."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.paths = nn.ModuleDict({"again": nn.Sequential(inner)})

    def forward(self, x: Tensor) -> Tensor:
        return self.paths["again"](torch.tanh(self.inner(x)))


class Closure(nn.Module):
    """A function of its own weights, made in the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(W, W)
        self.function = lambda x: torch.tanh(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Sliced(nn.Module):
    """A view of a parameter that was taken in the constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.table = weight(2, W)
        self.row = self.table[0] * 2

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.row + self.table[1])


SHARED: dict[str, Trouble] = {
    "a block called twice": Trouble(lambda: Apply(lambda m, x: m.block(m.block(x)), block=linear(nn.Tanh())), "equal"),
    "one PReLU twice": Trouble(lambda: twice(nn.PReLU()), "equal"),
    "one LayerNorm twice": Trouble(lambda: twice(nn.LayerNorm(W)), "equal"),
    "one Linear at two places": Trouble(lambda: nn.Sequential(shared := nn.Linear(W, W), nn.Tanh(), shared), "equal"),
    "one block at three places": Trouble(lambda: nn.Sequential(*[linear(nn.Tanh())] * 3), "equal"),
    "tied weights": Trouble(Tied, "equal"),
    "tied weights and biases": Trouble(lambda: Tied(True), "equal"),
    "tied, transposed": Trouble(
        lambda: Apply(lambda m, x: F.linear(torch.tanh(m.body(x)), m.body.weight.T), body=nn.Linear(W, W)), "equal"
    ),
    "tied in one and shared as module": Trouble(lambda: twice(Tied()), "equal"),
    "parameter in a list, registered": Trouble(lambda: Listed(True)),
    "parameter in a list, unregistered": Trouble(lambda: Listed(False)),
    "module in a dict, registered": Trouble(lambda: Listed(True, True)),
    "sub-module by a second path": Trouble(lambda: Alias(linear(nn.Tanh())), "equal"),
    "parameter in two ParameterLists": Trouble(
        lambda: (
            lambda shared: Apply(
                lambda m, x: torch.tanh(x * m.one[0] + m.two[0]),
                one=nn.ParameterList([shared]),
                two=nn.ParameterList([shared]),
            )
        )(weight(W)),
        "equal",
    ),
    "closure over the weights": Trouble(
        Closure, plain=lambda: Apply(lambda m, x: torch.tanh(m.body(x)), body=nn.Linear(W, W))
    ),
    "a tensor made of weights in the constructor": Trouble(Sliced, "refused"),
}


# Weights made of other weights.


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def parametrized(function: Callable[..., Any], *args: Any, **options: Any) -> Make:
    def make() -> nn.Module:
        layer = nn.Linear(W, W)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the old style, whose models are still about
            function(layer, *args, **options)
        return nn.Sequential(layer, nn.Tanh())

    return make


class Cached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(W, W)
        parametrize.register_parametrization(self.layer, "weight", Symmetric())

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():
            return torch.tanh(self.layer(torch.tanh(self.layer(x))))


_P = nn.utils.parametrizations
PARAMETRIZED: dict[str, Trouble] = {
    "weight_norm": Trouble(parametrized(_P.weight_norm)),
    "weight_norm of all": Trouble(parametrized(_P.weight_norm, dim=None)),
    "weight_norm, old": Trouble(parametrized(nn.utils.weight_norm)),
    "spectral_norm": Trouble(parametrized(_P.spectral_norm)),
    "spectral_norm, old": Trouble(parametrized(nn.utils.spectral_norm)),
    **{
        f"orthogonal, {how}": Trouble(parametrized(_P.orthogonal, orthogonal_map=how))
        for how in ("matrix_exp", "cayley", "householder")
    },
    "symmetric": Trouble(parametrized(parametrize.register_parametrization, "weight", Symmetric()), "equal"),
    "positive": Trouble(parametrized(parametrize.register_parametrization, "weight", nn.Softplus()), "equal"),
    "parametrization, cached": Trouble(Cached),
    "complex weights": Trouble(
        lambda: Apply(
            lambda m, x: torch.fft.irfft(torch.fft.rfft(x) * m.filter, n=W),
            filter=nn.Parameter(torch.randn(W // 2 + 1, dtype=torch.complex128)),
        )
    ),
}
