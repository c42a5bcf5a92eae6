"""Which classes were taken for which: accuracy with its interval, class by class, and what it can tell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from litmaml.runs.paths import unlinked
from litmaml.statistics.interval import NORMAL
from litmaml.statistics.plots import plain_style

_WIDE = 0.2


class Bounds(NamedTuple):
    """A 95% interval."""

    low: float
    high: float


def wilson(right: int, total: int) -> Bounds:
    """Wilson's 95% score interval of a proportion p = right / total, which holds for few examples too.

    (p + z^2/2n +- z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 + z^2/n), z = 1.96, n = total (Wilson, JASA 1927).
    """
    if total == 0:
        return Bounds(0.0, 1.0)
    z, p = NORMAL, right / total
    centre = p + z * z / (2 * total)
    spread = z * (p * (1 - p) / total + (z / (2 * total)) ** 2) ** 0.5
    scale = 1 + z * z / total
    return Bounds(max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


class Confusion:
    """How many examples of each class were predicted as which.

    Args:
        classes: The classes' names.
        targets: (n,) the true classes, as indices into ``classes``.
        predicted: (n,) the predicted ones.
    """

    def __init__(self, classes: Sequence[str], targets: Tensor, predicted: Tensor) -> None:
        self.classes = list(classes)
        size = len(self.classes)
        self.counts = torch.bincount(targets * size + predicted, minlength=size * size).view(size, size)

    @property
    def total(self) -> int:
        """The number of examples."""
        return int(self.counts.sum())

    @property
    def right(self) -> int:
        """The number of examples predicted rightly."""
        return int(self.counts.diagonal().sum())

    @property
    def accuracy(self) -> float:
        """The share of examples predicted rightly."""
        return self.right / self.total

    @property
    def bounds(self) -> Bounds:
        """The 95% interval of the accuracy on further examples of the same classes."""
        return wilson(self.right, self.total)

    def __str__(self) -> str:
        low, high = self.bounds
        return f"{self.accuracy:.1%} ({self.right} of {self.total}; 95% interval {low:.1%} to {high:.1%})"

    def rows(self) -> list[tuple[str, int, int, str]]:
        """Of each class: name, number of examples, of right ones, and what most others were taken for."""
        rows = []
        for k, name in enumerate(self.classes):
            wrong = self.counts[k].clone()
            wrong[k] = 0
            most = f"{self.classes[int(wrong.argmax())]} ({int(wrong.max())})" if wrong.any() else ""
            rows.append((name, int(self.counts[k].sum()), int(self.counts[k, k]), most))
        return rows

    def caution(self) -> str | None:
        """What the examples are too few to tell, if they are."""
        (low, high), chance = self.bounds, 1 / len(self.classes)
        if low <= chance <= high:
            return (
                f"Too few examples to tell: {self.total} cannot set the model apart from guessing, which is right in "
                f"{chance:.1%}. Label more images."
            )
        if high - low > _WIDE:
            return (
                f"Too few examples to tell closely: the accuracy may lie anywhere from {low:.0%} to {high:.0%}. "
                "Label more images."
            )
        return None

    @plain_style()
    def plot(self, path: Path, title: str) -> None:
        """Draw the counts, true classes by row."""
        size = len(self.classes)
        side = min(3.5 + 0.35 * size, 24)
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        picture = axes.imshow(self.counts.numpy(), cmap="Blues", vmin=0)
        figure.colorbar(picture, label="images", shrink=0.8, ticks=MaxNLocator(6, integer=True, min_n_ticks=1))
        if size <= 60:
            names = [_drawable(name) for name in self.classes]
            axes.set_xticks(range(size), names, rotation=60, ha="right", rotation_mode="anchor", parse_math=False)
            axes.set_yticks(range(size), names, parse_math=False)
        if size <= 25:
            half = float(self.counts.max()) / 2
            for row, column in self.counts.nonzero().tolist():
                count = int(self.counts[row, column])
                axes.text(column, row, str(count), ha="center", va="center", color="white" if count > half else "black")
        axes.set(xlabel="predicted", ylabel="true", title=title)
        figure.savefig(unlinked(path), dpi=120)


def _drawable(name: str) -> str:
    """The name with ? for characters that matplotlib's own font lacks, and cut if it is long."""
    characters = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    shown = "".join(x if ord(x) in characters else "?" for x in name)
    return shown if len(shown) <= 24 else shown[:23] + "…"
