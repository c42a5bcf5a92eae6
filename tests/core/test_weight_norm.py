"""The second derivative of weight normalisation, which torch's own fused operation has wrong on CPUs."""

from __future__ import annotations

import warnings
from typing import cast

import pytest
import torch
from oracles import random_tasks, relative
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils import weight_norm as hooked_weight_norm
from unrolling import unrolled
from update_rules import sgd

from litmaml.inner import SGD
from litmaml.inner.derivatives import Derivatives
from litmaml.inner.loop import InnerLoop
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf

SHAPES = [(3, 4), (4, 2, 3), (2, 3, 3, 2), (5,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_derivatives(shape: tuple[int, ...], dim: int) -> None:
    if dim >= len(shape):
        return
    v = torch.randn(shape)
    g = torch.rand_like(torch.norm_except_dim(v, 2, dim)) + 0.5

    def replaced(v: Tensor, g: Tensor) -> Tensor:
        with Derivatives():
            return torch._weight_norm(v, g, dim)

    torch.testing.assert_close(replaced(v, g), torch._weight_norm(v, g, dim), rtol=1e-13, atol=1e-14)
    leaves = v.requires_grad_(), g.requires_grad_()
    assert torch.autograd.gradcheck(replaced, leaves)
    assert torch.autograd.gradgradcheck(replaced, leaves)


def layers(kind: str) -> nn.Module:
    first, last = nn.Linear(1, 5), nn.Linear(5, 1)
    if kind == "hooked":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch prefers the parametrization; older models have it
            return nn.Sequential(hooked_weight_norm(first), nn.Tanh(), hooked_weight_norm(last))
    return nn.Sequential(
        parametrizations.weight_norm(first, dim=cast(int, None)), nn.Tanh(), parametrizations.weight_norm(last, dim=1)
    )


class Unfused(nn.Module):
    """The same model, its weights made by division in the open, for an oracle that torch's kernel does not touch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({n.replace(".", "/"): p for n, p in model.named_parameters()})

    def forward(self, x: Tensor) -> Tensor:
        for layer, dim in (("0", -1), ("2", 1)):
            g, v, bias = (
                self.weights[f"{layer}/{n}"]
                for n in ("parametrizations/weight/original0", "parametrizations/weight/original1", "bias")
            )
            length = v.square().sum().sqrt() if dim == -1 else v.square().sum(0, keepdim=True).sqrt()
            x = x @ (v * g / length).T + bias
            x = torch.tanh(x) if layer == "0" else x
        return x


@pytest.mark.parametrize("chunk", [1, None])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_exact_outer_gradient(chunk: int | None, recompute: bool) -> None:
    model, tasks = layers("parametrized"), random_tasks(3)
    loop = InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], 2)
    plain = InnerLoop(Unfused(model), nn.MSELoss(), SGD(0.1), ["*"], 2)
    true = unrolled(plain, tasks, 2, plain.fast_names, sgd()).gradients
    found = MetaGradientOf(loop, SecondOrder(recompute), 2, chunk)(tasks).gradients
    renamed = {f"model.weights.{n.removeprefix('model.').replace('.', '/')}": g for n, g in found.items()}
    assert relative(renamed, true) < 1e-12


def test_the_older_kind_by_hooks() -> None:
    model, tasks = layers("hooked"), random_tasks(3)
    looped, mapped = (
        MetaGradientOf(InnerLoop(model, nn.MSELoss(), SGD(0.1), ["*"], 2), SecondOrder(), 2, chunk)(tasks)
        for chunk in (1, None)
    )
    assert relative(looped.gradients, mapped.gradients) < 1e-12
