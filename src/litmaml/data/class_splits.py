"""Which classes are for training, validation and test: by chance, by a file, by folders, or as published."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import inf
from pathlib import Path
from typing import TypeVar

from litmaml.data.image_files import composed, folders_in
from litmaml.runs.paths import expanded
from litmaml.shown import listed, one_line
from litmaml.tasks import SPLITS, Split

T = TypeVar("T")

Shares = tuple[float, float, float]
"""Of the classes, for training, validation and test."""

_SPELLINGS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "base"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "novel"), "test"),
}
_PUBLISHED = files("litmaml.data") / "published"


def split_called(name: str) -> Split | None:
    """The split that a file, a folder or a cell of a table names, however it is spelled; None if it is none.

    >>> [split_called(name) for name in ("Train", "meta-valid", "validation", "TEST", "cats")]
    ['train', 'val', 'val', 'test', None]
    """
    return _SPELLINGS.get(re.sub(r"^meta[-_ ]?", "", name.strip().lower()))


def of_each_split(named: dict[str, T], argument: str) -> dict[Split, T]:
    """What is named after splits, by split; what is named otherwise is left out.

    Raises:
        ValueError: Two names are spellings of one split.
    """
    found: dict[Split, str] = {}
    for name in sorted(named):
        split = split_called(name)
        if split is not None and found.setdefault(split, name) != name:
            raise ValueError(
                f"{argument}: {found[split]} and {name} are both for the split {split}; remove or rename one of them"
            )
    return {split: named[found[split]] for split in SPLITS if split in found}


def split_folders(root: Path) -> dict[Split, Path]:
    """The folders of a folder that are named after splits and hold folders of classes; none where these are classes
    themselves."""
    folders = {folder.name: folder for folder in folders_in(root)}
    holding = {name: folder for name, folder in folders.items() if split_called(name) and folders_in(folder)}
    whole = len({split_called(name) for name in holding}) > 1 or len(holding) == len(folders)
    return of_each_split(holding, f"root={root}") if whole else {}


@dataclass(frozen=True)
class Dealing:
    """How classes are shared out among the splits.

    Args:
        shares: Of the classes that each split gets by chance, where there is no file.
        seed: Of the order in which they are dealt out.
        split_file: A path, or the name of a published split.

    Raises:
        ValueError: The shares are not three positive numbers.
    """

    shares: Shares = (0.6, 0.2, 0.2)
    seed: int = 0
    split_file: str | None = None

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or not all(0 < share < inf for share in self.shares):
            raise ValueError(f"split must be three positive shares for train, val and test, got {self.shares}")

    def deal(self, classes: Mapping[str, T], root: str | Path) -> dict[Split, dict[str, T]]:
        """What belongs to each class, by split.

        Args:
            classes: The same, of all classes.
            root: What they are in, for errors.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no such file, or it does not name these classes.
        """
        if self.split_file is not None:
            splits = _by_file([*classes], self.split_file, root)
        else:
            splits = _by_chance([*classes], self.shares, self.seed)
        return {split: {name: part for name, part in classes.items() if splits[name] == split} for split in SPLITS}


def _by_chance(classes: Sequence[str], shares: Shares, seed: int) -> dict[str, Split]:
    # The hash of a class's name and the seed is its own random number, whatever other classes there are.
    marks = {name: f"{seed} {composed(name)}".encode() for name in classes}
    mixed = sorted(classes, key=lambda name: hashlib.sha256(marks[name]).digest())
    first = round(len(mixed) * shares[0] / sum(shares))
    second = round(len(mixed) * (shares[0] + shares[1]) / sum(shares))
    parts = zip(SPLITS, (mixed[:first], mixed[first:second], mixed[second:]), strict=True)
    return {name: split for split, names in parts for name in names}


def _by_file(classes: Sequence[str], split_file: str, root: str | Path) -> dict[str, Split]:
    given = {composed(name): split for name, split in read_split_file(split_file).items()}
    named = {composed(name) for name in classes}
    if missing := sorted({*given} - named):
        raise ValueError(f"split_file={split_file}: {root} has no class {listed(missing)}")
    if missing := sorted(named - {*given}):
        raise ValueError(f"split_file={split_file} gives no split to the class {listed(missing)}")
    return {name: given[composed(name)] for name in classes}


def check_published(name: str, splits: Mapping[Split, Collection[str]]) -> None:
    """Refuse splits that give a class to another one than a published split does; classes of other names pass.

    Raises:
        ValueError: Naming the first of them, and their number.
    """
    published = {composed(label): split for label, split in read_split_file(name).items()}
    other = [
        (label, split, published[composed(label)])
        for split, classes in splits.items()
        for label in classes
        if published.get(composed(label), split) != split
    ]
    if other:
        label, split, meant = other[0]
        raise ValueError(
            f"published={name}: {len(other)} classes are in another split than published, such as {one_line(label)} in "
            f"{split}, published in {meant}; leave published out if that is meant"
        )


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
        text, suffix = path.read_text(encoding="utf-8-sig"), path.suffix.lower()
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
