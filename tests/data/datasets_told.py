"""Datasets whose items tell what they are."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset


class Told(Dataset[tuple[Tensor, int]]):
    """Items (class, number, noise) with the label 10 + class.

    Args:
        count: The number of classes.
        each: Items of a class.
        first: The first class.
        noise: The spread of numbers that are drawn anew each time, from Python's, numpy's and torch's generators.
        known: Whether the dataset has a list of all labels.
    """

    def __init__(self, count: int = 20, each: int = 8, first: int = 0, noise: float = 0.0, known: bool = True) -> None:
        self.count, self.each, self.first, self.noise, self.known = count, each, first, noise, known
        self.read = 0
        if known:
            self.targets = [10 + first + k // each for k in range(count * each)]

    def __len__(self) -> int:
        return self.count * self.each

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        if not 0 <= k < len(self):
            raise IndexError(k)
        self.read += 1
        drawn = random.random() + np.random.random() + float(torch.rand(()))  # noqa: NPY002
        kind = self.first + k // self.each
        return torch.tensor([float(kind), float(k % self.each), self.noise * drawn]), 10 + kind


class Column:
    """As a dataset of Hugging Face: items are dicts, columns are asked for by name."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows, self.read = rows, 0
        self.column_names = [*rows[0]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return [row[key] for row in self.rows]
        self.read += 1
        return self.rows[key]


class Pictures(Dataset[tuple[Image.Image, int]]):
    """As torchvision's: pictures with names of classes."""

    def __init__(self, size: int = 6, uneven: bool = False) -> None:
        self.size, self.uneven = size, uneven
        self.classes = [f"kind {k}" for k in range(9)]
        self.targets = [k // 4 for k in range(36)]

    def __len__(self) -> int:
        return 36

    def __getitem__(self, k: int) -> tuple[Image.Image, int]:
        size = self.size + (k % 4 if self.uneven else 0)
        return Image.new("RGB", (size, size), (20 * (k // 4), 50 * (k % 4), 255)), self.targets[k]


def made() -> Told:
    return Told()
