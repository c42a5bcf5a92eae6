"""The convolution for a task's own kernels on a GPU: torch's own on numbers, gradients and second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import assert_close, sum_of
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from litmaml.engine import convolution as module
from litmaml.engine.convolution import Grouped, convolution
from litmaml.inner import SGD
from litmaml.inner.channels_last import to_channels_last
from litmaml.inner.derivatives import Derivatives
from litmaml.inner.loop import InnerLoop
from litmaml.models import Conv4
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks


class Groups(TorchDispatchMode):
    """In how many groups torch's own convolutions are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ == "convolution":
            self.found.add(args[-1])
        return function(*args, **(kwargs or {}))


@pytest.fixture
def unfolded(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Taken for every weight, whose kernels are kept."""
    taken: list[Tensor] = []

    def take(weight: Tensor) -> bool:
        taken.append(weight)
        return True

    monkeypatch.setattr(module, "_are_own", take)
    return taken


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"stride": 2, "padding": (0, 2)},
        {"stride": (1, 3), "padding": 2},
        {"kernel_size": (2, 5), "padding": 1},
        {"kernel_size": 1, "stride": 2},
    ],
    ids=str,
)
def test_it_is_that_of_torch(options: dict[str, Any], bias: bool, unfolded: list[Tensor]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, **{"kernel_size": 3} | options, bias=bias).double()
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64, requires_grad=True)

    def derivatives() -> list[Tensor]:
        y = layer(x)
        by = [x, *layer.parameters()]
        first = torch.autograd.grad(y.sin().sum(), by, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum_of(part.square().sum() for part in first), by)]

    with Derivatives():
        found = derivatives()
    assert len(unfolded) == 1
    for mine, true in zip(found, derivatives(), strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-11, atol=1e-12)


OTHERS: list[dict[str, Any]] = [
    *({"groups": 3}, {"groups": 3, "out_channels": 3}, {"dilation": 2}, {"dilation": (1, 2), "padding": 2}),
    *({"padding": "same"}, {"padding": "valid"}),
]


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_others_stay_torch_s_own(options: dict[str, Any], unfolded: list[Tensor]) -> None:
    layer = nn.Conv2d(3, **{"out_channels": 6, "kernel_size": 3} | options)
    x = torch.randn(2, 3, 8, 8)
    with Derivatives():
        found = layer(x)
    assert not unfolded
    torch.testing.assert_close(found, layer(x))


def test_it_is_called_as_torch_s_own(unfolded: list[Tensor]) -> None:
    """By names, and with one number in a list."""
    weight, x = torch.randn(6, 3, 3, 3), torch.randn(2, 3, 9, 9)
    with Derivatives():
        found = torch.conv2d(input=x, weight=weight, stride=[2], padding=(1,), dilation=[1])
        nothing = torch.conv2d(x[:0], weight)
    torch.testing.assert_close(found, torch.conv2d(x, weight, stride=2, padding=1))
    assert nothing.shape == (0, 6, 7, 7)
    assert len(unfolded) == 2


def test_on_a_cpu_nothing_changes() -> None:
    layer, x = nn.Conv2d(3, 6, 3), torch.randn(2, 3, 8, 8)
    with Derivatives():
        assert torch.equal(layer(x), torch.conv2d(x, layer.weight, layer.bias))
    assert convolution(x, layer.weight).is_contiguous()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1, "stride": 2},
        {"kernel_size": (2, 4), "stride": (1, 3), "padding": (1, 2)},
        *OTHERS,
    ],
    ids=str,
)
def test_both_ways_are_that_of_a_task_at_a_time(
    options: dict[str, Any], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kernels of each task's own, as under ``vmap``: numbers, gradients and second derivatives."""
    monkeypatch.setattr(module, "_are_own", torch._C._functorch.is_batchedtensor)
    torch.manual_seed(0)
    layer = nn.Conv2d(3, **{"out_channels": 6, "kernel_size": 3} | options, bias=bias).double()
    weights = {name: torch.randn(2, *w.shape, dtype=w.dtype) for name, w in layer.named_parameters()}
    by = [part.requires_grad_() for part in (torch.randn(2, 4, 3, 8, 9, dtype=torch.float64), *weights.values())]

    def derivatives(one: Callable[..., Tensor]) -> list[Tensor]:
        y = one(weights, by[0])
        first = torch.autograd.grad(y.sin().sum(), by, create_graph=True)
        return [y, *first, *torch.autograd.grad(sum_of(part.square().sum() for part in first), by)]

    def call(own: dict[str, Tensor], x: Tensor) -> Tensor:
        with Derivatives():
            return functional_call(layer, own, (x,))

    def in_a_loop(own: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.stack([functional_call(layer, {n: w[k] for n, w in own.items()}, x[k]) for k in range(2)])

    true, by_patches = derivatives(in_a_loop), derivatives(torch.vmap(call))
    with Grouped() as inside:
        grouped = derivatives(torch.vmap(call))
    assert inside.met == (options not in OTHERS)
    assert not Grouped.entered
    for way in (by_patches, grouped):
        for mine, each in zip(way, true, strict=True):
            torch.testing.assert_close(mine, each, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_meta_gradient_by_it(channels_last: bool, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks at once, where the layers behind it get its other order of memory; or by grouped ones."""
    torch.manual_seed(0)
    model = Conv4(3, filters=5).double()
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch does not tell
    batch = Batch(torch.rand(4, 6, 1, 28, 28, dtype=torch.float64), torch.arange(3).repeat(2).expand(4, -1))
    tasks = Tasks((batch,), Batch(batch.inputs.flip(1), batch.targets.flip(1)), torch.arange(4))
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.4), ["*"], 2)
    true = MetaGradientOf(loop, SecondOrder(), 2, tasks_per_chunk=1)(tasks)
    monkeypatch.setattr(module, "_are_own", torch._C._functorch.is_batchedtensor)
    loop._written_out, loop.grouped = True, grouped
    with Groups() as seen:
        found = MetaGradientOf(loop, SecondOrder(), 2, tasks_per_chunk=4)(tasks)
    assert (4 in seen.found) == grouped
    assert_close(found.gradients, true.gradients, rtol=1e-9, atol=1e-12)


class OneByOne(nn.Module):
    """A model that convolves single images in a batch of one, or without one."""

    def __init__(self, batched: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
        self.batched = batched

    def forward(self, x: Tensor) -> Tensor:
        images = x.split(1) if self.batched else x.unbind()
        means = [self.second(self.first(image).tanh()).tanh().mean((-2, -1)).flatten() for image in images]
        logits: Tensor = self.head(torch.stack(means))
        return logits


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("images", [1, 2])
def test_single_images_of_several_tasks_in_channels_last(batched: bool, images: int) -> None:
    """Of which torch itself finds a wrong gradient where oneDNN does not compute them, as in float64."""
    torch.manual_seed(0)
    model = OneByOne(batched).double()
    to_channels_last(model)
    batch = Batch(torch.randn(4, images, 2, 6, 6).double(), torch.randint(0, 3, (4, images)))
    loop = InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.5), ["*"], steps=2)
    tasks = Tasks((batch,), batch, torch.arange(4))
    at_once, one_by_one = (MetaGradientOf(loop, SecondOrder(), 2, tasks_per_chunk=size)(tasks) for size in (4, 1))
    assert_close(at_once.gradients, one_by_one.gradients)


def test_one_number_in_a_list_under_vmap() -> None:
    x, w = torch.randn(3, 2, 1, 5, 5), torch.randn(3, 4, 1, 3, 3)
    with Derivatives():
        found = torch.func.vmap(lambda x, w: functional.conv2d(x, w, None, [2], [1], [1]))(x, w)
    each = [functional.conv2d(*one, None, 2, 1) for one in zip(x, w, strict=True)]
    torch.testing.assert_close(found, torch.stack(each))
