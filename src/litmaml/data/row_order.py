"""The order of a table's rows, by a column of numbers or dates."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from litmaml.data.table_file import Columns, Numbers
from litmaml.shown import one_line


def times(columns: Columns, name: str, argument: str) -> Numbers:
    """A column of texts as numbers (n,) to put rows in order by: the numbers that it holds, or of dates the seconds
    since 1970; NaN where a cell is empty.

    Raises:
        ValueError: A cell is neither, or some dates have a time zone and others not.
    """
    cells, lines = columns.texts[name].tolist(), columns.lines.tolist()
    try:
        return np.array([cell or "nan" for cell in cells], dtype=np.float64)
    except ValueError:
        pass
    found: list[float] = []
    zones: set[bool] = set()
    for cell, line in zip(cells, lines, strict=True):
        try:
            moment = datetime.fromisoformat(cell) if cell else None
        except ValueError:
            raise ValueError(
                f"{argument}: line {line}, column {name!r}: is neither a number nor a date, as others are, got "
                f"{one_line(cell)[:40]!r}; write all as numbers, or all as 2024-05-31 or 2024-05-31T16:30"
            ) from None
        if moment is not None:
            zones.add(moment.tzinfo is None)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        found.append(np.nan if moment is None else moment.timestamp())
    if len(zones) > 1:
        raise ValueError(
            f"{argument}: column {name!r}: some dates have a time zone and others none, got both; write all alike"
        )
    return np.array(found)
