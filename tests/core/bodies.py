"""A small model with something of a test's own in its forward pass, and its trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from oracles import random_tasks
from torch import Tensor, nn

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.outer import OuterGradient, SecondOrder

Forward = Callable[["Body", Tensor], Any]


class Body(nn.Module):
    """One hidden layer with something of a test's own in its forward pass."""

    def __init__(self, forward: Forward, **parts: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 4), nn.Linear(4, 1)
        self.own = forward
        for name, part in parts.items():
            setattr(self, name, part)

    if TYPE_CHECKING:  # the parts are what each test makes them

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def forward(self, x: Tensor) -> Any:
        return self.own(self, x)

    def plain(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.last(torch.tanh(self.first(x)))
        return predicted


class WrongSine(torch.autograd.Function):
    """sin, whose derivative is right and its own derivative missing: cos is saved as a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x.cos()
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.kept


class Reversed(torch.autograd.Function):
    """Its input, whose gradient is turned round and halved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -0.5 * g


def loop_of(model: nn.Module, loss: nn.Module | None = None) -> InnerLoop:
    return InnerLoop(model, loss or nn.MSELoss(), SGD(0.1), ["*"], 2)


def tried(
    model: nn.Module, outer_gradient: OuterGradient | None = None, loss: nn.Module | None = None
) -> tuple[InnerLoop, list[str]]:
    loop = loop_of(model, loss)
    return loop, try_first_batch(loop, random_tasks(3), outer_gradient or SecondOrder())
