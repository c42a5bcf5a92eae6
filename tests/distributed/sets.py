"""A data module of tasks of 3 to 40 rows, whose inputs are a dict, a model of two inputs, and losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.data import Episode, TaskDistribution
from litmaml.outer import OuterLoss
from litmaml.randomness import task_streams
from litmaml.tasks import Batch, MetaBatch, Split, Tasks, in_stacks, map_batches, tree_map


class Sets(TaskDistribution):
    """Regression on tasks of their own sizes: a support of one of four, a query of one of two."""

    def __init__(self, queries: int = 5) -> None:
        super().__init__(Episode(shots=3, queries=queries))
        self.queries = queries

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> MetaBatch:
        return in_stacks(
            self._task(number, stream)
            for number, stream in zip(numbers, task_streams(seed, split, numbers), strict=True)
        )

    def _task(self, number: int, stream: Any) -> Tasks:
        def batch(n: int) -> Batch:
            x, context = (torch.from_numpy(stream.standard_normal((1, n, width))) for width in (2, 3))
            value = (x * slope).sum(2, keepdim=True).sin()
            return Batch({"x": x, "context": context}, {"value": value, "weight": torch.ones(1, n, 1)})

        slope = torch.from_numpy(stream.standard_normal((1, 1, 2)))
        support = batch(int(stream.choice([3, 7, 12, 40])))
        return Tasks((support,), batch(int(stream.choice([self.queries, 2 * self.queries]))), torch.tensor([number]))

    def render(self, tasks: Tasks) -> Tasks:
        dtype = torch.get_default_dtype()
        return map_batches(lambda batch: tree_map(lambda part: part.to(dtype), batch), tasks)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return {"tasks": "Sets", "split": split}


class Normalised(nn.Module):
    """A function of two inputs, with batch norm by the rows, that returns more than its predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.context = nn.Linear(2, 8), nn.Linear(3, 8)
        self.norm, self.head = nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 1)

    def forward(self, x: Tensor, context: Tensor) -> dict[str, Tensor]:
        hidden = self.norm(torch.tanh(self.body(x) + self.context(context)))
        return {"hidden": hidden, "value": self.head(hidden)}


class WeighedError(nn.Module):
    """Squared error with a weight for each example."""

    def forward(self, predictions: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return (targets["weight"] * (predictions - targets["value"]).square()).mean()


class Ascending(OuterLoss):
    """Weighs the tasks of even and of odd number by the losses that each kind had so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.ones(2, dtype=torch.float64))

    def task_weights(self, numbers: Tensor) -> Tensor:
        total = self.get_buffer("total")
        return (total / total.mean())[numbers % 2]

    def update(self, numbers: Tensor, losses: Tensor) -> None:
        self.get_buffer("total").index_add_(0, numbers % 2, losses)
