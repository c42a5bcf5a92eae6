"""Convolutions with leaner second derivatives, held against torch's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import sum_of
from torch import Tensor
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode

from litmaml.engine.switches import without
from litmaml.engine.twice_differentiable import twice_differentiable

OPTIONS = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": (0, 2)},
    {"stride": (1, 3), "padding": [2]},
    {"dilation": 2, "padding": 2},
    {"groups": 3},
    {"groups": 3, "stride": 2, "dilation": (1, 2)},
]


def kernels(groups: int = 1, outputs: int = 6) -> Tensor:
    return 0.3 * torch.randn(outputs, 3 // groups, 3, 2, dtype=torch.float64)


def derivatives(function: Callable[..., Tensor], *tensors: Tensor | None) -> list[Tensor]:
    """Its numbers, its first, second and third derivatives by all that need one."""
    given = [None if tensor is None else tensor.clone().requires_grad_(tensor.requires_grad) for tensor in tensors]
    by = [tensor for tensor in given if tensor is not None and tensor.requires_grad]
    found, value = [], function(*given)
    for _ in range(3):
        found.append(value)
        grads = torch.autograd.grad(value.tanh().sum() + value.square().mean(), by, create_graph=True)
        found += grads
        value = sum_of(part.tanh().pow(3).sum() for part in grads)
    return found


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("images", [True, False])
def test_derivatives_are_those_of_torch(options: dict[str, Any], bias: bool, images: bool) -> None:
    """With and without a gradient by the images."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=images)
    w = kernels(options.get("groups", 1)).requires_grad_()
    b = torch.randn(6, dtype=torch.float64, requires_grad=True) if bias else None
    found = derivatives(lambda *given: twice_differentiable(*given, **options), x, w, b)
    true = derivatives(lambda *given: torch.conv2d(*given, **options), x, w, b)
    assert len(found) == 3 * (2 + images + bias)
    for mine, torchs in zip(found, true, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-9, atol=1e-10 * float(torchs.detach().abs().max()))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dims", [(0, 0, 0), (1, None, None), (None, 1, 0), (2, 0, None)], ids=str)
@pytest.mark.parametrize("images", [True, False])
def test_tasks_are_convolved_apart(options: dict[str, Any], dims: tuple[int | None, ...], images: bool) -> None:
    torch.manual_seed(0)
    shapes = (2, 3, 7, 8), tuple(kernels(options.get("groups", 1)).shape), (6,)
    tensors = []
    for shape, dim in zip(shapes, dims, strict=True):
        stacked = shape if dim is None else (*shape[:dim], 4, *shape[dim:])
        tensors.append(
            torch.randn(stacked, dtype=torch.float64, requires_grad=len(shape) < 4 or shape[0] != 2 or images)
        )

    def each(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
        parts = [(g,) * 4 if dim is None else g.unbind(dim) for g, dim in zip(given, dims, strict=True)]
        return torch.stack([function(*one, **options) for one in zip(*parts, strict=True)])

    found = derivatives(lambda *given: vmap(lambda *one: twice_differentiable(*one, **options), dims)(*given), *tensors)
    true = derivatives(lambda *given: each(torch.conv2d, *given), *tensors)
    for mine, torchs in zip(found, true, strict=True):
        torch.testing.assert_close(mine, torchs, rtol=1e-9, atol=1e-10 * float(torchs.detach().abs().max()))


class Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("images", [True, False])
def test_second_derivatives_take_few_operations(images: bool) -> None:
    """By images, kernels and output one each, however many tasks there are; torch takes one for each task."""
    x = torch.randn(5, 2, 3, 7, 8, dtype=torch.float64, requires_grad=images)
    w = torch.stack([kernels() for _ in range(5)]).requires_grad_()
    by = [x, w] if images else [w]

    def counted() -> dict[str, int]:
        y = vmap(twice_differentiable)(x, w)
        first = torch.autograd.grad(y.pow(3).sum(), by, create_graph=True)
        with Counted() as seen:
            torch.autograd.grad(sum_of(part.pow(2).sum() for part in first), by)
        return {name: count for name, count in seen.counts.items() if "conv" in name}

    # And the first derivative once more, for what comes by the output.
    ours = counted()
    assert ours == {"convolution": 1 + images, "convolution_backward": 1 + 2 * images}
    with without("twice_differentiable"):
        assert sum(counted().values()) >= sum(ours.values()) + (4 if images else 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_half_precision_is_that_of_autocast(dtype: torch.dtype) -> None:
    x, w = torch.randn(2, 3, 7, 8).to(dtype), kernels().to(dtype).requires_grad_()

    def outcome(function: Callable[..., Tensor]) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            y = function(x, w)
            (first,) = torch.autograd.grad(y.float().pow(3).sum(), w, create_graph=True)
        return [y, first, *torch.autograd.grad(first.pow(2).sum(), w)]

    for mine, torchs in zip(outcome(twice_differentiable), outcome(torch.conv2d), strict=True):
        assert mine.dtype == torchs.dtype
        torch.testing.assert_close(mine, torchs, rtol=0.05, atol=0.05 * float(torchs.detach().abs().max()))


def test_what_is_left_to_torch() -> None:
    x, w = torch.randn(2, 3, 7, 8, dtype=torch.float64), kernels()
    assert twice_differentiable(x, w).grad_fn is None
    leaf = w.requires_grad_()
    assert "_Convolution" in str(twice_differentiable(x, leaf).grad_fn)
    for other in (
        lambda: twice_differentiable(x[0], leaf),
        lambda: twice_differentiable(x, leaf[..., :1], padding="same"),
        lambda: twice_differentiable(x.requires_grad_(), leaf.detach()),
    ):
        assert "ConvolutionBackward0" in str(other().grad_fn) or "Squeeze" in str(other().grad_fn)
    with torch.no_grad():
        assert torch.equal(twice_differentiable(x, leaf), torch.conv2d(x, leaf))
    with pytest.raises(RuntimeError, match="expected input"):
        twice_differentiable(x[:, :2], leaf)
