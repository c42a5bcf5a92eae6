"""Wrong second derivatives that float32 or a detach elsewhere would hide, and the honest uses of both."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bodies import Body, Forward, Reversed, loop_of, tried
from torch import Tensor, nn
from torch.nn import functional

from litmaml.learner.trial.first_batch import try_first_batch
from litmaml.learner.trial.function_modes import Held, OtherFunctions, in_double
from litmaml.outer import FirstOrder, SecondOrder
from litmaml.tasks import Batch, Tasks


class Wrong(torch.autograd.Function):
    """A sine whose backward keeps a number of the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.kept = x.detach().cos()
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * ctx.kept


def right(x: Tensor) -> Tensor:
    return x.sin()


SINES = [pytest.param(Wrong.apply, id="wrong"), pytest.param(right, id="right")]

# Each makes single precision of something, or cuts a gradient off, beside the layer that is tried.


def to_float(self: Body, x: Tensor, sine: Any) -> Tensor:
    return functional.linear(sine(self.first(x).float()), self.last.weight.float(), self.last.bias.float())


def to_dtype(self: Body, x: Tensor, sine: Any) -> Tensor:
    hidden = self.first(x).to(torch.float32)
    hidden = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
    return self.last(sine(hidden).to(x.dtype))


def by_argument(self: Body, x: Tensor, sine: Any) -> Tensor:
    return self.last(sine(torch.softmax(self.first(x), -1, dtype=torch.float32)).type(x.dtype))


def by_default_type(self: Body, x: Tensor, sine: Any) -> Tensor:
    hidden = torch.zeros(len(x), 4, dtype=torch.bfloat16) + sine(self.first(x).bfloat16())
    return self.last(hidden.to(x))


def detached(self: Body, x: Tensor, sine: Any) -> Tensor:
    return self.last(sine(self.first(x))) * (1 + x * self.last.bias.detach())


def by_data(self: Body, x: Tensor, sine: Any) -> Tensor:
    return self.last(sine(self.first(x))) * (1 + x * self.last.bias.data)


def straight_through(self: Body, x: Tensor, sine: Any) -> Tensor:
    hidden = sine(self.first(x))
    return self.last(hidden + (hidden.mul(5).round() / 5 - hidden).detach())


def without_gradients(self: Body, x: Tensor, sine: Any) -> Tensor:
    hidden = sine(self.first(x))
    with torch.no_grad():
        scale = 1 + self.first(x).square().mean()
    return self.last(hidden / scale)


def by_number(self: Body, x: Tensor, sine: Any) -> Tensor:
    hidden = sine(self.first(x))
    return self.last(hidden / (1 + hidden.detach().abs().max().item()))


def codebook(self: Body, x: Tensor, sine: Any) -> Tensor:
    hidden = sine(self.first(x))
    nearest = (hidden[:, None] - self.last.weight).square().sum(-1).argmin(-1)
    taken = self.last.weight[nearest]
    return self.last(hidden + (taken - hidden).detach()) + (taken - hidden.detach()).square().mean()


ISLANDS = [to_float, to_dtype, by_argument, by_default_type]
CUTS = [detached, by_data, straight_through, without_gradients, by_number, codebook]


@pytest.mark.parametrize("sine", SINES)
@pytest.mark.parametrize("forward", [*ISLANDS, *CUTS])
def test_a_wrong_second_derivative_is_found_and_a_right_one_passes(forward: Any, sine: Any) -> None:
    model = Body(lambda self, x: forward(self, x, sine)).float()
    batch = Batch(torch.randn(2, 5, 1).float(), torch.randn(2, 5, 1).float())
    tasks = Tasks((batch,), batch, torch.arange(2))
    if sine is right:
        try_first_batch(loop_of(model), tasks, SecondOrder())
        return
    with pytest.raises(ValueError, match=r"model: an exact Hessian product .* off by \d+.\d%"):
        try_first_batch(loop_of(model), tasks, SecondOrder())
    try_first_batch(loop_of(model), tasks, FirstOrder())


class Rounded(torch.autograd.Function):
    """Passes gradients straight through a rounding, on purpose."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.mul(3).round() / 3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def by_masks(self: Body, x: Tensor) -> Tensor:
    hidden = self.first(x)
    hidden = torch.where(hidden > 0, hidden, 0.1 * hidden)
    hidden = hidden * (hidden.detach() > -0.5)
    return self.last(hidden.masked_fill(hidden.abs() > 2, 2.0))


def by_branch(self: Body, x: Tensor) -> Tensor:
    hidden = self.first(x)
    return self.last(hidden.tanh() if float(hidden.detach().mean()) > 0 else hidden.sin())


def momentum_target(self: Body, x: Tensor) -> Tensor:
    with torch.no_grad():
        target = functional.linear(x, self.first.weight * 0.9, self.first.bias)
    return self.plain(x) + (self.first(x) - target).square().mean()


def by_energy(self: Body, x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = x.detach().clone().requires_grad_()
        return torch.autograd.grad(self.plain(y).square().sum(), y, create_graph=True)[0]


def filled_in(self: Body, x: Tensor) -> Tensor:
    hidden = self.first(x)
    made = torch.zeros_like(hidden)
    made[:, :2] = hidden[:, 2:].tanh()
    return self.last(made + torch.ones_like(hidden) * hidden.sigmoid())


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.last(Rounded.apply(self.first(x))),
        lambda self, x: self.last(Reversed.apply(torch.tanh(self.first(x)))) + self.last.bias.detach(),
        by_masks,
        by_branch,
        momentum_target,
        by_energy,
        filled_in,
    ],
)
def test_honest_uses(forward: Forward) -> None:
    tried(Body(forward))


def test_results_are_held_by_their_order() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    held = Held()
    with held:
        first = x.detach() * 2
    with torch.no_grad():
        x.mul_(3)
    with held:
        assert torch.equal(x.detach() * 2, first)
        assert torch.equal(x * 2, torch.tensor([6.0]))  # what has a gradient follows the weights
    with pytest.raises(OtherFunctions), held:
        x.sum().item()
    with held:
        x.detach()
        with pytest.raises(OtherFunctions):
            x.detach()


def test_double_precision_ends_with_the_context() -> None:
    torch.set_default_dtype(torch.float32)
    try:
        with in_double():
            assert torch.zeros(1).half().dtype == torch.float64
            assert nn.Linear(1, 1).weight.dtype == torch.float64
        assert torch.zeros(1).half().dtype == torch.float16
        assert torch.get_default_dtype() == torch.float32
    finally:
        torch.set_default_dtype(torch.float64)
