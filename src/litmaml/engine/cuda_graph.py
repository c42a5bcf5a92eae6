"""Functions of tensors on a GPU whose kernels are recorded once and then started all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_WARM_UP = 3
"""Calls before the recording, in which cuBLAS and cuDNN choose their kernels and take their workspaces."""


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
        device = next(tensor.device for tensor in tensors if tensor.is_cuda)
        self._inputs = [torch.empty_like(tensor) for tensor in tensors]
        self._place(tensors)
        with torch.cuda.device(device):
            # Not on the default stream, on which nothing can be recorded, nor what a recording is to find warm.
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # of torch
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            # Threads that pin the next batches go on with what a recording thread may not do.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = function(*self._inputs)

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
