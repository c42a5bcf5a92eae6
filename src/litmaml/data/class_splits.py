"""Which classes are for training, validation and test: by chance, by a file, by folders, or as published."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from litmaml.data.image_files import folders_in
from litmaml.data.shared_out import Shares, by_file, check_shares, composed, dealt, read_split_file, split_called
from litmaml.shown import one_line
from litmaml.tasks import SPLITS, Split

T = TypeVar("T")


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
        check_shares(self.shares)

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
            splits = by_file([*classes], self.split_file, "class", root)
        else:
            splits = dealt([*classes], self.shares, self.seed)
        return {split: {name: part for name, part in classes.items() if splits[name] == split} for split in SPLITS}


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
