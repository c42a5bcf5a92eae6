"""What an outer gradient holds in memory, measured, and how that grows with tasks and inner steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterGradient
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks, select


@dataclass(frozen=True)
class Memory:
    """What the outer gradient of a chunk of T tasks by N >= 2 inner steps holds at its peak, beyond weights and data:

        M(T, N) = shared + T (task + N step)

    shared: However many tasks there are. task: For each, mostly of the query's pass. step: For each of its inner steps;
    by unrolling the pass of a step with its second derivatives, by recomputing the fast weights alone. All in MB.
    """

    shared: float
    task: float
    step: float

    def megabytes(self, tasks: int, steps: int) -> float:
        """M(T, N)."""
        return self.shared + tasks * (self.task + steps * self.step)


def memory_of(inner_loop: InnerLoop, outer_gradient: OuterGradient, tasks: Tasks) -> Memory:
    """The three numbers, by outer gradients of at most 4 tasks by 2 and 4 steps; of one task nothing is shared."""
    many, less, more = min(tasks.size, 4), 2, 4
    few = many // 2

    def peak(count: int, steps: int) -> float:
        if not count:
            return 0.0
        some = select(tasks, slice(0, count))
        compute = MetaGradientOf(inner_loop, outer_gradient, steps, tasks_per_chunk=count)
        compute(some)  # what is found out once is not counted
        return peak_of(partial(compute, some), some.query.device) / 2**20

    short, long, fewer = peak(many, less), peak(many, more), peak(few, less)
    step = max(long - short, 0.0) / (more - less) / many
    each = (short - fewer) / (many - few)
    return Memory(shared=max(short - many * each, 0.0), task=each - less * step, step=step)


def peak_of(run: Callable[[], Any], device: torch.device) -> float:
    """The most bytes that live at once of what a run allocates."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before)
    with _Allocations() as allocations:
        run()
    return float(allocations.peak)


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # untyped in torch
    """Bytes of the storages that operations made and that still live: now and at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in given:
                self._register(leaf.untyped_storage())
        return result

    def _register(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: Any) -> None:
            self._known.pop(key, None)
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
