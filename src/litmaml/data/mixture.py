"""Tasks of several distributions, with results for each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import inf
from typing import Any

import torch
from torch import Tensor

from litmaml.data.episode import Episode
from litmaml.data.leakage import fingerprints
from litmaml.data.task_distribution import TaskDistribution
from litmaml.randomness import task_streams
from litmaml.shown import listed
from litmaml.tasks import (
    SPLITS,
    Batch,
    MetaBatch,
    Split,
    Tasks,
    Tree,
    form,
    map_batches,
    named_tensors,
    stacks_of,
    tensors_of,
)

_LOOKED_AT = 8
"""Tasks of each source and split whose examples are compared."""
_TOO_MANY = 0.05
"""Of these, the share that may stand in another source's other split by chance, such as equal words."""


class Mixture(TaskDistribution):
    """Tasks of several sources: in training one drawn by its weight for each task, in evaluation one after the other.

    The tasks of each source come in stacks of their own, so that sources may differ in sizes, but what they give has to
    be what the one model takes. Results stand by source too (``test_results.json``). Whether a training task's examples
    stand in another source's validation or test is looked at on a few tasks of each.

    Args:
        sources: The distributions by name.
        weights: What share of the training tasks is of each; by default all alike. One that is left out, or of weight
            0, is not trained on.
        val_sources: The names of those to validate with; by default all.
        test_sources: The names of those to test with; by default all.

    Raises:
        ValueError: A name is unknown, weights are negative or all 0, examples stand in two splits, or sources give
            inputs of several kinds.
    """

    def __init__(
        self,
        sources: Mapping[str, TaskDistribution],
        weights: Mapping[str, float] | None = None,
        val_sources: Sequence[str] | None = None,
        test_sources: Sequence[str] | None = None,
    ) -> None:
        if not sources:
            raise ValueError("sources: is empty; give at least one distribution by name")
        super().__init__(Episode(shots=1, queries=1))
        self.sources = dict(sources)
        self.weights = None if weights is None else dict(weights)
        self.val_sources, self.test_sources = val_sources, test_sources
        shares = dict.fromkeys(sources, 1.0) if weights is None else dict(weights)
        for argument, names in (("weights", [*shares]), ("val_sources", val_sources), ("test_sources", test_sources)):
            if unknown := sorted({*(names or ())} - {*sources}):
                raise ValueError(
                    f"{argument}: no source is called {listed(unknown)}; the sources are {listed([*sources])}"
                )
            if names is not None and not names:
                raise ValueError(f"{argument}: is empty; name a source, or leave it out")
        if not all(0 <= share < inf for share in shares.values()) or not any(shares.values()):
            raise ValueError(f"weights: have to be at least 0, and one of them positive, got {shares}")
        self._shares = {name: share for name, share in shares.items() if share}
        self._of: dict[Split, list[str]] = {
            "train": [*self._shares],
            "val": [*(val_sources or sources)],
            "test": [*(test_sources or sources)],
        }
        self._compared = False

    @property
    def shares_examples(self) -> bool:  # type: ignore[override]  # of the sources
        return any(source.shares_examples for source in self.sources.values())

    @property
    def most_ways(self) -> int:  # type: ignore[override]  # as above
        return max(source.most_ways for source in self.sources.values())

    def prepare(self) -> None:
        for source in self.sources.values():
            source.prepare()

    def load(self, split: Split) -> None:
        for name in self._of[split]:
            self.sources[name].load(split)
        if split == "train" and not self._compared:
            self._compare()
            self._compared = True

    def keep_on(self, split: Split, device: torch.device) -> None:
        for name in self._of[split]:
            self.sources[name].keep_on(split, device)

    def in_own_units(self, values: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
        placed = self._placed("test", numbers, seed)
        rows = [
            self.sources[name].in_own_units(part, [number], seed)
            for part, (name, number) in zip(torch.split(values, 1), placed, strict=True)
        ]
        return torch.cat(rows)

    def source_of(self, split: Split, number: int, seed: int) -> str:
        return self._placed(split, [number], seed)[0][0]

    def group_of(self, split: Split, number: int, seed: int) -> str | None:
        ((source, place),) = self._placed(split, [number], seed)
        return self.sources[source].group_of(split, place, seed)

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> MetaBatch:
        mine: dict[str, list[int]] = {}
        for name, own in self._placed(split, numbers, seed):
            mine.setdefault(name, []).append(own)
        stacks, names = [], self._of[split]
        for name, own_numbers in mine.items():
            for stack in stacks_of(self.sources[name].sample(split, own_numbers, seed)):
                outer = stack.numbers if split == "train" else stack.numbers * len(names) + names.index(name)
                stacks.append(_named(name, stack)._replace(numbers=outer))
        return tuple(stacks)

    def render(self, tasks: Tasks) -> Tasks:
        (name,) = tasks.query.inputs
        return self.sources[name].render(map_batches(lambda b: Batch(b.inputs[name], b.targets), tasks))

    def record(self) -> dict[str, Any] | None:
        found = {name: self.sources[name].record() for name in self._of["train"]}
        kept = {name: dict(record) for name, record in found.items() if record is not None}
        return {"sources": kept} if kept else None

    def adopt(self, record: object) -> None:
        kept = record.get("sources") if isinstance(record, Mapping) else None
        for name, source in self.sources.items():
            if not isinstance(kept, Mapping):
                source.adopt(record)  # of training tasks that were no mixture
            elif name in kept:
                source.adopt(kept[name])

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        found: dict[str, int | float | str | bool] = {"tasks": "Mixture", "split": split}
        for name in self._of[split]:
            found |= {
                f"{name}.{key}": value for key, value in self.sources[name].describe(split).items() if key != "split"
            }
        return found

    def _placed(self, split: Split, numbers: Sequence[int], seed: int) -> list[tuple[str, int]]:
        """The source of each task and its number there."""
        names = self._of[split]
        if split != "train":
            return [(names[number % len(names)], number // len(names)) for number in numbers]
        total, found = sum(self._shares.values()), []
        for number, stream in zip(numbers, task_streams(seed, split, numbers, "protocol"), strict=True):
            left = float(stream.random()) * total
            for name in names:  # the last one where rounding leaves something
                left -= self._shares[name]
                if left < 0:
                    break
            found.append((name, number))
        return found

    def _compare(self) -> None:
        """Looks for examples of one source's training in another one's validation or test, and whether one model can
        take all."""
        seen: dict[tuple[str, str], set[bytes]] = {}
        shapes: dict[str, Any] = {}
        for split in SPLITS:
            for name in self._of[split]:
                self.sources[name].load(split)
                stacks = stacks_of(self.sources[name].sample(split, range(_few(self.sources[name], split)), 0))
                inputs = self.sources[name].render(stacks[0]).query.inputs
                shapes[name] = form(inputs, lambda part: (part.dim(), part.is_floating_point()))
                if shapes[name] != next(iter(shapes.values())):
                    raise ValueError(
                        f"sources: {name} gives inputs of another kind than {next(iter(shapes))} ({_shown(inputs)}); "
                        "mix what one model takes"
                    )
                seen[name, split] = {
                    mark
                    for stack in stacks
                    for batch in (*stack.adapting, stack.query)
                    for mark in _marks(batch)
                }  # fmt: skip
        for (one, first), (other, second) in combinations(seen, 2):
            both = seen[one, first] & seen[other, second]
            if one == other or first == second or not both:
                continue
            text = (
                f"sources: {len(both)} of {len(seen[one, first])} examples looked at of {one} ({first}) stand in "
                f"{other} ({second})"
            )
            if len(both) > _TOO_MANY * len(seen[one, first]):
                raise ValueError(f"{text}; results are then too good: share the classes of both out alike")
            warnings.warn(f"{text}: if they are of one class, results are too good", stacklevel=2)


def _named(name: str, tasks: Tasks) -> Tasks:
    """The tasks with their source's name, by which they are rendered."""
    return map_batches(lambda batch: Batch({name: batch.inputs}, batch.targets), tasks)


def _few(source: TaskDistribution, split: Split) -> int:
    """As many of the first tasks as there are, up to the number that is looked at."""
    for count in (_LOOKED_AT, 1):
        try:
            source.sample(split, [count - 1], 0)
        except ValueError:  # of a table whose tasks come once
            continue
        return count
    return 1


def _shown(inputs: Tree) -> str:
    """The shape of each part of an example."""
    return ", ".join(f"{name} {tuple(part.shape[2:])}" for name, part in named_tensors(inputs, "inputs"))


def _marks(batch: Batch) -> list[bytes]:
    """What each example's inputs are recognised by."""
    flat = [part.flatten(0, 1) for part in tensors_of(batch.inputs)]
    return [b"".join(parts) for parts in zip(*map(fingerprints, flat), strict=True)]
