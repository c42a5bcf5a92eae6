"""What one outer gradient costs: evaluations counted, time and peak memory measured."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litmaml.inner.loop import InnerLoop
from litmaml.outer import Implicit, OuterGradient, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks


@dataclass(frozen=True)
class Cost:
    """Of the outer gradient of a few tasks.

    gradients: Losses that were evaluated and differentiated, a task. losses: Those evaluated only.
    hessian_products: Exact Hessian-vector products, a task; each costs two to three gradients.
    seconds: Of the processor, or of the clock on a GPU; the fastest of a few runs. megabytes: The peak of what was
    allocated beyond the start.
    """

    gradients: int
    losses: int
    hessian_products: int
    seconds: float
    megabytes: float


def costs(
    inner_loop: InnerLoop, outer_gradients: Sequence[OuterGradient], tasks: Tasks, steps: int, repeat: int = 5
) -> list[Cost]:
    """The costs of outer gradients of the tasks, each computed as one chunk."""
    computed = [MetaGradientOf(inner_loop, choice, steps, tasks_per_chunk=tasks.size) for choice in outer_gradients]
    device = tasks.query.device
    counted, megabytes = [], []
    for compute in computed:
        with _counting(inner_loop.model) as counts:
            compute(tasks)
        counted.append(counts)
        megabytes.append(_peak(partial(compute, tasks), device) / 2**20)
    seconds = [float("inf")] * len(outer_gradients)
    for _ in range(repeat):  # in turn, so that whatever else the machine does falls on all alike
        for k, compute in enumerate(computed):
            seconds[k] = min(seconds[k], _timed(partial(compute, tasks), device))
    return [
        Cost(
            gradients=counts["gradients"],
            losses=counts["losses"],
            hessian_products=_products(inner_loop, outer_gradient, steps),
            seconds=second,
            megabytes=megabyte,
        )
        for outer_gradient, counts, second, megabyte in zip(outer_gradients, counted, seconds, megabytes, strict=True)
    ]


def _products(inner_loop: InnerLoop, outer_gradient: OuterGradient, steps: int) -> int:
    """The exact Hessian-vector products of a task."""
    if isinstance(outer_gradient, Implicit) and isinstance(outer_gradient.hops, SecondOrder):
        return outer_gradient.iterations + bool(inner_loop.slow_names)
    return steps if isinstance(outer_gradient, SecondOrder) else 0


@contextmanager
def _counting(model: nn.Module) -> Iterator[dict[str, int]]:
    counts = {"gradients": 0, "losses": 0}

    def count(*_: Any) -> None:
        counts["gradients" if torch.is_grad_enabled() else "losses"] += 1

    handle = model.register_forward_hook(count)
    try:
        yield counts
    finally:
        handle.remove()


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        return time.perf_counter() - began
    began = time.process_time()
    run()
    return time.process_time() - began


def _peak(run: Callable[[], Any], device: torch.device) -> float:
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
