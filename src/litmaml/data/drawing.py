"""Which examples a task consists of: rows of one group, or of several classes, drawn from the task's own stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from litmaml.data.episode import Sizes
from litmaml.tasks import Split

Rows = NDArray[np.int64]


class Drawn(NamedTuple):
    """A task as rows of a pool.

    batches: The rows (n,) of the support and Hessian batches, and of the query, which is the last.
    classes: The places of its classes, in the order of their labels 0, 1, ...; None where the rows have their own
        targets.
    labels: Of each batch (n,), or None.
    """

    batches: list[Rows]
    classes: Rows | None = None
    labels: list[Rows] | None = None


class GroupDraw:
    """Draws tasks that are groups of rows, such as the measurements of one patient each.

    In training each task is a group at random; in evaluation task i is group i, i + G, ... of G, so that G tasks are
    all of them once. The support and Hessian batches have ``shots`` rows each, the query ``queries``, or as many of
    these as are left, or all that are left where ``queries`` is 0. Of all that are left a training task takes the
    largest power of two, at random: of unequal groups there are few sizes then, each of which costs a pass.

    Without an order rows are drawn at random. With one the batches are the group's first rows, and the query comes
    later; in training they begin anywhere in the first half of the rows that they may begin at.

    Args:
        members: The rows of each group, in their order.
        ordered: Whether the order counts.
        split: That these are the tasks of.
    """

    def __init__(self, members: Sequence[Rows], ordered: bool, split: Split) -> None:
        self.members, self.ordered, self.split, self.training = members, ordered, split, split == "train"

    def __call__(self, stream: np.random.Generator, number: int, sizes: Sizes) -> Drawn:
        count = len(self.members)
        if self.ordered and not self.training and number >= count:
            raise ValueError(
                f"data.{self.split}_tasks: the split {self.split} has {count} tasks, each of which there is once in "
                f"its order, got number {number}; set it to {count}"
            )
        rows = self.members[int(stream.integers(count)) if self.training else number % count]
        *adapting, queries = sizes.batches
        needed = sum(adapting)
        if not self.ordered:
            rows = rows[stream.permutation(len(rows))]
        elif self.training:
            rows = rows[int(stream.integers(max(1, (len(rows) - needed) // 2))) :]
        left = rows[needed:]
        if queries:
            left = left[:queries]
        elif self.training:
            left = _power_of_two(left, stream)
        return Drawn([*np.split(rows[:needed], np.cumsum(adapting)[:-1]), left])


class BalancedDraw:
    """Draws tasks that are groups of rows of classes: of each class that a group has ``shots`` rows in each support and
    Hessian batch, and ``queries`` in the query, or as many of these as are left; otherwise as ``GroupDraw`` without an
    order.

    Args:
        members: The rows of each group.
        classes: The class of each row of the pool, as a number.
        split: That these are the tasks of.
    """

    def __init__(self, members: Sequence[Rows], classes: Rows, split: Split) -> None:
        self.members, self.training = members, split == "train"
        self._parts = [by_class(rows, classes) for rows in members]

    def __call__(self, stream: np.random.Generator, number: int, sizes: Sizes) -> Drawn:
        count = len(self.members)
        parts = self._parts[int(stream.integers(count)) if self.training else number % count]
        *adapting, queries = sizes.batches
        places = np.cumsum(adapting)
        mixed = [rows[stream.permutation(len(rows))] for rows in parts]
        *batches, left = (
            np.concatenate(same) for same in zip(*(np.split(rows, places) for rows in mixed), strict=True)
        )
        if queries:
            left = np.concatenate([rows[places[-1] :][:queries] for rows in mixed])
        elif self.training:
            left = _power_of_two(left, stream)
        return Drawn([*batches, left])


class ClassDraw:
    """Draws few-shot tasks: ``ways`` classes without replacement, labelled 0, 1, ... in the order drawn.

    Each batch has ``shots`` rows of each class and the query ``queries``, which share no row. Fresh batches share none
    as long as a class has rows left, and then begin again with its first.

    Args:
        members: The rows of each class.
    """

    def __init__(self, members: Sequence[Rows]) -> None:
        self.members = members

    def __call__(self, stream: np.random.Generator, number: int, sizes: Sizes) -> Drawn:
        *adapting, queries = sizes.batches
        classes = stream.choice(len(self.members), sizes.ways, replace=False)
        batches: list[list[Rows]] = [[] for _ in sizes.batches]
        for k in classes:
            rows = self.members[k][stream.permutation(len(self.members[k]))]
            ours = rows[: min(sum(adapting), len(rows) - queries)]
            fresh = np.split(ours[np.arange(sum(adapting)) % len(ours)], np.cumsum(adapting))[:-1]
            for batch, part in zip(batches, (*fresh, rows[len(ours) : len(ours) + queries]), strict=True):
                batch.append(part)
        labels = [np.arange(sizes.ways).repeat(each) for each in sizes.batches]
        return Drawn([np.concatenate(batch) for batch in batches], classes, labels)


Draw = GroupDraw | BalancedDraw | ClassDraw


def by_class(rows: Rows, classes: Rows) -> list[Rows]:
    """The rows of each class among some rows, by the class of each row of the pool."""
    own = classes[rows]
    return [rows[own == one] for one in np.unique(own)]


def few_rows(names: Sequence[str], members: Sequence[Rows], needed: int) -> list[str]:
    """Those groups or classes, with their numbers of rows, that have fewer than are needed."""
    return [f"{name} ({len(rows)})" for name, rows in zip(names, members, strict=True) if len(rows) < needed]


def rows_by_name(names: Sequence[str]) -> dict[str, Rows]:
    """The rows of each name, names in alphabetical order.

    Example:
        >>> {name: rows.tolist() for name, rows in rows_by_name(["b", "a", "b"]).items()}
        {'a': [1], 'b': [0, 2]}
    """
    found, places = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)
    order = np.argsort(places, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(places, minlength=len(found)))[:-1])
    return {str(name): part.astype(np.int64) for name, part in zip(found, parts, strict=True)}


def _power_of_two(rows: Rows, stream: np.random.Generator) -> Rows:
    """The largest power of two of the rows, at random, in their order."""
    return rows[np.sort(stream.permutation(len(rows))[: 1 << (len(rows).bit_length() - 1)])]
