"""Which autograd Function is being applied, in every way that one is written and called."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from litmaml.learner.trial.applied import Application, applied

FOUND: list[Application | None] = []


def note(x: Tensor) -> Tensor:
    FOUND.append(applied())
    return x.sin()


class Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float = 2.0) -> Tensor:
        return scale * note(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, None


class Inheriting(Plain):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return -g, None


class Apart(torch.autograd.Function):
    @staticmethod
    def forward(*tensors: Tensor) -> Tensor:
        return note(tensors[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, g


class Cast(torch.autograd.Function):
    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")  # type: ignore[untyped-decorator]  # of torch
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = note(x)
        return note(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g


class Around(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inner: Tensor = Plain.apply(x)
        return note(inner)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g


TAKEN_BEFORE = Plain.apply


def functions() -> list[tuple[Any, int]]:
    return [(found.function, len(found.arguments)) if found else (None, 0) for found in FOUND]


def test_how_ever_it_is_written() -> None:
    FOUND.clear()
    x = torch.ones(2, requires_grad=True)
    Plain.apply(x, 3.0)
    TAKEN_BEFORE(x)
    Inheriting.apply(x)
    Apart.apply(x, x)
    Cast.apply(x)
    Around.apply(x)
    assert functions() == [
        (Plain, 2),
        (Plain, 2),
        (Inheriting, 2),
        (Apart, 2),
        (Cast, 1),
        (Cast, 1),
        (Plain, 2),
        (Around, 1),
    ]
    assert FOUND[0] is not None
    assert FOUND[0].arguments[1] == 3.0
    torch.testing.assert_close(FOUND[0].arguments[0], x)


def test_one_made_later_and_none_at_all() -> None:
    class Local(Plain):
        @staticmethod
        def forward(ctx: Any, x: Tensor, scale: float = 2.0) -> Tensor:
            return note(x)

    FOUND.clear()
    x = torch.ones(2, requires_grad=True)
    Local.apply(x)
    note(x)
    with torch.no_grad():
        note(x)
    Local.forward(None, x)
    assert functions() == [(Local, 2), (None, 0), (None, 0), (None, 0)]
