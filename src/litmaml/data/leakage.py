"""The same example twice: in two splits, or in two classes, where it makes results too good or contradicts itself."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmaml.tasks import Split

T = TypeVar("T")

Copies = Literal["refuse", "warn"]
"""What is done about an image that stands in two splits or classes."""

_OFTEN = 1000
"""Copies within a class are told of from one in so many images on."""


class Place(NamedTuple):
    """Where an example stands: its split, its class, and its file or what else names it."""

    split: str
    label: str
    name: str


class Pair(NamedTuple):
    """An example and an earlier one that it equals."""

    first: Place
    again: Place

    def __str__(self) -> str:
        where = [f"{place.name} ({place.label}, {place.split})" for place in self]
        return " and ".join(where)


def fingerprints(examples: Tensor) -> list[bytes]:
    """A number of 20 bytes for each example (n, ...): two are equal if all their bytes are."""
    return [row.tobytes() for row in prints_of(examples)]


def prints_of(examples: Tensor) -> NDArray[np.uint8]:
    """The same as an array (n, 20)."""
    examples = examples.detach().cpu()
    rows = (examples.flatten(1) if examples.dim() > 1 else examples.unsqueeze(1)).contiguous().view(torch.uint8).numpy()
    joined = b"".join(hashlib.sha1(row, usedforsecurity=False).digest() for row in rows)
    return np.frombuffer(joined, np.uint8).reshape(len(rows), 20)


def twins(prints: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """The first example of the same content, and the example, for each of (n, 20) fingerprints that is not the first.

    As ``copies``, for very many: what has no twin, which are all but a few, is never looked at in Python.
    """
    keys = np.ascontiguousarray(prints[:, :8]).view(np.uint64)[:, 0]
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    some = np.sort(order[np.r_[same, False] | np.r_[False, same]]).tolist() if len(prints) else []
    return copies({}, (prints[k].tobytes() for k in some), some)


def copies(seen: dict[bytes, T], prints: Iterable[bytes], examples: Iterable[T]) -> list[tuple[T, T]]:
    """The first example of the same content, and the example, for each that is not the first.

    Args:
        seen: The first example of each content so far; what is new is added.
        prints: The examples' fingerprints.
        examples: What stands for them.
    """
    pairs = []
    for fingerprint, example in zip(prints, examples, strict=True):
        first = seen.setdefault(fingerprint, example)
        if first is not example:
            pairs.append((first, example))
    return pairs


def pairs_of_twins(
    prints: Mapping[Split, NDArray[np.uint8]], called: Callable[[Split, int], tuple[str, str]]
) -> list[Pair]:
    """The examples of the last split that stand in it twice, or in another one.

    Args:
        prints: Of each split, (n, 20).
        called: The class and the name of an example of a split.
    """
    names, begins = [*prints], np.cumsum([0, *map(len, prints.values())])

    def place(example: int) -> Place:
        which = int(np.searchsorted(begins, example, "right")) - 1
        return Place(names[which], *called(names[which], example - int(begins[which])))

    found = [pair for pair in twins(np.concatenate([*prints.values()])) if pair[1] >= begins[-2]]
    return [Pair(place(first), place(again)) for first, again in found]


def judge_copies(pairs: Sequence[Pair], images: int, across: Copies) -> None:
    """Refuse images that stand in two splits or classes, and tell of many copies within a class.

    Args:
        pairs: The copies.
        images: Among how many images they were found.
        across: "warn" goes on with images in two splits or classes, as published benchmarks have them.

    Raises:
        ValueError: Naming at most three pairs, and their number.
    """
    apart = [pair for pair in pairs if pair.first[:2] != pair.again[:2]]
    within = [pair for pair in pairs if pair.first[:2] == pair.again[:2]]
    if apart:
        splits = sum(pair.first.split != pair.again.split for pair in apart)
        text = (
            f"images: {len(apart)} stand in two classes, {splits} of them in two splits: {listed_pairs(apart)}. "
            "Results are then too good, or one image has two answers"
        )
        if across == "refuse":
            raise ValueError(
                f"{text}: remove one of each, or set copies to warn if a published set is to be used as it is"
            )
        warnings.warn(text, stacklevel=2)
    if within and len(within) * _OFTEN >= images:
        warnings.warn(
            f"images: {len(within)} of {images} are copies of another one of their class: {listed_pairs(within)}. "
            "Where support and query share them, results are too good: remove them",
            stacklevel=2,
        )


def listed_pairs(pairs: Sequence[Pair], most: int = 3) -> str:
    """Pairs for an error, the first few of many."""
    rest = len(pairs) - most
    return "; ".join(map(str, pairs[:most])) + (f"; and {rest} more" if rest > 0 else "")
