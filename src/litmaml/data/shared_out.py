"""Who is trained on and who is tested with: names of tasks or classes shared out among the splits."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import inf
from typing import TypeVar

from litmaml.runs.paths import expanded
from litmaml.runs.plain_files import NotPlain, read_text
from litmaml.shown import listed
from litmaml.tasks import SPLITS, Split

T = TypeVar("T")

Shares = tuple[float, float, float]
"""Of the classes or tasks, for training, validation and test."""

_SPELLINGS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "base"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "novel"), "test"),
}
_LEAST = {"class": 2}
"""Of fewer classes in a split no task could be made."""
_LARGEST = 1 << 26
"""Bytes of a file of splits."""
_PUBLISHED = files("litmaml.data") / "published"


def split_called(name: str) -> Split | None:
    """The split that a file, a folder or a cell of a table names, however it is spelled; None if it is none.

    >>> [split_called(name) for name in ("Train", "meta-valid", "validation_set", "TEST", "cats")]
    ['train', 'val', 'val', 'test', None]
    """
    plain = re.sub(r"^meta[-_ ]?|[-_ ]?(set|data|images|split)$", "", name.strip().lower())
    return _SPELLINGS.get(plain)


def composed(name: str) -> str:
    """The name with each accented letter as one sign, as other systems may write it: such names are one to whoever
    reads them, and a copy of a folder on another machine has them otherwise."""
    return unicodedata.normalize("NFC", name)


def check_shares(shares: Shares, argument: str = "split") -> None:
    """Refuse what are no three positive numbers."""
    if len(shares) != 3 or not all(0 < share < inf for share in shares):
        raise ValueError(
            f"{argument}: has to be three positive shares for train, val and test, got {shares}; give such as "
            "[0.6, 0.2, 0.2], or the numbers of tasks"
        )


def dealt(names: Iterable[str], shares: Shares, seed: int, least: int = 0) -> dict[str, Split]:
    """The split of each name at random.

    The hash of a name and the seed is its own random number, whatever other names there are: a new one moves few. Each
    split gets the least number of them, where there are as many for all.

    Example:
        >>> dealt(["a", "b", "c", "d"], (2, 1, 1), seed=0)
        {'d': 'train', 'a': 'train', 'b': 'val', 'c': 'test'}
    """
    mixed = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {composed(name)}".encode()).digest())
    first = round(len(mixed) * shares[0] / sum(shares))
    second = round(len(mixed) * (shares[0] + shares[1]) / sum(shares))
    if len(mixed) >= 3 * least:
        first = min(max(first, least), len(mixed) - 2 * least)
        second = min(max(second, first + least), len(mixed) - least)
    parts = zip(SPLITS, (mixed[:first], mixed[first:second], mixed[second:]), strict=True)
    return {name: split for split, some in parts for name in some}


def by_file(names: Sequence[str], split_file: str, kind: str = "task", where: object = "the data") -> dict[str, Split]:
    """The split of each name by a file, see ``read_split_file``.

    Args:
        names: All of them.
        split_file: A path, or the name of a published split.
        kind: What they name, for the errors.
        where: What they are in, likewise.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It leaves a name out, or has others.
    """
    given = {composed(name): split for name, split in read_split_file(split_file).items()}
    named = {composed(name) for name in names}
    if missing := sorted({*given} - named):
        raise ValueError(
            f"split_file={split_file}: {where} has no {kind} {listed(missing, 3)}; take them out of the file, or give "
            "the data that it is for"
        )
    if missing := sorted(named - {*given}):
        raise ValueError(
            f"split_file={split_file} gives no split to the {kind} {listed(missing, 3)}; give each one of "
            f"{', '.join(SPLITS)}, or leave it out of the data"
        )
    return {name: given[composed(name)] for name in names}


def by_column(names: Sequence[str], cells: Sequence[str], column: str) -> dict[str, Split]:
    """The split of each name by a cell that stands beside it in each row.

    Args:
        names: Of each row.
        cells: What says the split in each row: train, val or test, or another common word for it.
        column: Its name, for the errors.

    Raises:
        ValueError: A cell says no split, or the rows of one name several.
    """
    splits: dict[str, Split] = {}
    for name, cell in zip(names, cells, strict=True):
        split = split_called(cell)
        if split is None:
            raise ValueError(f"split_column: {column!r} has to say train, val or test, got {cell!r} of {name}")
        if splits.setdefault(name, split) != split:
            raise ValueError(
                f"split_column: {column!r} gives {name} to {splits[name]} and {split}; give all rows of one task or "
                "class to one split, or results will be too good"
            )
    return splits


@dataclass(frozen=True)
class Dealing:
    """How classes or tasks are shared out among the splits.

    Args:
        shares: Of them that each split gets by chance, where there is no file.
        seed: Of the order in which they are dealt out.
        split_file: A path, or the name of a published split.

    Raises:
        ValueError: The shares are not three positive numbers.
    """

    shares: Shares = (0.6, 0.2, 0.2)
    seed: int = 0
    split_file: str | None = None

    def __post_init__(self) -> None:
        check_shares(self.shares)

    def splits_of(self, names: Sequence[str], kind: str = "task", where: object = "the data") -> dict[str, Split]:
        """The split of each name.

        Args:
            names: All of them.
            kind: What they name, for the errors.
            where: What they are in, likewise.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no such file, or it does not name these.
        """
        if self.split_file is not None:
            return by_file(names, self.split_file, kind, where)
        return dealt(names, self.shares, self.seed, _LEAST.get(kind, 0))

    def deal(self, parts: Mapping[str, T], kind: str = "task", where: object = "the data") -> dict[Split, dict[str, T]]:
        """What belongs to each name, by split; otherwise as ``splits_of``."""
        splits = self.splits_of([*parts], kind, where)
        return {split: {name: part for name, part in parts.items() if splits[name] == split} for split in SPLITS}


def published_splits() -> list[str]:
    """The names of the published splits."""
    return sorted(entry.name.removesuffix(".csv") for entry in _PUBLISHED.iterdir() if entry.name.endswith(".csv"))


def read_split_file(split_file: str) -> dict[str, Split]:
    """The split of each class.

    Args:
        split_file: The name of a published split, or a path: of JSON, an object of split by class or of lists of
            classes by split; or of CSV, lines of class,split.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it cannot be understood, or gives a class to two splits.
    """
    path = expanded(split_file)
    if not path.is_file() and split_file in published_splits():
        text, suffix = (_PUBLISHED / f"{split_file}.csv").read_text(encoding="utf-8"), ".csv"
    elif not path.is_file():
        raise FileNotFoundError(
            f"split_file={split_file}: there is no such file, nor is it the name of a published split: "
            f"{', '.join(published_splits())}"
        )
    else:
        try:
            text, suffix = read_text(path, _LARGEST), path.suffix.lower()
        except NotPlain as error:
            raise ValueError(f"split_file={split_file} {error}; save it as JSON or CSV in UTF-8") from error
    rows = _json_rows(split_file, text) if suffix == ".json" else _csv_rows(text)
    splits: dict[str, Split] = {}
    for row in rows:
        found = split_called(str(row[1])) if len(row) == 2 else None
        if found is None or not isinstance(row[0], str):
            raise ValueError(f"split_file={split_file}: expected a class and one of {', '.join(SPLITS)}, got {row}")
        if splits.setdefault(row[0], found) != found:
            raise ValueError(
                f"split_file={split_file} gives the class {row[0]} to the splits {splits[row[0]]} and {found}: "
                f"a class may be in one split only"
            )
    return splits


def _json_rows(split_file: str, text: str) -> list[list[object]]:
    try:
        content = json.loads(text, object_pairs_hook=list)
        pairs = [[key, value] for key, value in content]
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"split_file={split_file} is no JSON object of splits by class: {error}") from error
    rows = []
    for key, value in pairs:
        rows += [[name, key] for name in value] if isinstance(value, list) and split_called(key) else [[key, value]]
    return rows


def _csv_rows(text: str) -> Sequence[Sequence[object]]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    # A line of titles, or not.
    return rows[1:] if rows and split_called(rows[0][-1]) is None else rows
