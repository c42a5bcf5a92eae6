#!/usr/bin/env python
"""What an inner step costs by each outer gradient, in time and memory, for models of five kinds.

    python scripts/step_costs.py

Time is that of the processor, in gradients of the inner loss beyond the step's own (5-way 1-shot, or ten points of a
sinusoid, 4 tasks), by the slope between 2 and 6 steps. Memory is that of the formula which `litmaml diagnose` prints,
from outer gradients of at most 4 tasks by 2 and 4 steps, beside what 8 tasks by 10 steps hold, with 5 queries per
class. A table in Markdown; one thread, about two minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.measure.memory import memory_of
from litmaml.models import MLP, Conv4
from litmaml.outer import FiniteDifference, FirstOrder, OuterGradient, SecondOrder
from litmaml.outer.memory import peak_of
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks, select

TASKS, STEPS = 8, 10
METHODS: list[OuterGradient] = [FirstOrder(), SecondOrder(), SecondOrder(recompute=True), FiniteDifference()]


class Residual(nn.Module):
    """A residual block of two convolutions with batch norm, and a linear head over the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.BatchNorm2d(32, track_running_stats=False),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.BatchNorm2d(32, track_running_stats=False),
        )
        self.shortcut, self.head = nn.Conv2d(3, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x) + self.shortcut(x)).mean((2, 3)))


class Transformer(nn.Module):
    """Two layers of a transformer over the 16 patches of an image of 32 x 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True, norm_first=True)
        self.patches, self.head = nn.Conv2d(3, 48, 8, 8), nn.Linear(48, 5)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.patches(x).flatten(2).mT).mean(1))


class Recurrent(nn.Module):
    """A GRU over sequences of 12 steps, and a linear head on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


@dataclass(frozen=True)
class Kind:
    """A model with the shape of an example; regression where the loss is one."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    loss: nn.Module = nn.CrossEntropyLoss()  # noqa: RUF009  # it holds nothing


MODELS = [
    Kind("MLP 1-40-40-1", MLP, (1,), nn.MSELoss()),
    Kind("Conv4, 32 filters", partial(Conv4, ways=5, filters=32), (1, 28, 28)),
    Kind("residual block", Residual, (3, 32, 32)),
    Kind("transformer", Transformer, (3, 32, 32)),
    Kind("GRU", Recurrent, (12, 8)),
]


def tasks_of_kind(kind: Kind, count: int) -> Tasks:
    """Tasks of noise, of which only the shapes matter."""

    def batch(per_class: int) -> Batch:
        labels = torch.arange(5).repeat_interleave(per_class).expand(count, -1).contiguous()
        x = torch.randn(count, labels.shape[1], *kind.shape)
        return Batch(x, torch.sin(x) if isinstance(kind.loss, nn.MSELoss) else labels)

    shots, queries = (2, 2) if isinstance(kind.loss, nn.MSELoss) else (1, 5)
    return Tasks((batch(shots),), batch(queries), torch.arange(count))


def seconds_per_step(loop: InnerLoop, methods: Sequence[OuterGradient], tasks: Tasks) -> list[float]:
    """The processor's time that each inner step adds; the fastest of several turns of all methods."""
    few, many = 2, 6
    computed = [[MetaGradientOf(loop, method, steps) for steps in (few, many)] for method in methods]
    fastest = [[math.inf, math.inf] for _ in methods]
    for _ in range(13):
        for best, both in zip(fastest, computed, strict=True):
            for place, compute in enumerate(both):
                began = time.process_time()
                compute(tasks)
                best[place] = min(best[place], time.process_time() - began)
    return [(long - short) / (many - few) for short, long in fastest]


def main() -> None:
    torch.set_num_threads(1)
    print(f"| model | outer gradient | time | shared | task | step | M({TASKS}, {STEPS}) | held | apart |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in MODELS:
        torch.manual_seed(0)
        loop, tasks = InnerLoop(kind.make(), kind.loss, SGD(0.01), ["*"], STEPS), tasks_of_kind(kind, TASKS)
        times = seconds_per_step(loop, METHODS, select(tasks, slice(0, 4)))
        for method, second in zip(METHODS, times, strict=True):
            found = memory_of(loop, method, tasks)
            compute = MetaGradientOf(loop, method, STEPS, tasks_per_chunk=TASKS)
            held = peak_of(partial(compute, tasks), torch.device("cpu")) / 2**20
            said = found.megabytes(TASKS, STEPS)
            numbers = " | ".join(f"{n:.2f}" for n in (found.shared, found.task, found.step, said, held))
            shown = f"{second / times[0] - 1:.1f} | {numbers} | {said / held - 1:+.0%}"
            print(f"| {kind.name} | `{method!r}` | {shown} |", flush=True)


if __name__ == "__main__":
    main()
