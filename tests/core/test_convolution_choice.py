"""How a GPU computes convolutions with kernels of each task's own: with a CPU in the place of the GPU."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import relative
from torch import nn

from litmaml.engine import convolution, twice_differentiable
from litmaml.engine.convolution import Grouped
from litmaml.engine.switches import without
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import MLP, Conv4
from litmaml.outer import GaussianSmoothing, OuterGradient, SecondOrder
from litmaml.outer import convolution_choice as module
from litmaml.outer.chunk_gradient import ChunkGradient
from litmaml.outer.convolution_choice import ConvolutionChoice, Timed
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks

CPU = torch.device("cpu")
GROUPED, PATCHES = Timed(4, 1.0, 2.0), Timed(4, 2.0, 1.0)


def tasks(count: int = 4) -> Tasks:
    batch = Batch(torch.rand(count, 3, 1, 28, 28, dtype=torch.float64), torch.arange(3).expand(count, -1))
    return Tasks((batch,), batch, torch.arange(count))


def compute(
    model: nn.Module | None = None, fast: str = "*", outer_gradient: OuterGradient | None = None, **options: Any
) -> MetaGradientOf:
    torch.manual_seed(0)
    loop = InnerLoop(model or Conv4(3, filters=2).double(), nn.CrossEntropyLoss(), SGD(0.1), [fast], 1)
    return MetaGradientOf(loop, outer_gradient or SecondOrder(), 1, **options)


def alone(measure: Callable[[], Timed | None]) -> Timed | None:
    return measure()


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is taken for a GPU, and tasks' own kernels for such as lie on one."""
    monkeypatch.setattr(module, "_on_gpu", lambda device: True)
    monkeypatch.setattr(convolution, "_are_own", torch._C._functorch.is_batchedtensor)


def clock(monkeypatch: pytest.MonkeyPatch, grouped: float, patches: float) -> list[bool]:
    """Lets the two ways take so many seconds; whether they were replayed, of each that is timed."""
    asked: list[bool] = []

    def seconds(run: Callable[[], Any], device: torch.device, replayed: bool) -> float:
        asked.append(replayed)
        return grouped if Grouped.entered else patches

    monkeypatch.setattr(module, "seconds", seconds)
    return asked


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("slow", ["grouped", "patches"])
def test_the_faster_one_is_taken(slow: str, monkeypatch: pytest.MonkeyPatch) -> None:

    def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
        def late(*args: Any, **kwargs: Any) -> Any:
            time.sleep(0.004)
            return function(*args, **kwargs)

        return late

    if slow == "grouped":
        monkeypatch.setattr(twice_differentiable, "_uncast", slowed(twice_differentiable._uncast))
    else:
        monkeypatch.setattr(nn.functional, "pad", slowed(nn.functional.pad))
    gradient, choice, given = compute(), ConvolutionChoice(), tasks()
    before = torch.get_rng_state()
    found = choice.choose(gradient, given, alone)
    assert torch.equal(torch.get_rng_state(), before)
    assert found is not None
    assert (found.tasks, found.grouped < found.patches) == (4, slow == "patches")
    assert gradient.inner_loop.grouped == (slow == "patches")
    assert [*choice.state().values()] == [slow == "patches"]


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("outer_gradient", [SecondOrder(recompute=True), GaussianSmoothing(2)], ids=type)
def test_the_chosen_way_gives_the_same(outer_gradient: OuterGradient, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 1.0, 2.0)
    gradient, given = compute(outer_gradient=outer_gradient), tasks()
    by_patches = gradient(given).gradients
    assert ConvolutionChoice().choose(gradient, given, alone) == GROUPED
    rounding = 1e-10 if outer_gradient.unrolls else 1e-5
    assert relative(gradient(given).gradients, by_patches) < rounding


@pytest.mark.usefixtures("on_gpu")
def test_what_a_checkpoint_keeps_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = clock(monkeypatch, 1.0, 2.0)
    first, resumed, other = ConvolutionChoice(), ConvolutionChoice(), ConvolutionChoice()
    assert first.state() == {}
    first.choose(compute(), tasks(), alone)
    resumed.take(first.state())
    asked.clear()
    gradient = compute()
    assert resumed.choose(gradient, tasks(), alone) is None
    assert (gradient.inner_loop.grouped, asked) == (True, [])
    no_states: tuple[Any, ...] = (None, [], {"a": 1, 2: True})
    for nothing in no_states:
        other.take(nothing)
        assert other.state() == {}


@pytest.mark.usefixtures("on_gpu")
def test_each_precision_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    choice, gradient = ConvolutionChoice(), compute()
    clock(monkeypatch, 2.0, 1.0)
    assert choice.choose(gradient, tasks(), alone) == PATCHES
    clock(monkeypatch, 1.0, 2.0)
    with monkeypatch.context() as changed:
        changed.setattr(module, "float32_flags", lambda: ("high", True))
        assert choice.choose(gradient, tasks(), alone) == GROUPED
        assert gradient.inner_loop.grouped
    assert choice.choose(gradient, tasks(), alone) is None
    assert not gradient.inner_loop.grouped
    with torch.autocast("cpu", torch.bfloat16):
        assert choice.choose(gradient, tasks(), alone) == GROUPED
    assert len(choice.state()) == 3


@pytest.mark.usefixtures("on_gpu")
def test_a_program_is_measured_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the replay of a graph, and eager where it is switched off; the two choices do not mix."""
    asked, gradient, choice = clock(monkeypatch, 1.0, 2.0), compute(compile=True), ConvolutionChoice()
    choice.choose(gradient, tasks(), alone)
    assert asked == [True, True]
    with without("program"):
        choice.choose(gradient, tasks(), alone)
    assert asked == [True, True, False, False]
    assert len(choice.state()) == 2


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    "gradient",
    [
        lambda: compute(MLP(784, 3).double()),
        lambda: compute(fast="head.*"),
        lambda: compute(tasks_per_chunk=1),
        lambda: compute(nn.Sequential(nn.Conv2d(1, 2, 7, 7), nn.Flatten(), nn.Linear(32, 3)).double()),
        lambda: compute(nn.Sequential(nn.Conv2d(1, 2, 9, 1, 0, 3), nn.Flatten(), nn.Linear(32, 3)).double()),
    ],
    ids=["none", "not adapted", "one task", "cut into patches", "dilated"],
)
def test_nothing_is_timed_without_such_convolutions(
    gradient: Callable[[], MetaGradientOf], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, choice, made = clock(monkeypatch, 1.0, 2.0), ConvolutionChoice(), gradient()
    made.inner_loop._written_out = True  # as on a GPU
    assert choice.choose(made, tasks(), alone) is None
    assert (asked, choice.state(), made.inner_loop.grouped) == ([], {}, False)


@pytest.mark.usefixtures("on_gpu")
def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, choice, gradient = clock(monkeypatch, 1.0, 2.0), ConvolutionChoice(), compute()
    with without("convolution"):
        assert choice.choose(gradient, tasks(), alone) is None
    torch.use_deterministic_algorithms(True)
    try:
        assert choice.choose(gradient, tasks(), alone) is None
    finally:
        torch.use_deterministic_algorithms(False)
    assert (asked, choice.state()) == ([], {})


def test_on_a_cpu_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkGradient, "__call__", lambda *_: pytest.fail("computed"))
    assert ConvolutionChoice().choose(compute(), tasks(), lambda _: pytest.fail("asked")) is None


@pytest.mark.usefixtures("on_gpu")
def test_an_error_is_left_for_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ChunkGradient, *_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(ChunkGradient, "__call__", fail)
    gradient, choice = compute(), ConvolutionChoice()
    assert choice.choose(gradient, tasks(), alone) is None
    assert (gradient.inner_loop.grouped, choice.state()) == (False, {})


@pytest.mark.parametrize(
    ("took", "fastest", "runs"), [([0.5, 0.3, 0.2, 0.3, 0.1, 0.3], 0.1, 6), ([0.5, 3.0, 0.1], 0.5, 2)]
)
def test_the_fastest_of_some_runs_counts(
    took: list[float], fastest: float, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them where they take long."""
    monkeypatch.setattr(module, "_once", lambda run, device: took[run()])
    count = itertools.count()
    assert module.seconds(lambda: next(count), CPU, replayed=False) == fastest
    assert next(count) == runs


@pytest.mark.parametrize("error", [None, RuntimeError("it waits"), torch.OutOfMemoryError("memory")], ids=repr)
def test_what_cannot_be_recorded_runs_as_it_is(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Graph:
        def replay(self) -> None:
            ran.append("replayed")

    def recorded(run: Callable[[], Any], device: torch.device) -> tuple[Graph, None]:
        if error is not None:
            raise error
        return Graph(), None

    monkeypatch.setattr(module, "recorded", recorded)
    if isinstance(error, torch.OutOfMemoryError):
        with pytest.raises(torch.OutOfMemoryError):
            module.seconds(lambda: None, CPU, replayed=True)
    else:
        module.seconds(lambda: ran.append("eager"), CPU, replayed=True)
        assert {*ran} == {"replayed" if error is None else "eager"}
