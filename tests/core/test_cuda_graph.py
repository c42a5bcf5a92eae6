"""CUDA graphs without a GPU: which streams are taken, what is left after a failure, and which places are fixed.

What kernels do with it all, ``tests/gpu/test_gpu_graph.py`` sees on a GPU.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from litmaml.engine import cuda_graph
from litmaml.engine.cuda_graph import CudaGraph, recorded


class Stream:
    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_stream(self, other: Stream) -> None:
        assert other.device == self.device


class Cards:
    """What torch.cuda keeps of two cards, with its own stream for recordings where none is given.

    recorded: The streams that were recorded on.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.device = torch.device("cuda", 0)
        self.streams = {k: Stream(torch.device("cuda", k)) for k in range(2)}
        self.mode = 0
        self.recorded: list[Stream] = []
        self.recording: Stream | None = None
        for name in ("current_stream", "set_stream", "graph", "stream"):
            patch.setattr(torch.cuda, name, getattr(self, name))
        patch.setattr(torch.cuda, "device", self.on)
        patch.setattr(torch.cuda, "Stream", lambda: Stream(self.device))
        patch.setattr(torch.cuda, "CUDAGraph", object)
        patch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        patch.setattr(torch.cuda, "set_sync_debug_mode", self.set_mode)

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, device
        yield
        self.device = before

    def current_stream(self) -> Stream:
        assert self.device.index is not None
        return self.streams[self.device.index]

    def set_stream(self, stream: Stream) -> None:
        self.device = stream.device
        self.streams[stream.device.index] = stream

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before = self.current_stream()
        self.set_stream(stream)
        try:
            yield
        finally:
            self.set_stream(before)

    def set_mode(self, mode: int | str) -> None:
        self.mode = 2 if mode == "error" else int(mode)

    @contextmanager
    def graph(self, graph: object, stream: Stream | None = None, capture_error_mode: str = "global") -> Iterator[None]:
        """As torch has it: where what is recorded fails, the stream stays."""
        if self.recording is None:
            self.recording = Stream(self.device)
        before, chosen = self.current_stream(), stream or self.recording
        self.set_stream(chosen)
        self.recorded.append(chosen)
        yield
        self.set_stream(before)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Cards:
    return Cards(monkeypatch)


def test_each_card_has_a_stream_of_its_own(cards: Cards) -> None:
    """On that of another card nothing would be recorded, and each replay would give the first numbers again."""
    for k in (0, 1):
        seen: list[Stream] = []
        recorded(lambda seen=seen: seen.append(cards.current_stream()), torch.device("cuda", k))  # type: ignore[misc]
        assert {stream.device.index for stream in seen} == {k}
        assert len({*seen}) == 1, "the warm-up is of the stream that is recorded on"
        assert seen[-1] is cards.recorded[-1]
    assert [cards.device.index, *(stream.device.index for stream in cards.streams.values())] == [0, 0, 1]


def test_what_waits_is_refused_before_anything_is_recorded(cards: Cards) -> None:
    cards.mode = 1

    def waits() -> None:
        if cards.mode == 2:
            raise RuntimeError("called a synchronizing CUDA operation")

    before = cards.current_stream()
    with pytest.raises(RuntimeError, match="synchronizing"):
        recorded(waits, torch.device("cuda", 0))
    assert not cards.recorded
    assert (cards.mode, cards.current_stream()) == (1, before)


def test_a_recording_that_fails_leaves_the_stream_as_it_was(cards: Cards) -> None:
    def fails() -> None:
        if cards.recorded:
            raise RuntimeError("operation not permitted when stream is capturing")

    before = cards.current_stream()
    with pytest.raises(RuntimeError, match="capturing"):
        recorded(fails, torch.device("cuda", 0))
    assert cards.current_stream() is before


class Replayed:
    """A graph of what a run writes: a replay writes there again."""

    def __init__(self, run: Callable[[], tuple[Tensor, ...]]) -> None:
        self.run, self.written = run, run()

    def replay(self) -> None:
        for place, new in zip(self.written, self.run(), strict=True):
            place.copy_(new)


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(run: Any, device: torch.device) -> Any:
        graph = Replayed(run)
        return graph, graph.written

    monkeypatch.setattr(cuda_graph, "recorded", stand_in)


@pytest.mark.usefixtures("on_the_cpu")
def test_places_are_fixed_and_results_are_not() -> None:
    places: set[tuple[int, ...]] = set()

    def function(x: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        places.add((x.data_ptr(), k.data_ptr()))
        return x * k, k + 1

    given = [(torch.randn(3, 2), torch.tensor([k])) for k in range(3)]
    graph = CudaGraph(function, given[0])
    found = [graph(*some) for some in given]
    for (x, k), results in zip(given, found, strict=True):
        torch.testing.assert_close(results, (x * k, k + 1))
    assert len(places) == 1


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize(
    "x",
    [
        torch.arange(24.0).view(2, 4, 3)[:, 1:3],
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.arange(8.0).unfold(0, 4, 2),
    ],
    ids=["with gaps", "channels last", "overlapping"],
)
def test_strides_are_those_that_were_compiled_for(x: Tensor) -> None:
    strides: list[tuple[int, ...]] = []

    def function(x: Tensor) -> tuple[Tensor, ...]:
        strides.append(x.stride())
        return (2 * x,)

    (doubled,) = CudaGraph(function, [x])(x)
    torch.testing.assert_close(doubled, 2 * x)
    assert {*strides} == {x.stride()}


@pytest.mark.usefixtures("on_the_cpu")
def test_what_the_kernels_read_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants of a compiled program are in no argument; freed, their memory would get other numbers."""

    def stand_in(run: Any, device: torch.device) -> Any:
        return object(), run()  # a graph knows addresses, not tensors

    monkeypatch.setattr(cuda_graph, "recorded", stand_in)

    def of_constant() -> tuple[Callable[[Tensor], tuple[Tensor, ...]], weakref.ref[Tensor]]:
        constant = torch.ones(2)
        return lambda x: (x + constant,), weakref.ref(constant)

    function, constant = of_constant()
    graph = CudaGraph(function, [torch.zeros(2)])
    del function
    gc.collect()
    assert constant() is not None
    del graph
    gc.collect()
    assert constant() is None
