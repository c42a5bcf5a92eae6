"""The same example twice: in two splits, or in two classes, where it makes results too good or contradicts itself."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

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
    examples = examples.detach().cpu()
    rows = (examples.flatten(1) if examples.dim() > 1 else examples.unsqueeze(1)).contiguous().view(torch.uint8).numpy()
    return [hashlib.sha1(row, usedforsecurity=False).digest() for row in rows]


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
