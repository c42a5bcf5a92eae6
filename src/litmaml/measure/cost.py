"""What one outer gradient costs: evaluations counted, time and peak memory measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from litmaml.inner.loop import InnerLoop
from litmaml.measure.memory import Memory, memory_of
from litmaml.outer import Implicit, OuterGradient, SecondOrder
from litmaml.outer.memory import peak_of
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks


@dataclass(frozen=True)
class Cost:
    """Of the outer gradient of a few tasks.

    gradients: Losses that were evaluated and differentiated, a task. losses: Those evaluated only.
    hessian_products: Exact Hessian-vector products, a task; each costs two to three gradients.
    seconds: Of the processor, or of the clock on a GPU; the fastest of a few runs. megabytes: The peak of what was
    allocated beyond the start. memory: How that grows with tasks and steps.
    """

    gradients: int
    losses: int
    hessian_products: int
    seconds: float
    megabytes: float
    memory: Memory


def costs(
    inner_loop: InnerLoop, outer_gradients: Sequence[OuterGradient], tasks: Tasks, steps: int, repeat: int = 5
) -> list[Cost]:
    """The costs of outer gradients of the tasks, each computed as one chunk."""
    computed = [MetaGradientOf(inner_loop, choice, steps, tasks_per_chunk=tasks.size) for choice in outer_gradients]
    device = tasks.query.device
    counted, megabytes, memories = [], [], []
    for choice, compute in zip(outer_gradients, computed, strict=True):
        with _counting(inner_loop.model) as counts:
            compute(tasks)
        counted.append(counts)
        megabytes.append(peak_of(partial(compute, tasks), device) / 2**20)
        memories.append(memory_of(inner_loop, choice, tasks))
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
            memory=memory,
        )
        for outer_gradient, counts, second, megabyte, memory in zip(
            outer_gradients, counted, seconds, megabytes, memories, strict=True
        )
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
