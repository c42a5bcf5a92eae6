"""Convolutions with leaner second derivatives, held against torch's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import sum_of
from torch import Tensor, nn
from torch.func import jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from litmaml.engine import twice_differentiable as module
from litmaml.engine.switches import without
from litmaml.engine.twice_differentiable import twice_differentiable
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FirstOrder, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks

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


def alone(*tensors: Tensor | None, **options: Any) -> Tensor:
    """As of one task among several at once, without which torch's own is taken."""
    given = [None if tensor is None else tensor.unsqueeze(0) for tensor in tensors]
    dims = tuple(None if tensor is None else 0 for tensor in given)
    return vmap(lambda *one: twice_differentiable(*one, **options), dims)(*given).squeeze(0)


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
    """With and without a gradient by the images, of a single task."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64, requires_grad=images)
    w = kernels(options.get("groups", 1)).requires_grad_()
    b = torch.randn(6, dtype=torch.float64, requires_grad=True) if bias else None
    found = derivatives(lambda *given: alone(*given, **options), x, w, b)
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
    x, w = torch.randn(4, 2, 3, 7, 8).to(dtype), torch.stack([kernels()] * 4).to(dtype).requires_grad_()

    def outcome(function: Callable[..., Tensor]) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            y = vmap(function)(x, w)
            (first,) = torch.autograd.grad(y.float().pow(3).sum(), w, create_graph=True)
        return [y, first, *torch.autograd.grad(first.pow(2).sum(), w)]

    for mine, torchs in zip(outcome(twice_differentiable), outcome(torch.conv2d), strict=True):
        assert mine.dtype == torchs.dtype
        torch.testing.assert_close(mine, torchs, rtol=0.05, atol=0.05 * float(torchs.detach().abs().max()))


def test_what_is_left_to_torch() -> None:
    """All that is not of kernels of each task's own, or needs no gradient."""
    x, w = torch.randn(4, 2, 3, 7, 8, dtype=torch.float64), torch.stack([kernels() for _ in range(4)])
    own = w.clone().requires_grad_()

    def made(images: Tensor, weight: Tensor, dims: tuple[int | None, ...] = (0, 0), **options: Any) -> str:
        y = vmap(lambda *one: twice_differentiable(*one, **options), dims)(images, weight)
        nodes, names = [y.grad_fn], ""
        while nodes and (node := nodes.pop()) is not None:
            names += f" {type(node).__name__}"
            nodes += [each for each, _ in node.next_functions]
        return names

    assert " _Convolution" in made(x, own)
    assert " _Convolution" in made(x[0], own, (None, 0))
    assert " ConvolutionBackward0" in made(x, own[0], (0, None))
    assert " ConvolutionBackward0" in made(x, own[..., :1], padding="same")
    assert " ConvolutionBackward0" in made(x.requires_grad_(), own.detach())
    assert twice_differentiable(x[0], own[0]).grad_fn.name() == "ConvolutionBackward0"  # type: ignore[union-attr]  # has one
    with torch.no_grad():
        assert torch.equal(vmap(twice_differentiable)(x, own), vmap(torch.conv2d)(x, own))
    with pytest.raises(RuntimeError, match="expected input"):
        vmap(twice_differentiable)(x[:, :, :2], own)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # of torch itself
def test_derivatives_along_with_the_numbers_are_torchs() -> None:
    """``torch.func.jvp`` in a model or a loss."""
    torch.manual_seed(0)
    x, w = torch.randn(4, 2, 3, 7, 8, dtype=torch.float64), torch.stack([kernels() for _ in range(4)]).requires_grad_()

    def along(function: Callable[..., Tensor]) -> Tensor:
        def one(images: Tensor, weight: Tensor) -> Tensor:
            return jvp(lambda z: function(z, weight).tanh(), (images,), (torch.ones_like(images),))[1]

        (found,) = torch.autograd.grad(vmap(one)(x, w).square().sum(), w)
        return found

    torch.testing.assert_close(along(twice_differentiable), along(torch.conv2d))


@pytest.mark.parametrize(
    ("settings", "some"),
    [
        ({}, True),
        ({"outer": FirstOrder()}, False),
        ({"fast": ["2.*"]}, False),
        ({"fast": ["0.bias", "2.*"]}, False),
    ],
    ids=["kernels", "first order", "head alone", "bias"],
)
def test_only_second_derivatives_of_adapted_kernels_are_taken_by_it(
    settings: dict[str, Any], some: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere it is slower than torch, up to twice where no inner step changes the kernels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    batch = Batch(torch.randn(2, 3, 1, 4, 4), torch.randint(0, 2, (2, 3)))
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.1), settings.get("fast", ["*"]), steps=1)
    calls = Counter[str]()
    monkeypatch.setattr(module, "_uncast", noting(module._uncast, calls))
    MetaGradientOf(loop, settings.get("outer", SecondOrder()), 1)(Tasks((batch,), batch, torch.arange(2)))
    assert (calls.total() > 0) == some


def test_of_a_single_task_it_is_for_images_that_need_no_gradient() -> None:
    x, w = torch.randn(2, 3, 7, 8, dtype=torch.float64), kernels().requires_grad_()
    adapted = 2 * w
    assert twice_differentiable(x, adapted).grad_fn.name() == "_ConvolutionBackward"  # type: ignore[union-attr]  # has one
    for images, weight in ((x, w), (x.clone().requires_grad_(), adapted)):
        assert twice_differentiable(images, weight).grad_fn.name() == "ConvolutionBackward0"  # type: ignore[union-attr]  # as above


def noting(function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    def noted(*args: Any) -> Any:
        calls[function.__name__] += 1
        return function(*args)

    return noted
