"""How many tasks are computed at once, and that it makes no difference to the gradient."""

from __future__ import annotations

import weakref

import pytest
import torch
from oracles import relative
from torch import nn

from litmaml.engine.together import first_convolution, tasks_at_once, tasks_held
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import MLP, Conv4
from litmaml.outer import FirstOrder, OuterGradient, SecondOrder
from litmaml.outer.chunk_gradient import ChunkGradient, Part
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks
from litmaml.weights import Params


def images(tasks: int, each: int, size: int = 28) -> torch.Tensor:
    return torch.rand(tasks, each, 1, size, size)


def test_how_many_at_once_on_a_cpu() -> None:
    conv4 = first_convolution(Conv4().float())
    small = images(64, 5).float()
    # 64 filters make 200,704 bytes of an image.
    assert tasks_at_once(conv4, small) == 8
    assert tasks_at_once(conv4, small[:6]) == 6
    assert tasks_at_once(conv4, small.double()) == 4
    assert tasks_at_once(conv4, images(16, 10).float()) == 4
    assert tasks_at_once(conv4, images(16, 11).float()) == 1
    assert tasks_at_once(conv4, images(0, 5)) == 0
    strides = first_convolution(Conv4(pooling=False))  # a stride of two, a quarter of the numbers
    assert tasks_at_once(strides, small) == 33


@pytest.mark.parametrize(("steps", "queries", "tasks"), [(1, 5, 16), (1, 75, 8), (5, 25, 13), (20, 25, 5), (30, 25, 1)])
def test_how_many_are_held_on_a_cpu(steps: int, queries: int, tasks: int) -> None:
    held = [images(16, 5).float()] * steps + [images(16, queries).float()]
    assert tasks_held(first_convolution(Conv4()), held) == tasks


def test_where_the_size_is_not_told_by_the_inputs() -> None:
    assert tasks_at_once(first_convolution(MLP()), torch.zeros(500, 10, 1)) == 500
    patches = nn.Sequential(nn.Conv2d(1, 8, kernel_size=4, stride=4), nn.Flatten(2))
    assert tasks_at_once(first_convolution(patches), images(500, 50)) == 500
    rows = nn.Sequential(nn.Linear(3, 80), nn.Unflatten(1, (5, 16)), nn.Conv1d(5, 64, 3))
    assert tasks_at_once(first_convolution(rows), torch.zeros(9, 2, 3)) == 1
    larger = nn.ConvTranspose2d(1, 8, 4, stride=2)
    assert tasks_at_once(first_convolution(larger), images(9, 2)) == 1


def problem(queries: int, steps: int = 2) -> tuple[InnerLoop, Tasks]:
    support, query = (Batch(images(5, n), torch.arange(5).repeat(n // 5).expand(5, -1)) for n in (5, queries))
    model = Conv4(filters=32)
    return (
        InnerLoop(model, nn.CrossEntropyLoss(), SGD(0.1), ["*"], steps),
        Tasks((support,), query, torch.arange(5)),
    )


@pytest.mark.parametrize("queries", [5, 15])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_is_the_same(queries: int, recompute: bool) -> None:
    """With the tasks in chunks or together, their queries at once (5) or in a loop (15)."""
    loop, tasks = problem(queries)
    assert loop.default_chunk(tasks, 2) == 5
    assert loop.tasks_at_once(tasks.query.inputs) == (5 if queries == 5 else 1)
    one_by_one, default, some = (MetaGradientOf(loop, SecondOrder(recompute), 2, size)(tasks) for size in (1, None, 3))
    for found in (default, some):
        assert relative(found.gradients, one_by_one.gradients) < 1e-12
        torch.testing.assert_close(found.losses, one_by_one.losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.predictions, one_by_one.predictions, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("outer_gradient", "steps", "compile", "queries", "size"),
    [
        (SecondOrder(), 2, False, 15, 5),
        (SecondOrder(), 60, False, 15, 1),
        (SecondOrder(recompute=True), 60, False, 15, 5),
        (FirstOrder(), 60, False, 15, 5),
        (SecondOrder(), 2, True, 15, 1),
        (SecondOrder(), 2, True, 5, 5),
    ],
)
def test_default_chunks(outer_gradient: OuterGradient, steps: int, compile: bool, queries: int, size: int) -> None:
    loop, tasks = problem(queries, steps)
    assert MetaGradientOf(loop, outer_gradient, steps, compile=compile).default_chunk(tasks) == size


@pytest.mark.parametrize("asked", [None, 8])
def test_where_memory_runs_out(asked: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half as many tasks at once, and again, and so in later steps; where somebody said how many, an error."""
    x = torch.randn(8, 5, 1)
    batch = Batch(x, x.sin())
    tasks = Tasks((batch,), batch, torch.arange(8))
    loop = InnerLoop(MLP(hidden=[4]), nn.MSELoss(), SGD(0.1), ["*"], 1)
    true = MetaGradientOf(loop, SecondOrder(), 1)(tasks)
    asked_for: list[int] = []
    held: list[weakref.ref[torch.Tensor]] = []
    computed = ChunkGradient.__call__

    def of_chunk(self: ChunkGradient, weights: Params, tasks: Tasks) -> Part:
        asked_for.append(tasks.size)
        if held:
            assert held.pop()() is None, "what the failed attempt held is free by now"
        if tasks.size > 2:
            large = torch.ones(3)
            held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return computed(self, weights, tasks)

    monkeypatch.setattr(ChunkGradient, "__call__", of_chunk)
    meta_gradient = MetaGradientOf(loop, SecondOrder(), 1, tasks_per_chunk=asked)
    if asked is not None:
        with pytest.raises(torch.OutOfMemoryError):
            meta_gradient(tasks)
        return
    for sizes in ([8, 4, 2, 2, 2, 2], [2, 2, 2, 2]):
        asked_for.clear()
        found = meta_gradient(tasks)
        assert relative(found.gradients, true.gradients) < 1e-5
        assert asked_for == sizes


def test_a_model_that_cannot_be_mapped() -> None:
    class Branching(nn.Conv2d):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            hidden = super().forward(images)
            return hidden.flatten(1)[:, :2] if hidden.max() > 0 else hidden.flatten(1)[:, 2:4]

    loop = InnerLoop(Branching(1, 2, 3), nn.CrossEntropyLoss(), SGD(0.1), ["*"], 1)
    batch = Batch(images(5, 2, size=8), torch.tensor([0, 1]).expand(5, -1))
    tasks = Tasks((batch,), batch, torch.arange(5))
    with pytest.raises(RuntimeError, match="vmap") as raised:
        MetaGradientOf(loop, SecondOrder(), 1)(tasks)
    assert any("set tasks_per_chunk to 1" in note for note in raised.value.__notes__)
    assert MetaGradientOf(loop, SecondOrder(), 1, tasks_per_chunk=1)(tasks).finite.all()
