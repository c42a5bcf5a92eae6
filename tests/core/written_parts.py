"""Parts of vectors (n, W) that change things in place, branch on their data, or leave plain operations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from model_parts import Apply, W, linear
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from trouble import Must, Trouble


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool, sequential: bool = False) -> None:
        super().__init__()
        self.body, self.reentrant, self.sequential = linear(nn.Tanh()), reentrant, sequential

    def forward(self, x: Tensor) -> Tensor:
        if self.sequential:
            return checkpoint_sequential(self.body, 2, x, use_reentrant=self.reentrant)
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


def written(function: Callable[[Any, Tensor], Tensor], must: Must = "either", single: bool = False) -> Trouble:
    return Trouble(lambda: Apply(function, body=nn.Linear(W, W), other=nn.Linear(W, W)), must, single=single)


def filled(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 0], y[:, 1:] = m.body(x)[:, 0], torch.tanh(m.other(x))[:, 1:]
    return y


def filled_with_new(m: Any, x: Tensor) -> Tensor:
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
