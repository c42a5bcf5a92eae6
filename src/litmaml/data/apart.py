"""Whether tasks or classes of two splits are the same ones under two names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from litmaml.data.drawing import Rows
from litmaml.shown import listed
from litmaml.tasks import Split

_NAMES = 3
"""In how many tasks an example may stand to say something of these; what stands in more does so by chance, as where few
values are possible."""


def check_apart(
    marks: Sequence[bytes], members: Mapping[str, Rows], splits: Mapping[str, Split], what: str, examples: str
) -> None:
    """Refuse tasks or classes all of whose examples stand in one of another split too, and tell of single examples in
    two splits.

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
    where: dict[bytes, set[str]] = {}
    for name, rows in members.items():
        for row in rows:
            where.setdefault(marks[row], set()).add(name)
    twice = {mark for mark, found in where.items() if len({splits[name] for name in found}) > 1}
    if not twice:
        return

    def again(name: str, rows: Rows) -> bool:
        found = [own for row in rows if len(own := where[marks[row]]) <= _NAMES]
        holding = set[str]().union(*found[:1]).intersection(*found)
        return 2 * len(found) >= len(rows) and any(splits[other] != splits[name] for other in holding)

    if named := [f"{name} ({splits[name]})" for name, rows in members.items() if again(name, rows)]:
        raise ValueError(
            f"{what}: all {examples} of {len(named)} stand in one of another split too: {listed(named, 3)}; results "
            f"are then too good: give what is one {what} one name"
        )
    warnings.warn(
        f"{what}: {len(twice)} {examples} stand in two splits; if they are of one {what}, give it one name, or results "
        "are too good",
        stacklevel=2,
    )
