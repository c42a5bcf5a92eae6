"""Columns of a table in a file: CSV with any delimiter, or Parquet."""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from litmaml.data.shared_out import composed
from litmaml.runs.paths import expanded
from litmaml.shown import listed, one_line

PARQUET = (".parquet", ".pq")
SUFFIXES = (".csv", ".tsv", ".txt", *PARQUET)
"""Of files that are taken for tables where folders could stand, in lower or upper case."""
_DELIMITERS = ",\t;|"
_BLOCK = 1 << 15
"""Rows that are held as text at a time."""
_LONGEST = 1 << 20
"""Characters of a cell."""

Numbers = NDArray[np.float64]
Texts = NDArray[np.object_]


class Columns(NamedTuple):
    """Chosen columns of all rows.

    numbers: (n, columns), NaN where a cell is empty. texts: By name, (n,) each. lines: (n,) where each row stands, as
    an editor counts them; of Parquet the first row is 1. Of several files it is a text that names the file too.
    """

    numbers: Numbers
    texts: dict[str, Texts]
    lines: NDArray[Any]


def is_table(path: str) -> bool:
    """Whether a path is that of a table, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def column_names(path: str, argument: str = "path") -> list[str]:
    """The names of all columns, each accented letter as one sign.

    Args:
        path: Of the table.
        argument: What it was given for, for the errors.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no table.
    """
    file = _existing(path, argument)
    if file.suffix.lower() in PARQUET:
        names = [cell_name(name) for name in _parquet(file, argument).schema_arrow.names]
    else:
        with _opened(file, argument) as rows:
            names = [cell_name(name) for name in next(rows, [])]
    if not any(names):
        raise ValueError(f"{argument}: {path!r} has no first line with the columns' names; write them there")
    return names


def chosen(patterns: Sequence[str], names: Sequence[str], argument: str) -> list[str]:
    """The columns of a table that patterns such as ``Shimmer*`` name, in the table's order.

    A pattern that is the name of a column stands for it alone, whatever signs it has.

    Raises:
        ValueError: A pattern names no column.
    """
    found: set[str] = set()
    for pattern in map(composed, patterns):
        own = {pattern} if pattern in names else {name for name in names if fnmatchcase(name, pattern)}
        if not own:
            raise ValueError(
                f"{argument}: no column is called so, got {pattern!r}; name those of this table: {listed(list(names))}"
            )
        found |= own
    return [name for name in dict.fromkeys(names) if name in found]


def read_columns(path: str, numbers: Sequence[str], texts: Sequence[str], argument: str = "path") -> Columns:
    """Some columns of a table.

    Args:
        path: Of the table: CSV whose first line names the columns, with commas, tabs, semicolons or bars between them,
            or Parquet (``.parquet``; extra ``parquet``).
        numbers: The columns of numbers.
        texts: Those of names.
        argument: What the path was given for, for the errors.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing or there twice, or a cell is no number: with line, column and value.
    """
    names = column_names(path, argument)
    used = dict.fromkeys((*numbers, *texts))
    if missing := [name for name in used if name not in names]:
        raise ValueError(f"{argument}: {path!r} has no column {listed(missing)}; the columns are {listed(names)}")
    if twice := [name for name in used if names.count(name) > 1]:
        raise ValueError(f"{argument}: {path!r} has several columns named {listed(twice)}; give each its own name")
    file = _existing(path, argument)
    return (_read_parquet if file.suffix.lower() in PARQUET else _read_csv)(file, names, numbers, texts, argument)


def cell_name(cell: object) -> str:
    """A name in a cell, without space around it, each accented letter as one sign."""
    return composed(str(cell).strip())


def _read_csv(file: Path, names: list[str], numbers: Sequence[str], texts: Sequence[str], argument: str) -> Columns:
    places = [names.index(name) for name in (*numbers, *texts)]
    parts: list[Columns] = []
    with _opened(file, argument) as rows:
        next(rows)
        block: list[list[str]] = []
        lines: list[int] = []

        def close() -> None:
            cells = [list(column) for column in zip(*block, strict=True)]
            found = [_numbers(cells[k], lines, name, argument) for k, name in enumerate(numbers)]
            own = {name: np.array([*map(cell_name, cells[len(numbers) + k])], object) for k, name in enumerate(texts)}
            stacked = np.stack(found, 1) if found else np.empty((len(lines), 0))
            parts.append(Columns(stacked, own, np.array(lines)))
            block.clear()
            lines.clear()

        for row in rows:
            if not row or not any(row):
                continue
            if len(row) != len(names):
                raise ValueError(
                    f"{argument}: line {rows.line_num} has {len(row)} cells, and the first line names {len(names)} "
                    f"columns, got {one_line(row)[:80]}; put cells with a delimiter in them in quotation marks"
                )
            block.append([row[place] for place in places])
            lines.append(rows.line_num)
            if len(block) == _BLOCK:
                close()
        if block:
            close()
    if not parts:
        raise ValueError(f"{argument}: {str(file)!r} has no row below the columns' names; give some")
    return Columns(
        np.concatenate([part.numbers for part in parts]),
        {name: np.concatenate([part.texts[name] for part in parts]) for name in texts},
        np.concatenate([part.lines for part in parts]),
    )


def _numbers(cells: list[str], lines: list[int], name: str, argument: str) -> Numbers:
    try:
        return np.array([cell if cell.strip() else "nan" for cell in cells], dtype=np.float64)
    except ValueError:
        for cell, line in zip(cells, lines, strict=True):
            try:
                float(cell.strip() or "nan")
            except ValueError:
                raise ValueError(
                    f"{argument}: line {line}, column {name!r}: is no number, got {one_line(cell)[:40]!r}; write "
                    "numbers (1.5, not 1,5), leave the cell empty, or leave the column out"
                ) from None
        raise


@contextmanager
def _opened(file: Path, argument: str) -> Iterator[Any]:
    """The rows of a CSV file by its reader, which counts lines."""
    csv.field_size_limit(_LONGEST)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            first = opened.readline(_LONGEST)
            opened.seek(0)
            bare = re.sub('"[^"]*("|$)', "", first)  # names in quotation marks may have any sign in them
            yield csv.reader(opened, delimiter=max(_DELIMITERS, key=bare.count))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{argument}: {str(file)!r} cannot be read as text in UTF-8 with a delimiter between cells ({error}); save "
            "it anew as CSV"
        ) from error


def _read_parquet(file: Path, names: list[str], numbers: Sequence[str], texts: Sequence[str], argument: str) -> Columns:
    parquet = _parquet(file, argument)
    own_names = dict(zip(names, parquet.schema_arrow.names, strict=True))
    table = parquet.read(columns=[own_names[name] for name in dict.fromkeys((*numbers, *texts))])
    lines = np.arange(1, table.num_rows + 1)
    if not len(lines):
        raise ValueError(f"{argument}: {str(file)!r} has no row; give some")

    def values(name: str) -> list[Any]:
        found: list[Any] = table.column(own_names[name]).to_pylist()
        return found

    found = []
    for name in numbers:
        cells = values(name)
        for line, cell in enumerate(cells, 1):
            if cell is not None and not isinstance(cell, int | float):
                raise ValueError(
                    f"{argument}: row {line}, column {name!r}: is no number, got {one_line(cell)[:40]!r}; convert the "
                    "column, or leave it out"
                )
        found.append(np.array([np.nan if cell is None else cell for cell in cells], dtype=np.float64))
    # What is not equal to itself is no number, and no name.
    own = {
        name: np.array(["" if c is None or c != c else cell_name(c) for c in values(name)], object) for name in texts
    }
    return Columns(np.stack(found, 1) if found else np.empty((len(lines), 0)), own, lines)


def _parquet(file: Path, argument: str) -> Any:
    # By its name: the package is one of an extra.
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ValueError(
            f"{argument}: Parquet files are read by pyarrow ({error}), got {str(file)!r}; pip install "
            "'litmaml[parquet]', or save the table as CSV"
        ) from error
    try:
        return parquet.ParquetFile(file)
    except Exception as error:  # pyarrow has a dozen kinds
        raise ValueError(f"{argument}: {str(file)!r} is no Parquet file ({error}); save it anew") from error


def _existing(path: str, argument: str) -> Path:
    file = expanded(path)
    if not file.is_file():
        raise FileNotFoundError(f"{argument}: there is no file {path!r}; give a CSV or Parquet file")
    return file
