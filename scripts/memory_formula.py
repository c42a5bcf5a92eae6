#!/usr/bin/env python
"""Compares the formula of memory that `litmaml diagnose` prints with what is held, for models of five kinds.

    python scripts/memory_formula.py

By (5-way, 1-shot, 5 queries per class, or ten points of a sinusoid) outer gradients of at most 4 tasks by 2 and 4
steps it predicts those of 8 tasks by 10 steps. A table in Markdown; about a minute.
"""

from __future__ import annotations

from collections.abc import Callable
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
from litmaml.tasks import Batch, Tasks

TASKS, STEPS = 8, 10
METHODS: list[OuterGradient] = [SecondOrder(), SecondOrder(recompute=True), FirstOrder(), FiniteDifference()]


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


def main() -> None:
    print(f"| model | outer gradient | shared | task | step | M({TASKS}, {STEPS}) | held | apart |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in MODELS:
        torch.manual_seed(0)
        loop, tasks = InnerLoop(kind.make(), kind.loss, SGD(0.01), ["*"], STEPS), tasks_of_kind(kind, TASKS)
        for method in METHODS:
            found = memory_of(loop, method, tasks)
            compute = MetaGradientOf(loop, method, STEPS, tasks_per_chunk=TASKS)
            held = peak_of(partial(compute, tasks), torch.device("cpu")) / 2**20
            said = found.megabytes(TASKS, STEPS)
            numbers = " | ".join(f"{n:.2f}" for n in (found.shared, found.task, found.step, said, held))
            print(f"| {kind.name} | `{method!r}` | {numbers} | {said / held - 1:+.0%} |", flush=True)


if __name__ == "__main__":
    main()
