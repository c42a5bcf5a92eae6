"""Functions of tensors on a GPU whose kernels are recorded once and then started all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # of torch
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Threads that pin the next batches go on with what a recording thread may not do.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            written = run()
    return graph, written


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
        self._inputs = [torch.empty_like(tensor) for tensor in tensors]
        self._place(tensors)
        device = next(tensor.device for tensor in tensors if tensor.is_cuda)
        self._graph, self._outputs = recorded(lambda: function(*self._inputs), device)

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
