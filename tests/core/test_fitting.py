"""How many tasks a GPU's memory takes at once: by a measurement of few, with a number in the place of the GPU."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import torch
from oracles import relative
from torch import nn

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import MLP
from litmaml.outer import GaussianSmoothing, OuterGradient, SecondOrder
from litmaml.outer import memory as module
from litmaml.outer.chunk_gradient import ChunkGradient, Part
from litmaml.outer.memory import Fitting, Held, peak_of
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks, select
from litmaml.weights import Params

CPU = torch.device("cpu")


def tasks_of(count: int, examples: int = 200) -> Tasks:
    x = torch.randn(count, examples, 1, dtype=torch.float64)
    batch = Batch(x, x.sin())
    return Tasks((batch,), batch, torch.arange(count))


def loop(steps: int = 2) -> InnerLoop:
    return InnerLoop(MLP(hidden=[8, 8]).double(), nn.MSELoss(), SGD(0.1), ["*"], steps)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of tasks of each chunk that is computed."""
    taken: list[int] = []
    computed = ChunkGradient.__call__

    def of_chunk(self: ChunkGradient, weights: Params, tasks: Tasks) -> Part:
        taken.append(tasks.size)
        return computed(self, weights, tasks)

    monkeypatch.setattr(ChunkGradient, "__call__", of_chunk)
    return taken


def free(room: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many bytes are free, of which a share may be taken."""
    monkeypatch.setattr(module, "free_memory", lambda device: int(room / module._SHARE) + 1)


def held_by(inner_loop: InnerLoop, tasks: Tasks, outer_gradient: OuterGradient, steps: int = 2) -> float:
    """The peak of such a chunk, measured."""
    compute = MetaGradientOf(inner_loop, outer_gradient, steps, tasks_per_chunk=tasks.size)
    compute(tasks)
    return peak_of(partial(compute, tasks), CPU)


# Differences between probes make rounding larger.
@pytest.mark.parametrize(
    ("outer_gradient", "rounding"), [(SecondOrder(), 1e-12), (GaussianSmoothing(samples=2), 1e-6)], ids=str
)
def test_half_as_many_until_they_fit(
    outer_gradient: OuterGradient,
    rounding: float,
    sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inner_loop, tasks = loop(), tasks_of(18)
    five, nine = (held_by(inner_loop, select(tasks, slice(count)), outer_gradient) for count in (5, 9))
    true = MetaGradientOf(inner_loop, outer_gradient, 2, tasks_per_chunk=1)(tasks)
    free((five + nine) / 2, monkeypatch)
    found = MetaGradientOf(inner_loop, outer_gradient, 2)
    random = torch.get_rng_state()
    for expected in ([4, 4, 2, 5, 5, 5, 3], [5, 5, 5, 3]):  # measured once
        sizes.clear()
        gradient = found(tasks)
        assert sizes == expected
        assert relative(gradient.gradients, true.gradients) < rounding
        torch.testing.assert_close(gradient.losses, true.losses, rtol=1e-12, atol=0)
        free(1e12, monkeypatch)  # which changes nothing in a run that has begun
    assert torch.equal(torch.get_rng_state(), random)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "tasks_per_chunk: memory holds 5 of 18 tasks at once, which changes rounding alone; a number that is set stays"
    ]


def test_what_more_tasks_and_steps_hold_is_foreseen() -> None:
    """Within a tenth, at the run's own number of steps."""
    for steps in (1, 4):
        inner_loop, tasks = loop(steps), tasks_of(12)
        compute = MetaGradientOf(inner_loop, SecondOrder(), steps)
        foreseen = Held.of(lambda count: peak_of(partial(compute._of_few, select(tasks, slice(count))), CPU), 12)  # noqa: B023
        assert foreseen.by(12) == pytest.approx(held_by(inner_loop, tasks, SecondOrder(), steps), rel=0.1)


def test_all_where_they_fit_and_those_that_somebody_asked_for(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inner_loop = loop()
    free(1e12, monkeypatch)
    MetaGradientOf(inner_loop, SecondOrder(), 2)(tasks_of(8))
    assert sizes == [4, 4, 2, 8]
    free(1, monkeypatch)
    sizes.clear()
    MetaGradientOf(inner_loop, SecondOrder(), 2, tasks_per_chunk=8)(tasks_of(8))
    assert sizes == [8]
    sizes.clear()
    MetaGradientOf(inner_loop, SecondOrder(), 2)(tasks_of(4))
    assert sizes == [4], "so few tell nothing by half of them"
    assert not caplog.records
    sizes.clear()
    MetaGradientOf(inner_loop, SecondOrder(), 2)(tasks_of(8))
    assert sizes == [4, 4, 2, *[1] * 8]


def test_each_form_is_measured_and_all_against_one_number(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    inner_loop, few, many = loop(), tasks_of(8), tasks_of(8, examples=2000)
    free(1.1 * held_by(inner_loop, few, SecondOrder()), monkeypatch)
    compute = MetaGradientOf(inner_loop, SecondOrder(), 2)
    assert [compute.chunk_size(few), compute.chunk_size(many)] == [8, 1]
    free(1e12, monkeypatch)
    sizes.clear()
    assert [compute.chunk_size(tasks_of(16)), compute.chunk_size(tasks_of(7, examples=2000))] == [8, 1]
    assert not sizes, "other numbers of tasks are the same form"
    assert compute.chunk_size(tasks_of(8, examples=2001)) == 1
    monkeypatch.setattr(module, "_MOST_FORMS", 3)
    sizes.clear()
    assert compute.chunk_size(tasks_of(8, examples=2)) == 1, "after many forms each is taken for the largest"
    assert not sizes


def test_programs_take_twice_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    inner_loop, tasks = loop(), tasks_of(8)
    free(1.1 * held_by(inner_loop, tasks, SecondOrder()), monkeypatch)
    for compile, size in ((False, 8), (True, 4)):
        assert MetaGradientOf(inner_loop, SecondOrder(), 2, compile=compile).chunk_size(tasks) == size


def test_a_run_goes_on_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    inner_loop, tasks = loop(), tasks_of(16)
    half = 1.1 * held_by(inner_loop, select(tasks, slice(8)), SecondOrder())
    first, resumed, elsewhere, other = (MetaGradientOf(inner_loop, SecondOrder(), 2) for _ in range(4))
    assert not first.fitting.state()
    free(half, monkeypatch)
    assert first.chunk_size(tasks) == 8
    state = first.fitting.state()
    free(1e12, monkeypatch)
    resumed.fitting.take(state)
    assert resumed.chunk_size(tasks) == 8
    free(half / 2, monkeypatch)  # a smaller GPU
    elsewhere.fitting.take(state)
    assert elsewhere.chunk_size(tasks) == 4
    assert first.fitting.halve(8)
    other.fitting.take(first.fitting.state())
    assert other.chunk_size(tasks) == 4
    other.fitting.take({"room": "no number", "most": 0})
    assert other.fitting.state() == {}
    assert not Fitting().halve(1)


@pytest.mark.parametrize(
    ("error", "size"), [(torch.OutOfMemoryError("CUDA out of memory."), 1), (RuntimeError("not finite"), 8)], ids=repr
)
def test_where_not_even_few_can_be_measured(error: Exception, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_chunk(self: ChunkGradient, weights: Params, tasks: Tasks) -> Part:
        raise error

    monkeypatch.setattr(ChunkGradient, "__call__", of_chunk)
    free(1e12, monkeypatch)
    assert MetaGradientOf(loop(), SecondOrder(), 2).chunk_size(tasks_of(8)) == size


def test_on_a_cpu_there_is_nothing_to_measure(sizes: list[int]) -> None:
    MetaGradientOf(loop(), SecondOrder(), 2)(tasks_of(8))
    assert sizes == [8]
