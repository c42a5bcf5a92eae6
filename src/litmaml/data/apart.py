"""Whether tasks or classes of two splits are the same ones under two names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from litmaml.data.drawing import Rows
from litmaml.shown import listed
from litmaml.tasks import Split


def check_apart(
    marks: Sequence[bytes], members: Mapping[str, Rows], splits: Mapping[str, Split], what: str, examples: str
) -> None:
    """Refuse tasks or classes all of whose examples stand in another split too, and tell of single ones that do.

    Args:
        marks: Of each example what it is recognised by; see ``fingerprints``.
        members: The places in these of each task's or class's examples.
        splits: The split of each.
        what: What the members are of: task or class.
        examples: What the examples are called: rows, sentences.

    Raises:
        ValueError: Naming at most three such tasks or classes.

    Warns:
        UserWarning: Examples stand in two splits, with their number.
    """
    where: dict[bytes, set[Split]] = {}
    for name, rows in members.items():
        for row in rows:
            where.setdefault(marks[row], set()).add(splits[name])
    twice = {mark for mark, found in where.items() if len(found) > 1}
    if not twice:
        return
    again = [name for name, rows in members.items() if twice.issuperset(marks[row] for row in rows)]
    if again:
        named = [f"{name} ({splits[name]})" for name in again]
        raise ValueError(
            f"{what}: all {examples} of {len(again)} stand in another split too: {listed(named, 3)}; results are then "
            f"too good: give what is one {what} one name"
        )
    warnings.warn(
        f"{what}: {len(twice)} {examples} stand in two splits; if they are of one {what}, give it one name, or results "
        "are too good",
        stacklevel=2,
    )
