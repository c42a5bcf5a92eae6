"""Draws metrics of a run against its outer steps, or against another column of its logs.

    python scripts/learning_curve.py runs/half_cheetah_direction --metrics val/return_step_0 val/return_step_1 \
        --against train/environment_steps --out curve.png
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure


def points(rows: Sequence[dict[str, str]], metric: str, against: str) -> tuple[list[float], list[float]]:
    """Where a metric was measured, and what it was: of another column its last number before counts."""
    found: tuple[list[float], list[float]] = ([], [])
    place = ""
    for row in rows:
        place = row[against] or place
        if row[metric] and place:
            found[0].append(float(place))
            found[1].append(float(row[metric]))
    return found


def draw(rows: Sequence[dict[str, str]], metrics: Sequence[str], against: str) -> Figure:
    """A line for each metric."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for metric in metrics:
        axes.plot(*points(rows, metric, against), marker=".", label=metric)
    axes.set(xlabel=against)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--metrics", nargs="+", required=True, help="columns of its logs/version_N/metrics.csv")
    parser.add_argument("--against", default="step", help="the column on the horizontal axis")
    parser.add_argument("--out", type=Path, default=Path("curve.png"), help="the picture")
    given = parser.parse_args(arguments)
    rows: list[dict[str, str]] = []
    for file in sorted(given.run.glob("logs/version_*/metrics.csv"), key=lambda file: file.stat().st_mtime):
        with file.open(newline="", encoding="utf-8") as lines:
            rows += csv.DictReader(lines)
    if not rows:
        parser.error(f"run: has no logs/version_*/metrics.csv, got {given.run}; give the folder of a run")
    if unknown := [name for name in (*given.metrics, given.against) if name not in rows[0]]:
        parser.error(f"metrics: there is no column {unknown[0]!r}; one of {', '.join(rows[0])}")
    draw(rows, given.metrics, given.against).savefig(given.out, dpi=150)


if __name__ == "__main__":
    main()
