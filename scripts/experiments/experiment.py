"""What an experiment is: cases that can run apart, and what is judged and drawn from the numbers of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.figure import Figure

Case = dict[str, Any]
"""The settings of one case, in plain types. They head every row that the case gives."""

Row = dict[str, Any]
"""One line of the CSV."""


class Check(NamedTuple):
    """A pass line: what is claimed, what was measured, and whether it holds."""

    claim: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Experiment:
    """An experiment.

    name: on the command line. source: what it reproduces.
    cases: (seeds, thin) -> the cases, thinned to seconds for the ordinary tests.
    run: case -> its rows. Runs in a process of its own: it depends on the case alone.
    judge, draw: rows of all cases -> verdict and figure.
    """

    name: str
    source: str
    cases: Callable[[int, bool], list[Case]]
    run: Callable[[Case], list[Row]]
    judge: Callable[[Sequence[Row]], list[Check]]
    draw: Callable[[Sequence[Row]], Figure]

    def rows_of(self, case: Case) -> list[Row]:
        """The rows of a case, headed by its settings."""
        return [{**case, **row} for row in self.run(case)]


def below(claim: str, value: float, bound: float) -> Check:
    """A check that value < bound."""
    return Check(claim, f"{value:.3g} < {bound:.3g}", bool(value < bound))


def above(claim: str, value: float, bound: float) -> Check:
    """A check that value > bound."""
    return Check(claim, f"{value:.3g} > {bound:.3g}", bool(value > bound))


def within(claim: str, value: float, low: float, high: float) -> Check:
    """A check that low <= value <= high."""
    return Check(claim, f"{value:.4g} in [{low:.4g}, {high:.4g}]", bool(low <= value <= high))


def select(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows that have all these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def column(rows: Sequence[Row], key: str) -> list[float]:
    """One column of the rows."""
    return [float(row[key]) for row in rows]


def mean_of(rows: Sequence[Row], key: str, **wanted: Any) -> float:
    """The mean of a column over the rows that have all these values.

    Raises:
        ValueError: No row has them.
    """
    values = column(select(rows, **wanted), key)
    if not values:
        raise ValueError(f"no row has {wanted}")
    return sum(values) / len(values)
