"""Lists of images in CSV files: which column is what, and where the files are that they name."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from litmaml.data.shared_out import composed
from litmaml.runs.plain_files import NotPlain, read_text
from litmaml.shown import listed, one_line

_FILES = ("filename", "file_name", "image_name", "image_path", "filepath", "path", "image", "file", "img")
_LABELS = ("label", "class_name", "classname", "class", "category", "target", "species")
"""Titles of columns in lower case, the likeliest first."""
_LARGEST = 1 << 28
"""Bytes of a list; that of all of ImageNet has some fifty million."""
_LONGEST = 1 << 17
"""Characters of a cell."""


class NoList(ValueError):
    """A file that is no list of images, where one was only guessed."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a list are called; where it is not said, by the names that they usually have.

    Args:
        file: Of the images' files.
        label: Of their classes.
        split: Of their splits; none unless it is said.
    """

    file: str | None = None
    label: str | None = None
    split: str | None = None


def read_list(path: Path, columns: Columns) -> list[tuple[str, ...]]:
    """The rows of a list: file, class, and split where that has a column.

    Columns are separated by commas, tabs or semicolons.

    Raises:
        NoList: It has no such columns.
        ValueError: A row has too few.
    """
    csv.field_size_limit(_LONGEST)
    text = _lines(path)
    head = text[0] if text else ""
    rows = csv.reader(text, delimiter=max(",\t;", key=head.count))
    titles = [title.strip() for title in next(_read(path, rows), [])]
    wanted = [
        _place(path, titles, "file_column", columns.file, _FILES),
        _place(path, titles, "label_column", columns.label, _LABELS),
        *([] if columns.split is None else [_place(path, titles, "split_column", columns.split, ())]),
    ]
    found = []
    for row in _read(path, rows):
        if not row:
            continue
        if len(row) <= max(wanted):
            raise ValueError(f"table={path}: line {rows.line_num} has {len(row)} columns, not {len(titles)}: mend it")
        found.append(tuple(row[place].strip() for place in wanted))
    return found


def _lines(path: Path) -> list[str]:
    try:
        return read_text(path, _LARGEST).splitlines()
    except NotPlain as error:
        raise ValueError(f"table={path} {error}; save it as CSV in UTF-8") from error


def _read(path: Path, rows: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise ValueError(f"table={path} is no CSV file ({error}); mend it") from error


def _place(path: Path, titles: Sequence[str], argument: str, named: str | None, usual: Iterable[str]) -> int:
    if named is not None:
        if named not in titles:
            raise NoList(f"{argument}: {path} has no column {named!r}; it has {listed([*map(one_line, titles)])}")
        return titles.index(named)
    lower = [title.lower() for title in titles]
    found = next((name for name in usual if name in lower), None)
    if found is None:
        raise NoList(
            f"{argument}: {path} has no column of a usual name ({', '.join(usual)}); it has "
            f"{listed([*map(one_line, titles)])}; set {argument} to the one that is meant"
        )
    return lower.index(found)


def located(root: Path, named: Sequence[tuple[str, str]], argument: str) -> list[Path]:
    """The files that a list names.

    They lie in ``root/images`` or ``root``, or there in a folder for each class.

    Args:
        root: The folder.
        named: The file and the class of each image.
        argument: What the list is called in errors.

    Raises:
        ValueError: Files are not there, or are named twice; at most three are told, with their number.
    """
    found, missing = [], []
    places = _places(root)
    for file, label in named:
        paths = (path for place in places if (path := place(file, label)) is not None)
        path = next(paths, None)
        found.append(path)
        missing += [file] if path is None else []
    if missing:
        raise ValueError(
            f"{argument}: {len(missing)} of {len(named)} images are not there: {listed([*map(one_line, missing)], 3)}; "
            f"they belong in {root / 'images'} or {root}, or there in a folder for each class"
        )
    there = [path for path in found if path is not None]
    if twice := [str(path.name) for path, count in Counter(there).items() if count > 1]:
        raise ValueError(
            f"{argument}: {len(twice)} images are named more than once: {listed([*map(one_line, twice)], 3)}; name "
            "each once, in one class"
        )
    return there


def _places(root: Path) -> list[Callable[[str, str], Path | None]]:
    """Where the file of an image of a class may be, each as what finds it by its name in any form of Unicode."""

    @cache
    def names(folder: Path) -> dict[str, str]:
        try:
            return {composed(entry.name): entry.name for entry in os.scandir(folder)}
        except OSError:
            return {}

    def find(folder: Path, file: str) -> Path | None:
        # By the names that folders list, which are neither .. nor the root: a list leads nowhere else.
        parts = PurePosixPath(file.replace("\\", "/")).parts
        for part in parts:
            if (name := names(folder).get(composed(part))) is None:
                return None
            folder = folder / name
        return folder if parts else None

    bases = [base for base in (root / "images", root) if base.is_dir()]
    whole: list[Callable[[str, str], Path | None]] = [
        lambda file, label, base=base: find(base, file)  # type: ignore[misc]
        for base in bases
    ]
    within: list[Callable[[str, str], Path | None]] = [
        lambda file, label, base=base: find(base, f"{label}/{file}")  # type: ignore[misc]
        for base in bases
    ]
    return whole + within


def by_class(files: Iterable[Path], labels: Iterable[str]) -> dict[str, list[Path]]:
    """The files of each class, classes by name."""
    classes: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    for file, label in zip(files, labels, strict=True):
        classes.setdefault(names.setdefault(composed(label), label), []).append(file)
    return dict(sorted(classes.items()))


def words(path: Path) -> Iterator[list[str]]:
    """The lines of a text file, as words."""
    for line in _lines(path):
        if parts := line.split():
            yield parts
