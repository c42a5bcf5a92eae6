"""Parts of models that are hard to adapt rightly: weights in two places, state, randomness, changes in place.

Each keeps the shape of vectors (n, W), as ``model_parts`` has it.
"""

from __future__ import annotations

import dataclasses
import random
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from model_parts import Apply, Make, W, linear, weight
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

Must = Literal["equal", "refused", "refused where exact", "either"]


class Trouble(NamedTuple):
    """A part, whether a right answer or a refusal must come of it, and whether it draws random numbers.

    ``single``: it computes in float32. ``plain``: a part that computes the same and can be copied.
    """

    make: Make
    must: Must = "either"
    random: bool = False
    single: bool = False
    plain: Make | None = None


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

    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.how = nn.Linear(W, W), how
        self.register_buffer("mean", torch.zeros(W))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.calls, self.kept, self.seen = 0, None, []

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


# Changes in place, branches, checkpoints, dtypes.


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool, sequential: bool = False) -> None:
        super().__init__()
        self.body, self.reentrant, self.sequential = nn.Sequential(*linear(nn.Tanh())), reentrant, sequential

    def forward(self, x: Tensor) -> Tensor:
        if self.sequential:
            return checkpoint_sequential(self.body, 2, x, use_reentrant=self.reentrant)
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


def written(function: Callable[[nn.Module, Tensor], Tensor], must: Must = "either", **options: bool) -> Trouble:
    return Trouble(lambda: Apply(function, body=nn.Linear(W, W), other=nn.Linear(W, W)), must, **options)


def filled(m: nn.Module, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 0], y[:, 1:] = m.body(x)[:, 0], torch.tanh(m.other(x))[:, 1:]
    return y


def filled_with_new(m: nn.Module, x: Tensor) -> Tensor:
    y = torch.zeros(x.shape)
    y[:, :2] = torch.tanh(m.body(x))[:, :2]
    return y


@dataclasses.dataclass
class Result:
    hidden: Tensor


WRITTEN: dict[str, Trouble] = {
    "in place: tanh_": written(lambda m, x: m.other(m.body(x).tanh_())),
    "in place: mul_ of a product": written(lambda m, x: m.body(x).mul_(m.other(x)).mul_(0.5)),
    "in place: assigned slices": written(filled),
    "in place: slices of new zeros": written(filled_with_new),
    "branch on the data": written(lambda m, x: m.body(x) if x.mean() > 0 else torch.tanh(m.other(x))),
    "branch on a number taken out": written(lambda m, x: m.body(x) * (2.0 if m.other(x).sum().item() > 0 else 1.0)),
    "branch by torch.where": written(lambda m, x: torch.where(x > 0, m.body(x), torch.tanh(m.other(x))), "equal"),
    "loop of as many rounds as the data say": written(
        lambda m, x: [x := torch.tanh(m.body(x)) for _ in range(1 + int(x.abs().sum()) % 3)][-1]
    ),
    "boolean mask": written(lambda m, x: m.body(x).masked_fill(x > 0.5, 0.0), "equal"),
    "boolean index": written(lambda m, x: m.body(x) + x[x > 0].sum()),
    "hard routing": written(
        lambda m, x: torch.stack([m.body(x), m.other(x)], 1).gather(
            1, m.body(x).argmax(-1).remainder(2).reshape(-1, 1, 1).expand(-1, 1, W)
        )[:, 0],
        "equal",
    ),
    "detached part": written(lambda m, x: m.body(x) * m.other(x).detach(), "equal"),
    "straight-through rounding": written(lambda m, x: (y := m.body(x)) + (y.round() - y).detach()),
    "no_grad part": written(lambda m, x: _without_grad(m.other, x) + m.body(x), "equal"),
    "reads training": written(lambda m, x: m.body(x) * 2 if m.training else torch.tanh(m.body(x)), "equal"),
    "reads requires_grad": written(lambda m, x: m.body(x) * (2.0 if m.body.weight.requires_grad else 1.0)),
    "reads whether gradients are on": written(lambda m, x: m.body(x) * (2.0 if torch.is_grad_enabled() else 1.0)),
    "checkpointed": Trouble(lambda: Checkpointed(False)),
    "checkpointed, reentrant": Trouble(lambda: Checkpointed(True)),
    "checkpointed, sequential": Trouble(lambda: Checkpointed(False, True)),
    "checkpointed dropout": Trouble(
        lambda: Apply(lambda m, x: checkpoint(m.body, x, use_reentrant=False), body=linear(nn.Dropout(0.3), nn.Tanh())),
        random=True,
    ),
    "its own gradient": written(
        lambda m, x: torch.autograd.grad(
            torch.tanh(m.body(z := x.detach().requires_grad_())).sum(), z, create_graph=True
        )[0]
    ),
    "float32 inside": written(lambda m, x: torch.tanh(m.body(x).float()).double(), single=True),
    "numpy inside": written(lambda m, x: torch.from_numpy(np.tanh(m.body(x).detach().numpy())) + m.other(x)),
    "own autograd.Function": written(lambda m, x: _Cube.apply(torch.tanh(m.body(x)))),
    "own autograd.Function, wrong second derivative": Trouble(
        lambda: Apply(lambda m, x: _Square.apply(torch.tanh(m.body(x))), body=nn.Linear(W, W)),
        "refused where exact",
    ),
}


def _without_grad(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class _Square(torch.autograd.Function):
    """Right to first order, with a constant for its second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * ctx.x * g


TROUBLES: dict[str, Trouble] = SHARED | PARAMETRIZED | RANDOM | STATEFUL | WRITTEN
