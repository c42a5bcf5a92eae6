"""Who is trained on and who is tested with: names of tasks or classes shared out among the splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from math import inf

from litmaml.data.image_folder import read_split_file
from litmaml.data.table_file import composed
from litmaml.runs.paths import expanded
from litmaml.shown import listed
from litmaml.tasks import SPLITS, Split

Shares = tuple[float, float, float]

_SPELLED: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def check_shares(shares: Shares, argument: str = "split") -> None:
    """Refuse what are no three positive numbers."""
    if len(shares) != 3 or not all(0 < share < inf for share in shares):
        raise ValueError(
            f"{argument}: has to be three positive shares for train, val and test, got {shares}; give such as "
            "[0.6, 0.2, 0.2], or the numbers of tasks"
        )


def dealt(names: Iterable[str], shares: Shares, seed: int) -> dict[str, Split]:
    """The split of each name at random.

    The hash of a name and the seed is its own random number, whatever other names there are: a new one moves few.

    Example:
        >>> dealt(["a", "b", "c", "d"], (2, 1, 1), seed=0)
        {'d': 'train', 'a': 'train', 'b': 'val', 'c': 'test'}
    """
    mixed = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {composed(name)}".encode()).digest())
    first = round(len(mixed) * shares[0] / sum(shares))
    second = round(len(mixed) * (shares[0] + shares[1]) / sum(shares))
    parts = zip(SPLITS, (mixed[:first], mixed[first:second], mixed[second:]), strict=True)
    return {name: split for split, some in parts for name in some}


def by_file(names: Sequence[str], split_file: str) -> dict[str, Split]:
    """The split of each name by a file, JSON or CSV, that gives one to each.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It leaves a name out, or has others.
    """
    given = {composed(name): split for name, split in read_split_file(expanded(split_file)).items()}
    if missing := sorted({*names} - {*given}):
        raise ValueError(f"split_file: gives no split to {listed(missing)}, got {split_file!r}; add them")
    if missing := sorted({*given} - {*names}):
        raise ValueError(f"split_file: the data have no {listed(missing)}, got {split_file!r}; remove them")
    return {name: given[name] for name in names}


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
        split = _SPELLED.get(cell.strip().lower())
        if split is None:
            raise ValueError(f"split_column: {column!r} has to say train, val or test, got {cell!r} of {name}")
        if splits.setdefault(name, split) != split:
            raise ValueError(
                f"split_column: {column!r} gives {name} to {splits[name]} and {split}; give all rows of one task or "
                "class to one split, or results will be too good"
            )
    return splits
