"""Second derivatives where a gradient is no slope of the loss, so that no difference tells of the whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bodies import Body, Reversed, WrongSine, loop_of, tried
from torch import Tensor, nn
from torch.nn import functional

from litmaml.learner.trial import derivatives as trial_derivatives
from litmaml.learner.trial import second_derivatives
from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.plain_copy import TaskDerivatives
from litmaml.models import Conv4
from litmaml.outer import FirstOrder, SecondOrder
from litmaml.tasks import Batch, Tasks


class Rounded(torch.autograd.Function):
    """Straight through, but for what lies far out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.mul(3).round() / 3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (ctx.saved_tensors[0].abs() < 2)


class Spikes(torch.autograd.Function):
    """A step, whose gradient is that of a smooth one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.width = width
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g / (1 + (ctx.saved_tensors[0] / ctx.width).square()), None


class Exponential(torch.autograd.Function):
    """By its own output, in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x.exp_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


class Pair(torch.autograd.Function):
    """Two outputs, of which one has no derivative, and a context that is set up apart."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * y.square(), (x > y).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return g * y.square(), 2 * g * x * y


class DetachedSpikes(Spikes):
    """Only the derivative by x is missing; that by g is right."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g / (1 + (ctx.saved_tensors[0].detach() / ctx.width).square()), None


class Once(Exponential):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.saved_tensors[0]


Layer = Callable[[Tensor], Tensor]


def reversed_beside(layer: Layer) -> Body:
    def forward(self: Body, x: Tensor) -> Tensor:
        hidden = layer(self.first(x))
        return self.last(hidden + 0.1 * Reversed.apply(hidden))

    return Body(forward)


def hooked(layer: Layer) -> Body:
    def forward(self: Body, x: Tensor) -> Tensor:
        hidden = layer(self.first(x))
        if hidden.requires_grad:
            hidden.register_hook(lambda g: 0.9 * g)
        return self.last(torch.tanh(hidden))

    return Body(forward)


def rounded(layer: Layer) -> Body:
    return Body(lambda self, x: self.last(Rounded.apply(layer(self.first(x)))))


ALTERED = [reversed_beside, hooked, rounded]
RIGHT = {
    "torch": torch.tanh,
    "exponential": lambda x: Exponential.apply(x.clone()),
    "pair": lambda x: Pair.apply(x, x.flip(-1))[0],
    "spikes": lambda x: x + Spikes.apply(x, 2.0),
}
WRONG = {
    "WrongSine": WrongSine.apply,
    "DetachedSpikes": lambda x: x + DetachedSpikes.apply(x, 2.0),
    "Once": lambda x: Once.apply(x.clone()),
}


@pytest.mark.parametrize("altered", ALTERED)
@pytest.mark.parametrize("layer", RIGHT.values(), ids=RIGHT)
def test_a_right_one_beside_an_altered_gradient(altered: Callable[[Layer], Body], layer: Layer) -> None:
    _, (remark, *_) = tried(altered(layer))
    assert "its gradient is not the slope of its loss" in remark
    assert "could not be" not in remark


@pytest.mark.parametrize("altered", ALTERED)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_one_beside_an_altered_gradient(altered: Callable[[Layer], Body], name: str) -> None:
    with pytest.raises(ValueError, match=rf"model: the derivative of the backward pass of {name}, .* use FirstOrder"):
        tried(altered(WRONG[name]))
    tried(altered(WRONG[name]), FirstOrder())


class Inside(Reversed):
    model_calls = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if not Inside.model_calls:
            raise RuntimeError("it is not the model that calls")
        return x.view_as(x)


def test_a_function_that_can_not_be_tried_by_itself_is_named() -> None:
    def forward(self: Body, x: Tensor) -> Tensor:
        Inside.model_calls = True
        hidden = Inside.apply(self.first(x))
        Inside.model_calls = False
        return self.last(torch.tanh(hidden))

    _, (remark, *_) = tried(Body(forward))
    assert "(none; Inside could not be)" in remark


def test_models_that_would_take_long_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_derivatives, "_LARGE", 1)
    _, (remark, *_) = tried(Body(lambda self, x: self.last(Spikes.apply(self.first(x), 1.0))))
    assert remark.endswith("its torch.autograd.Functions alone (Spikes)")
    with pytest.raises(ValueError, match="model: the derivative of the backward pass of WrongSine"):
        tried(Body(lambda self, x: self.last(WrongSine.apply(self.first(x)))))
    tried(Body(lambda self, x: self.last(WrongSine.apply(self.first(x)))), FirstOrder())


def test_the_engines_own_functions_are_no_part_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch norm with pooling takes its statistics as constants: tried by itself it would be refused."""
    monkeypatch.setattr(trial_derivatives, "LONG", 0.0)
    model = Conv4(ways=2, filters=4, channels=1, size=28)
    images = torch.randn(2, 4, 1, 28, 28)
    batch = Batch(images, torch.tensor([[0, 0, 1, 1]] * 2))
    (said,) = try_first_batch(
        loop_of(model, nn.CrossEntropyLoss()), Tasks((batch,), batch, torch.arange(2)), SecondOrder()
    )
    assert "take long" in said
    assert "Functions alone (none)" in said


def test_models_that_take_float32_only() -> None:
    def forward(self: Body, x: Tensor, sine: Any) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("float32 only")
        return self.last(sine(self.first(x)))

    batch = Batch(torch.randn(2, 5, 1).float(), torch.randn(2, 5, 1).float())
    tasks = Tasks((batch,), batch, torch.arange(2))
    remark = try_first_batch(loop_of(Body(lambda self, x: forward(self, x, torch.sin)).float()), tasks, SecondOrder())[
        0
    ]
    assert "it does not compute in float64" in remark
    with pytest.raises(ValueError, match="model: the derivative of the backward pass of WrongSine"):
        try_first_batch(loop_of(Body(lambda self, x: forward(self, x, WrongSine.apply)).float()), tasks, SecondOrder())


def test_a_row_of_padding_is_no_altered_gradient() -> None:
    """It has no gradient, whatever it does to the loss: the product is compared along the others."""

    class Words(nn.Module):
        def __init__(self, sine: Layer) -> None:
            super().__init__()
            self.words, self.last, self.sine = nn.Embedding(7, 4, padding_idx=0), nn.Linear(4, 1), sine
            nn.init.normal_(self.words.weight)

        def forward(self, x: Tensor) -> Tensor:
            hidden = functional.embedding(x, self.words.weight, padding_idx=0)
            return self.last(self.sine(hidden).mean(1))

    batch = Batch(torch.randint(7, (1, 6, 5)), torch.randn(1, 6, 1))
    tasks = Tasks((batch,), batch, torch.arange(1))
    assert try_first_batch(loop_of(Words(torch.sin)), tasks, SecondOrder()) == []
    with pytest.raises(ValueError, match="model: an exact Hessian product"):
        try_first_batch(loop_of(Words(WrongSine.apply)), tasks, SecondOrder())


class Slopes:
    """A plain copy whose loss has the slope 1 but for kinks that are as far off as ``kinks``."""

    def __init__(self, kinks: float, slope: float = 1.0) -> None:
        self.kinks, self.slope = kinks, slope

    def slope_by_difference(self, weights: Any, batch: Any, along: Any, radius: float) -> float:
        return self.slope + 0.01 * (radius > self.kinks)


@pytest.mark.parametrize(
    ("slopes", "is_one"),
    [(Slopes(1e-3), True), (Slopes(3e-7), True), (Slopes(3e-8), True), (Slopes(0), False), (Slopes(3e-7, -1.0), False)],
)
def test_kinks_close_by_alter_no_gradient(slopes: Any, is_one: bool) -> None:
    """Photographs have rectifiers and pooling turn within the first radius."""
    one = {"w": torch.ones(1, dtype=torch.float64)}
    theirs = TaskDerivatives(torch.tensor(1.0), one, None)
    assert second_derivatives._is_slope(slopes, one, None, one, theirs) is is_one  # type: ignore[arg-type]  # not looked at
