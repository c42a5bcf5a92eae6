"""Which classes are for training, validation and test by the folders that they lie in, or as published."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

from litmaml.data.image_files import folders_in
from litmaml.data.shared_out import Dealing, composed, dealt, read_split_file, split_called
from litmaml.shown import listed, one_line
from litmaml.tasks import SPLITS, Split

T = TypeVar("T")

_LEAST = 2
"""Classes of which a task can be made."""


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


def with_validation(
    splits: Mapping[Split, Mapping[str, T]], dealing: Dealing, argument: str
) -> Mapping[Split, Mapping[str, T]]:
    """The splits, where there is none for validation with some classes of training for it.

    They are as many as validation's share of the two, at least two, and stay the same from run to run. Nothing is
    taken where fewer than two would be left to train on.

    Args:
        splits: What belongs to each class, by split.
        dealing: The shares of training and validation, and the seed by which classes are chosen.
        argument: What the user typed to say where the images are.

    Warns:
        UserWarning: Classes are taken; they are named.
    """
    classes: Mapping[str, T] = splits.get("train", {})
    if "val" in splits or len(classes) < 2 * _LEAST:
        return splits
    train, val, _ = dealing.shares
    wanted = min(max(round(len(classes) * val / (train + val)), _LEAST), len(classes) - _LEAST)
    chosen = dealt(classes, (len(classes) - wanted, wanted, 0), dealing.seed)
    taken = [name for name in classes if chosen[name] == "val"]
    warnings.warn(
        f"{argument} says what training is, but not what validation is: {wanted} of the {len(classes)} classes of "
        f"training are taken for it, {listed([one_line(name) for name in taken], 5)}; to choose them, move classes "
        "to one named val",
        stacklevel=2,
    )
    kept = {name: part for name, part in classes.items() if chosen[name] == "train"}
    return {**splits, "train": kept, "val": {name: classes[name] for name in taken}}


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
