"""The leaner second derivative of batch norm, held against torch's own and against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional

from cases import OUTER
from litmaml.inner import SGD
from litmaml.inner.derivatives import Derivatives
from litmaml.inner.loop import InnerLoop
from litmaml.models import Conv4
from litmaml.outer import PathGradient
from litmaml.tasks import Batch, StepTasks
from litmaml.weights import Params

SHAPES = [(6, 3), (4, 3, 5), (3, 3, 4, 2), (2, 3, 2, 3, 2)]


def normalised(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    with Derivatives():
        return functional.batch_norm(x, None, None, weight, bias, training=True)


def derivatives(context: AbstractContextManager[Any], x: Tensor, *affine: Tensor) -> list[Tensor]:
    """The output, its first derivatives by x and the affine weights, and the second ones along fixed directions."""
    draw = torch.Generator().manual_seed(1)

    def direction(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=draw, dtype=torch.float64).to(like.dtype)

    leaves = [tensor.detach().requires_grad_() for tensor in (x, *affine)]
    with context:
        weight, bias = leaves[1:] or (None, None)
        y = functional.batch_norm(leaves[0], None, None, weight, bias, training=True)
    first = torch.autograd.grad((y * direction(y)).tanh().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(((g * direction(g)).sum() for g in first), torch.zeros(())), leaves)
    return [y, *first, *second]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_derivatives_by_finite_differences(shape: tuple[int, ...], affine: bool) -> None:
    leaves = [torch.randn(size, requires_grad=True) for size in ((shape, (3,), (3,)) if affine else (shape,))]
    assert torch.autograd.gradcheck(normalised, leaves)
    assert torch.autograd.gradgradcheck(normalised, leaves)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_are_those_of_torch(shape: tuple[int, ...]) -> None:
    # The mean is far from zero, as that of an image is; the weight of a channel is zero, as where training starts so.
    x, weight, bias = 30 + torch.randn(shape), torch.tensor([0.0, 1.0, -2.0]), torch.randn(3)
    for found, expected in zip(
        derivatives(Derivatives(), x, weight, bias), derivatives(nullcontext(), x, weight, bias), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def test_channels_last_stays_so() -> None:
    x = torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last)
    y, by_x, *_ = derivatives(Derivatives(), x, torch.randn(4), torch.randn(4))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert by_x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stacked", [(0, 0, 0), (1, None, None), (None, 0, 0)])
def test_tasks_are_normalised_apart(stacked: tuple[int | None, ...]) -> None:
    x, weight, bias = torch.randn(5, 3, 4), torch.randn(3), torch.randn(3)
    inputs = [
        tensor if dim is None else torch.stack([tensor, tensor.flip(0) + 1], dim)
        for tensor, dim in zip((x, weight, bias), stacked, strict=True)
    ]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    mapped = vmap(normalised, stacked)(*leaves)
    of_tasks = []
    for task in (0, 1):
        x, weight, bias = (t if dim is None else t.select(dim, task) for t, dim in zip(leaves, stacked, strict=True))
        of_tasks.append(functional.batch_norm(x, None, None, weight, bias, training=True))
    one_by_one = torch.stack(of_tasks)
    torch.testing.assert_close(mapped, one_by_one)

    def both(y: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(y.pow(3).sum(), leaves, create_graph=True)
        return [*first, *torch.autograd.grad(sum((g.sin().sum() for g in first), torch.zeros(())), leaves)]

    torch.testing.assert_close(both(mapped), both(one_by_one), rtol=1e-10, atol=1e-10)


def test_half_precision() -> None:
    x, weight, bias = torch.randn(8, 3, 6, 6), torch.randn(3), torch.randn(3)
    expected = derivatives(nullcontext(), x, weight, bias)
    found = derivatives(Derivatives(), x.bfloat16(), weight.float(), bias.float())
    for half, full in zip(found, expected, strict=True):
        assert (half - full).norm() < 0.03 * full.norm()  # bfloat16 has a relative precision of 0.004
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, *2 * (torch.bfloat16, torch.float32, torch.float32)]
    for scale, shift in ((weight.float(), None), (None, bias.float()), (None, None)):
        y = functional.batch_norm(x.bfloat16(), None, None, scale, shift, training=True)
        torch.testing.assert_close(normalised(x.bfloat16(), scale, shift), y)


def test_what_is_left_to_torch() -> None:
    with Derivatives():
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            functional.batch_norm(torch.randn(1, 3), None, None, training=True)
        with pytest.raises(RuntimeError, match="should contain 3 elements not 2"):
            functional.batch_norm(torch.randn(4, 3), None, None, torch.ones(2), training=True)
        with pytest.raises(ValueError, match="eps must be positive"):
            functional.batch_norm(torch.randn(4, 3), None, None, training=True, eps=-1.0)
        mean, variance, x = torch.zeros(3), torch.ones(3), torch.randn(4, 3)
        torch.testing.assert_close(functional.batch_norm(x, mean, variance, eps=1e-12), x)
        functional.batch_norm(x, mean, variance, training=True, momentum=1.0)
        torch.testing.assert_close(mean, x.mean(0))


def test_there_is_no_third_derivative() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    (first,) = torch.autograd.grad(normalised(x, None, None).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivative"):
        torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)


def pooled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.max_pool2d(functional.batch_norm(x, None, None, weight, bias, training=True), 2)


def halved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with Derivatives():
        return pooled(x, weight, bias)


def nodes_of(*outputs: Tensor) -> set[str]:
    """The names of all nodes that outputs were made by."""
    nodes: list[Any] = [output.grad_fn for output in outputs]
    names = set()
    while nodes:
        if (node := nodes.pop()) is not None:
            names.add(node.name())
            nodes += [parent for parent, _ in node.next_functions]
    return names


@pytest.mark.parametrize("shape", [(3, 2, 4, 6), (2, 3, 5, 7), (4, 1, 2, 2)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_derivatives_with_pooling(shape: tuple[int, ...], channels_last: bool) -> None:
    format_ = torch.channels_last if channels_last else torch.contiguous_format
    x = (5 + torch.randn(shape)).to(memory_format=format_)
    # Some scales are negative, and one is zero, where all values of a window are the largest.
    affine = [torch.tensor([-1.0, 2.0, 0.0])[: shape[1]], torch.randn(shape[1])]
    leaves = [tensor.requires_grad_() for tensor in (x, *affine)]
    assert nodes_of(halved(*leaves)) == {"_HalvedBackward", "torch::autograd::AccumulateGrad"}
    if shape[1] < 3:
        assert torch.autograd.gradcheck(halved, leaves)
        assert torch.autograd.gradgradcheck(halved, leaves)
    direction = torch.randn(halved(*leaves).shape)
    found: list[Tensor] = []
    expected: list[Tensor] = []
    for function, kept in ((halved, found), (pooled, expected)):
        y = function(*leaves)
        first = torch.autograd.grad((y * direction).tanh().sum(), leaves, create_graph=True)
        kept += [y, *first, *torch.autograd.grad(sum((g.sin().sum() for g in first), torch.zeros(())), leaves)]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    if channels_last and shape[1] > 1:
        assert all(found[k].is_contiguous(memory_format=torch.channels_last) for k in (0, 1, 4))


@pytest.mark.parametrize("stacked", [(0, 0, 0), (1, None, None), (None, 0, 0)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_tasks_are_pooled_apart(stacked: tuple[int | None, ...], channels_last: bool) -> None:
    x, weight, bias = torch.randn(5, 3, 4, 6), torch.randn(3), torch.randn(3)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    leaves = [
        (tensor if dim is None else torch.stack([tensor, tensor.flip(0) + 1], dim)).requires_grad_()
        for tensor, dim in zip((x, weight, bias), stacked, strict=True)
    ]
    mapped = vmap(halved, stacked)(*leaves)
    assert "_HalvedBackward" in nodes_of(mapped)
    one_by_one = torch.stack(
        [
            pooled(*(t if dim is None else t.select(dim, task) for t, dim in zip(leaves, stacked, strict=True)))
            for task in (0, 1)
        ]
    )
    torch.testing.assert_close(mapped, one_by_one)
    first = torch.autograd.grad(mapped.pow(3).sum(), leaves, create_graph=True)
    expected = torch.autograd.grad(one_by_one.pow(3).sum(), leaves, create_graph=True)
    torch.testing.assert_close(first, expected, rtol=1e-10, atol=1e-10)
    second, wanted = (
        torch.autograd.grad(sum((g.sin().sum() for g in each), torch.zeros(())), leaves) for each in (first, expected)
    )
    torch.testing.assert_close(second, wanted, rtol=1e-10, atol=1e-10)


def test_what_is_normalised_may_go_elsewhere_too() -> None:
    """Its own gradient then adds to that by way of the pooling."""

    def both(x: Tensor) -> Tensor:
        y = functional.batch_norm(x, None, None, training=True)
        return functional.max_pool2d(y, 2).pow(3).sum() + y.pow(4).sum()

    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    with Derivatives():
        found = both(x)
    assert {"_HalvedBackward", "_BatchNormBackward"} <= nodes_of(found)
    torch.testing.assert_close(torch.autograd.grad(found, x), torch.autograd.grad(both(x), x))


POOLED_OTHERWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "in place": lambda y: functional.max_pool2d(functional.relu_(y), 2),
    "another tensor": lambda y: functional.max_pool2d(functional.relu(y), 2),
    "wider": lambda y: functional.max_pool2d(y, 3, stride=2),
    "overlapping": lambda y: functional.max_pool2d(y, 2, 1),
    "padded": lambda y: functional.max_pool2d(y, 2, 2, 1),
    "dilated": lambda y: functional.max_pool2d(y, 2, dilation=2),
    "rounded up": lambda y: functional.max_pool2d(y, (2, 2), ceil_mode=True),
    "with places": lambda y: functional.max_pool2d(y, 2, return_indices=True)[0],
}


@pytest.mark.parametrize("how", POOLED_OTHERWISE)
def test_pooling_that_is_left_to_torch(how: str) -> None:
    x = torch.randn(3, 2, 5, 7, requires_grad=True)
    found = []
    for context in (Derivatives(), nullcontext()):
        with context:
            y = POOLED_OTHERWISE[how](functional.batch_norm(x, None, None, training=True))
        found.append([y, *torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)])
        assert "_HalvedBackward" not in nodes_of(y)
    torch.testing.assert_close(*found)


IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "activation": functional.relu_,
    "a channel": lambda y: y[:, 0].zero_(),
    "by way of a view": lambda y: y.transpose(2, 3).mul_(2.0),
}


@pytest.mark.parametrize("how", IN_PLACE)
def test_tasks_at_once_that_are_changed_before_they_are_pooled(how: str) -> None:
    """The tensors that ``vmap`` hands to a model keep no account of that."""

    def changed(x: Tensor) -> Tensor:
        y = functional.batch_norm(x, None, None, training=True)
        IN_PLACE[how](y)
        return functional.max_pool2d(y, 2)

    x = torch.randn(2, 3, 2, 4, 4, requires_grad=True)
    with Derivatives():
        found = vmap(changed)(x)
    true = torch.stack([changed(one) for one in x])
    torch.testing.assert_close(found, true)
    by_found, by_true = (torch.autograd.grad(y.exp().sum(), x) for y in (found, true))
    torch.testing.assert_close(by_found, by_true, rtol=1e-10, atol=1e-10)


def test_what_is_normalised_may_be_hooked_or_detached_before_it_is_pooled() -> None:
    changes: list[Callable[[Tensor], Any]] = [lambda y: y.register_hook(lambda g: -g), lambda y: y.detach_()]
    for change in changes:
        x = torch.randn(3, 2, 4, 4, requires_grad=True)
        found: list[Tensor] = []
        for context in (Derivatives(), nullcontext()):
            with context:
                y = functional.batch_norm(x, None, None, training=True)
                change(y)
                found += torch.autograd.grad((functional.max_pool2d(y, 2).pow(3) + x[:, :, ::2, ::2]).sum(), x)
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("changed", ["x", "weight"])
def test_what_it_was_made_of_may_not_change_before_it_is_pooled(changed: str) -> None:
    leaves = {"x": torch.randn(3, 2, 4, 4, requires_grad=True), "weight": torch.randn(2, requires_grad=True)}
    own = {name: leaf * 1 for name, leaf in leaves.items()}
    with Derivatives():
        y = functional.batch_norm(own["x"], None, None, own["weight"], training=True)
        own[changed].mul_(3)
        found = functional.max_pool2d(y, 2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.sum().backward()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_the_same(context: Callable[[], AbstractContextManager[None]]) -> None:
    x, weight, bias = torch.randn(3, 2, 4, 4), torch.randn(2), torch.randn(2)
    with context():
        torch.testing.assert_close(halved(x, weight, bias), pooled(x, weight, bias))


@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 6), (2, 3, 5, 7), (3, 2, 2), (2, 1, 1, 4), (2, 1, 4, 1), (4, 4), (0, 2, 4, 4)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pooling_without_gradients_is_that_of_torch(
    shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool
) -> None:
    """Also where some are equal or not a number, and what it refuses."""
    x = (4 * torch.randn(shape)).round()
    x[x == 3] = torch.nan
    if channels_last and len(shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    x = x.nan_to_num().to(dtype) if dtype is torch.int64 else x.to(dtype)

    def outcome(context: AbstractContextManager[Any]) -> Tensor | str:
        with context, torch.no_grad():
            try:
                return functional.max_pool2d(x, 2)
            except (RuntimeError, IndexError) as error:
                return str(error)

    found, expected = (outcome(context) for context in (Derivatives(), nullcontext()))
    if isinstance(found, str) or isinstance(expected, str):
        assert found == expected
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        assert found.stride() == expected.stride()


def test_tasks_are_pooled_apart_without_gradients() -> None:
    x = torch.randn(3, 2, 4, 5, 6)
    with torch.no_grad(), Derivatives():
        found = torch.vmap(lambda x: functional.max_pool2d(x, 2), 1)(x)
    assert torch.equal(found, torch.stack([functional.max_pool2d(part, 2) for part in x.unbind(1)]))


def test_images_are_pooled_without_batch_norm() -> None:
    x = torch.randn(2, 3, 4, 4)
    with Derivatives():
        assert torch.equal(functional.max_pool2d(x, 2), functional.max_pool2d(x, 2))
        assert nn.MaxPool2d(2)(x).shape == (2, 3, 2, 2)


@pytest.mark.parametrize("outer", OUTER)
def test_inner_steps_take_it(outer: str) -> None:
    outer_gradient = OUTER[outer].make()
    assert isinstance(outer_gradient, PathGradient)
    model = Conv4(ways=2, filters=2, size=16)
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(), ["*"], 1)
    batch = Batch(torch.rand(1, 4, 1, 16, 16), torch.tensor([[0, 1, 0, 1]]))
    found: list[Tensor] = []

    def noted(fast: Params, slow: Params, batch: Batch, twice: bool = False) -> Tensor:
        found.append(loop.losses(fast, slow, batch, twice))
        return found[-1]

    outer_gradient.gradient(noted, *loop.shared_start(1), StepTasks(batch))
    names = nodes_of(*found)
    assert "_HalvedBackward" in names
    assert not {"_BatchNormBackward", "NativeBatchNormBackward0", "MaxPool2DWithIndicesBackward0"} & names


def test_what_is_pooled_without_gradients_can_be_viewed_as_torchs() -> None:
    """As of images that a model turns, which torch leaves in the usual order."""
    x = torch.randn(2, 3, 6, 4)
    for turned in (x.transpose(2, 3), x.transpose(0, 1), x[:1].expand(2, -1, -1, -1), x[..., ::2]):
        with torch.no_grad(), Derivatives():
            found = functional.max_pool2d(turned, 2)
        assert found.stride() == functional.max_pool2d(turned, 2).stride()
    with torch.no_grad(), Derivatives(), pytest.raises(RuntimeError, match="Expected 3D or 4D"):
        functional.max_pool2d(x[:, :0], 2)
