"""torch's compiler: made ready while other things are done, and asked for programs that its cache on the disk keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from functools import cache
from threading import Thread

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import ShapeEnv

Function = Callable[..., tuple[Tensor, ...]]


def make_ready(device: torch.device) -> None:
    """Begin what the compiler waits for, so that it is done when its first program is traced."""
    if device.type == "cpu":
        _ready()


@cache
def _ready() -> Thread:
    """Starts to find out what the compiler asks of a machine with a CPU before its first program.

    It tries the processor's instructions and reads its headers by processes of its own, one after the other, for a
    second, in which this process has nothing to do for it.
    """
    # Here, since they are slow to import; and not in the thread, beside which others may import.
    from torch._inductor import codecache, cpp_builder, cpu_vec_isa  # noqa: F401

    def find_out() -> None:
        with suppress(Exception):  # the compiler asks again, and says what is wrong
            codecache.CppPythonBindingsCodeCache.load_pybinding(["float*"], 'extern "C" void kernel(float*) {}')

    thread = Thread(target=copy_context().run, args=(find_out,), daemon=True)
    thread.start()
    return thread


_SMALL = 2**17
"""Numbers of all arguments together, below which threads wait for each other longer than they compute."""


@contextmanager
def quick_trace(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Inside, a trace has one mode of fake tensors; else each of its operations makes one, with a stack trace.

    And one thread, where the tensors, its arguments, are small.
    """
    threads = torch.get_num_threads()
    if sum(tensor.numel() for tensor in tensors) < _SMALL:
        torch.set_num_threads(1)
    try:
        with tracing(TracingContext(FakeTensorMode())):
            yield
    finally:
        torch.set_num_threads(threads)


def compiled(trace: GraphModule, tensors: Sequence[Tensor]) -> Function:
    """The compiled trace, taken out of torch's cache on the disk where an earlier run has left it there."""
    from torch import _inductor as inductor  # here, since they are slow to import
    from torch._inductor import compile_fx  # noqa: F401

    if tensors[0].device.type == "cpu":
        _ready().join()
    for node in trace.graph.nodes:  # of the tracing's own fake tensors, which are of no cached program
        node.meta.clear()
    # Outside of torch.compile there is no environment of shapes, without which the cache is not asked; older versions
    # want more of torch.compile's surroundings with it.
    cached = torch.torch_version.TorchVersion(torch.__version__) >= "2.13"
    shapes = TracingContext(FakeTensorMode(shape_env=ShapeEnv()))
    # Not by torch.compile, which would trace the traced anew, and check in every call what the caller knows.
    with tracing(shapes) if cached else nullcontext():
        function: Function = inductor.compile(trace, [*tensors])
    return function
