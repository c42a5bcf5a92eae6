"""A table in one file, or in many files of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from litmaml.data.shared_out import split_called
from litmaml.data.table_file import PARQUET, Columns, cell_name, column_names, read_columns
from litmaml.runs.paths import expanded
from litmaml.shown import listed

FILE, FOLDER = "the file's name", "the folder"
"""Columns that rows of a folder have besides: of which file each is, without its suffix; and where all files lie in
folders of splits, such as train/a.csv, in which."""
_SUFFIXES = (".csv", ".tsv", *PARQUET)


def names_in(path: str) -> list[str]:
    """The names of the columns of a file, or of a folder's first.

    Raises:
        FileNotFoundError: There is no such file or folder, or no table in it.
        ValueError: It is no table.
    """
    folder = expanded(path)
    return column_names(str(_files(folder)[0]) if folder.is_dir() else path)


def read_table(path: str, numbers: Sequence[str], texts: Sequence[str]) -> Columns:
    """Some columns of the rows of a file, or of all files of a folder and of those in it.

    Args:
        path: Of the file or folder.
        numbers: The columns of numbers.
        texts: Those of names; of a folder also ``FILE``.

    Raises:
        FileNotFoundError: There is no such file or folder, or no table in it.
        ValueError: As ``read_columns``, naming the file; or two files have one name, or only some lie in the folder of
            a split.
    """
    folder = expanded(path)
    if not folder.is_dir():
        return read_columns(path, numbers, texts)
    cells = [name for name in texts if name != FILE]
    files = _files(folder)
    parts = {file.relative_to(folder): read_columns(str(file), numbers, cells, f"path: {file.name}") for file in files}
    stems = [cell_name(file.stem) for file in files]
    if FILE in texts and (twice := sorted({stem for stem in stems if stems.count(stem) > 1})):
        raise ValueError(
            f"path: several tables in {path!r} are named {listed(twice, 3)}; each is a task: give each its own name"
        )
    places = {inner: inner.parts[0] for inner in parts if len(inner.parts) > 1 and split_called(inner.parts[0])}
    if places and len(places) < len(parts):
        left = [str(inner) for inner in parts if inner not in places]
        raise ValueError(
            f"path: {len(places)} of {len(parts)} tables lie in the folder of a split, and others not: "
            f"{listed(left, 3)}; put all of them in such as train, val and test, or none"
        )

    def of_each(names: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
        return np.array(names, object).repeat([len(part.lines) for part in parts.values()])

    found = {name: np.concatenate([part.texts[name] for part in parts.values()]) for name in cells}
    found[FILE] = of_each(stems)
    if places:
        found[FOLDER] = of_each([*places.values()])
    lines = [f"{line} of {inner}" for inner, part in parts.items() for line in part.lines.tolist()]
    return Columns(np.concatenate([part.numbers for part in parts.values()]), found, np.array(lines, object))


def _files(folder: Path) -> list[Path]:
    """The tables in a folder and in those within, in order."""
    found = sorted(file for file in folder.rglob("[!.]*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not found:
        raise FileNotFoundError(
            f"path: there is no table in the folder {str(folder)!r}; put files there that end in {', '.join(_SUFFIXES)}"
        )
    return found
