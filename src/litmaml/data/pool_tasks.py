"""Tasks whose examples are rows of a pool: which ones is drawn from a task's stream, what they are the pool knows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from litmaml.data.drawing import ClassDraw, Draw, Drawn, Rows
from litmaml.data.task_distribution import TaskDistribution, in_run_precision
from litmaml.randomness import task_stream, task_streams
from litmaml.tasks import Batch, MetaBatch, Split, Tasks, Tree, tree_map


class Keys(NamedTuple):
    """What random changes of examples may depend on."""

    seed: int
    split: Split
    numbers: Sequence[int]


Fetch = Callable[[Rows, Keys], tuple[Tree, Tree]]
"""Inputs and targets of the rows (T, n) of T tasks: trees of tensors (T, n, ...)."""


class Held:
    """Rows that are in memory.

    Args:
        rows: The numbers (m,) of those that are.
        inputs: Of these, a tree of tensors (m, ...).
        targets: Likewise; None where a task numbers its classes anew.
    """

    def __init__(self, rows: Rows, inputs: Tree, targets: Tree = None) -> None:
        self.place = np.empty(int(rows.max()) + 1, dtype=np.int64)
        self.place[rows] = np.arange(len(rows))
        self.both = inputs, targets

    def __call__(self, rows: Rows, keys: Keys) -> tuple[Tree, Tree]:
        place = torch.from_numpy(self.place[rows])
        return tree_map(lambda part: part[place], self.both)


class Pool(NamedTuple):
    """What the tasks of a split are made of.

    names: Of its groups or classes.
    draw: Which rows a task has.
    fetch: The inputs and targets of rows; targets are left aside where a task numbers its classes anew.
    """

    names: Sequence[str]
    draw: Draw
    fetch: Fetch


class PoolTasks(TaskDistribution):
    """Tasks that are drawn from pools, one for each split; those of unequal size come in stacks."""

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]
        self._pools: dict[Split, Pool] = {}

    @abstractmethod
    def read_pool(self, split: Split) -> Pool:
        """The pool of a split, once it is checked. Called once."""

    def load(self, split: Split) -> None:
        if split not in self._pools:
            self._pools[split] = self.read_pool(split)

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> MetaBatch:
        self.load(split)
        draw, sizes = self._pools[split].draw, self.sizes(split)
        alike: dict[tuple[int, ...], tuple[list[int], list[Drawn]]] = {}
        for number, stream in zip(numbers, task_streams(seed, split, numbers), strict=True):
            drawn = draw(stream, number, sizes)
            some = alike.setdefault(tuple(map(len, drawn.batches)), ([], []))
            some[0].append(number)
            some[1].append(drawn)
        stacks = [self._stack(Keys(seed, split, some), drawn) for some, drawn in alike.values()]
        return stacks[0] if len(stacks) == 1 else tuple(stacks)

    def names_of(self, split: Split, number: int, seed: int) -> list[str]:
        """The name of a task's group, or those of its classes in the order of its labels."""
        self.load(split)
        pool = self._pools[split]
        drawn = pool.draw(task_stream(seed, split, number), number, self.sizes(split))
        if drawn.classes is not None:
            return [pool.names[k] for k in drawn.classes]
        row = drawn.batches[0][0]
        return [name for name, rows in zip(pool.names, pool.draw.members, strict=True) if row in rows]

    def group_of(self, split: Split, number: int, seed: int) -> str | None:
        self.load(split)
        if isinstance(self._pools[split].draw, ClassDraw):
            return None
        return self.names_of(split, number, seed)[0]

    def render(self, tasks: Tasks) -> Tasks:
        return in_run_precision(tasks)

    def _stack(self, keys: Keys, drawn: list[Drawn]) -> Tasks:
        """The tasks, whose batches have the same sizes."""
        whole = self._pools[keys.split].fetch(np.stack([np.concatenate(task.batches) for task in drawn]), keys)
        batches, first = [], 0
        for k, rows in enumerate(drawn[0].batches):
            part = slice(first, first := first + len(rows))
            batch = Batch(*tree_map(lambda tensor, part=part: tensor[:, part], whole))
            if (labels := drawn[0].labels) is not None:
                batch = batch._replace(targets=torch.from_numpy(labels[k]).expand(len(drawn), -1).contiguous())
            batches.append(batch)
        return self._arrange(keys.split, batches, keys.numbers)
