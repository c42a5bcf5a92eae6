"""Functions of tensors on a GPU whose kernels are recorded once and then started all at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_WARM_UP = 3
"""Calls before the recording, in which cuBLAS and cuDNN choose their kernels and take their workspaces."""


def recorded(run: Callable[[], T], device: torch.device) -> tuple[torch.cuda.CUDAGraph, T]:
    """The graph of a run's kernels, and what a replay of it writes to; it has run some times before.

    Raises:
        RuntimeError: Of torch, where the run does something that cannot be recorded.
    """
    with torch.cuda.device(device):
        # Not on the default stream, on which nothing can be recorded, nor what a recording is to find warm.
        aside, before = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]  # of torch
        aside.wait_stream(before)
        try:
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP - 1):
                    run()
                with _no_waiting():
                    run()
        finally:
            before.wait_stream(aside)  # also where it fails: what it reads is overwritten then
        graph = torch.cuda.CUDAGraph()
        try:
            # On a stream of this device: torch's own is of the first that anything was recorded on. Threads that pin
            # the next batches go on with what a recording thread may not do.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                written = run()
        finally:
            torch.cuda.set_stream(before)  # which torch leaves undone where a recording fails
    return graph, written


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Refuse what waits for the device: a recording that fails leaves torch's random numbers unusable on it."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


class CudaGraph:
    """A function as a CUDA graph: a call copies its arguments to fixed places, replays the graph, copies what it gives.

    A small network's kernels take less time on a GPU than Python takes to start them; one graph starts them all.
    The memory that the function uses stays its own. It may not draw random numbers, wait for the device or read a
    tensor's value.

    Args:
        function: Of tensors on one CUDA device.
        tensors: Arguments to record it at; later ones have to be of the same shapes, strides and dtypes.

    Raises:
        RuntimeError: Of torch, where the function does something that cannot be recorded.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], tensors: Sequence[Tensor]) -> None:
        # Of the same strides, also where there are gaps, as in a part of a larger tensor: what is compiled checks them.
        self._inputs = [
            torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=each.device) for each in tensors
        ]
        self._place(tensors)
        self._function = function  # which may hold tensors that the kernels read
        self._graph, self._outputs = recorded(lambda: function(*self._inputs), tensors[0].device)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        self._place(tensors)
        self._graph.replay()
        # The next replay overwrites them.
        outputs = [torch.empty_like(output) for output in self._outputs]
        torch._foreach_copy_(outputs, [*self._outputs])
        return tuple(outputs)

    def _place(self, tensors: Sequence[Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._inputs, [*tensors])
