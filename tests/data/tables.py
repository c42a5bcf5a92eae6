"""Tables that tell what they are."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def written(file: Path, tasks: int = 10, rows: int | Sequence[int] = 12, classes: bool = False) -> Path:
    """A CSV file of tasks of linear regression, or of classification by the sign of their values.

    Its columns: who (the task), when (the row's number in its task, in a mixed order), x1, x2, y and kind (the class).
    """
    numbers = np.random.default_rng(0)
    counts = [rows] * tasks if isinstance(rows, int) else rows
    lines = []
    for task, count in enumerate(counts):
        slopes = numbers.normal(size=2)
        for when in numbers.permutation(count).tolist():
            x = numbers.normal(size=2) * (3, 0.1) + (10, -5)
            y = 100 + 7 * float(slopes @ ((x - (10, -5)) / (3, 0.1)))
            lines.append([f"s{task:02}", when, *(f"{value:.9g}" for value in (*x, y)), "high" if y > 100 else "low"])
    return table(file, ["who", "when", "x1", "x2", "y", "kind"], lines)


def table(file: Path, names: Sequence[str], rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened, delimiter=delimiter).writerows([names, *rows])
    return file


def read(file: Path) -> list[Mapping[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))
