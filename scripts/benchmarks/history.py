"""What was measured when: a CSV to which every recorded run adds a line per case."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

COLUMNS = (
    *("day", "device", "torch", "part", "case", "ms", "tasks_per_s", "launches", "busy_ms", "peak_MB"),
    *("first_seconds", "error", "ratio", "beside", "spread", "commit"),
)
"""ratio: How many times as fast as the one it stands ``beside``. spread: How far apart the quartiles of the plain loop
lay in that run, as a fraction of its median. error: Of the gradient, against float64."""


def add(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows, whose day and commit are today's where they do not say.

    Raises:
        ValueError: The file has other columns.
    """
    new = not file.is_file()
    if not new:
        with file.open(encoding="utf-8", newline="") as opened:
            if (there := tuple(next(csv.reader(opened), ()))) != COLUMNS:
                raise ValueError(f"history: {file} has other columns, got {', '.join(there)}; name a new file")
    about = {"day": str(date.today()), "commit": _commit()}
    with file.open("a", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({name: _rounded(value) for name, value in (about | dict(row)).items() if name in COLUMNS})


def _rounded(figure: Any) -> Any:
    return f"{figure:.4g}" if isinstance(figure, float) else figure


def _commit() -> str:
    """The commit that is measured, with a + where files differ from it; empty outside of a repository."""
    here = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--dirty=+"], cwd=here, capture_output=True, text=True
        )
    except FileNotFoundError:
        return ""
    return told.stdout.strip()
