"""Compiled functions of tensors, which have to give what the functions themselves give on other numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from litmaml.engine.compiler import Function, compiled, make_ready, quick_trace
from litmaml.engine.cuda_graph import CudaGraph
from litmaml.engine.switches import is_on
from litmaml.engine.traced_numbers import Taken
from litmaml.engine.watched import Watched
from litmaml.randomness import seeded
from litmaml.shown import first_line

logger = logging.getLogger(__name__)

_INSTEAD = "set compile to false, or compute it by operations of torch on tensors, without branches on their values"


class Program:
    """A function, traced at its first arguments and compiled.

    The trace keeps as they are what the function takes of elsewhere: attributes, buffers and closures of a module are
    watched; numbers out of tensors are refused. What is left (globals, generators of its own) shows where trace and
    function are compared on other arguments, in the 2nd, 3rd, 5th, 9th, ... call.

    On a GPU the calls after the second replay it as a CUDA graph.

    Args:
        function: Of tensors.
        tensors: Its first arguments.
        read: What it reads beside them: a module, or modules and other objects by name.
        draws: Whether it draws random numbers, which a graph would not draw anew.

    Raises:
        ValueError: The function cannot be traced or compiled; or, in a later call, its trace gives other numbers.
    """

    def __init__(self, function: Function, tensors: Sequence[Tensor], read: Any, draws: bool = False) -> None:
        before, self._taken = Watched(read), Taken()
        device = tensors[0].device
        try:
            make_ready(device)
            # Tracing draws too, but not from the tasks' own stream.
            with quick_trace(tensors), seeded(0, device), self._taken:
                # Detached: one tensor that stands in two places would be traced as one argument.
                trace = make_fx(function)(*(tensor.detach() for tensor in tensors))
            self._compiled = compiled(trace, tensors)
        except torch.OutOfMemoryError:  # with fewer tasks it may be compiled
            raise
        except Exception as error:  # whatever somebody's model does with a tensor that is being traced
            raise ValueError(
                f"compile: the model cannot be compiled ({first_line(error)[:200]}); {_INSTEAD}"
            ) from error
        self._watched = Watched(read, before)
        self._function, self._trace = function, trace
        self._calls = 0
        self._replays = is_on("cuda_graph") and not draws and all(tensor.is_cuda for tensor in tensors)

    def outdated(self) -> str:
        """The name of something in the module that is no longer what it was when it was traced, or nothing."""
        return self._watched.changed() or ("a buffer, as a number," if self._taken.changed() else "")

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self._calls and self._calls.bit_count() == 1:
            self._compare(tensors)
        if self._replays and self._calls == 1:
            self._record(tensors)
        self._calls += 1
        return self._compiled(*tensors)

    def _record(self, tensors: Sequence[Tensor]) -> None:
        try:
            self._compiled = CudaGraph(self._compiled, tensors)
        except RuntimeError as error:  # an operation that waits for the device; it runs as it did
            logger.info("compile: its kernels are started one by one, not as a graph: %s", first_line(error))

    def _compare(self, tensors: Sequence[Tensor]) -> None:
        device = tensors[0].device
        with seeded(1, device):
            wanted = self._function(*tensors)
        with seeded(1, device), torch.autocast(device.type, enabled=False):  # whose casts stand in the trace
            found = self._trace(*tensors)
        apart = max(map(_apart, found, wanted))
        if apart > 0:
            raise ValueError(
                "compile: on other numbers than those that it was compiled at the model gives another result, by "
                f"{apart:.1%}: its forward pass uses what has changed since (a global, an object's own object), takes "
                "numbers out of tensors or draws from a generator of its own, of which the program keeps the first; "
                f"{_INSTEAD}"
            )


def _apart(found: Tensor, wanted: Tensor) -> float:
    """How far two results are apart, as a share of the second's length; 0 where it is rounding."""
    if not wanted.numel() or not wanted.is_floating_point():
        return 0.0 if torch.equal(found, wanted) else 1.0
    if torch.equal(found.isfinite(), wanted.isfinite()):
        found, wanted = (part.nan_to_num(0, 0, 0) for part in (found, wanted))
    distance, length = (float(torch.linalg.vector_norm(part.double())) for part in (found - wanted, wanted))
    return distance / max(length, 1e-300) if not distance <= _rounding(wanted) * length else 0.0


def _rounding(like: Tensor) -> float:
    return max(1e3 * torch.finfo(like.dtype).eps, 1e-6)
