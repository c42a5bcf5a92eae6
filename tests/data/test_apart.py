"""Tasks of two splits that are one under two names, told from examples that are alike by chance."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import pytest

from litmaml.data.apart import check_apart
from litmaml.tasks import Split

SPLIT: dict[str, Split] = {"a": "train", "b": "train", "c": "val", "d": "test", "e": "test"}


def check(tasks: Mapping[str, str]) -> list[str]:
    """What is told of tasks whose examples are the letters of a word."""
    marks = [letter.encode() for word in tasks.values() for letter in word]
    ends = np.cumsum([len(word) for word in tasks.values()])
    members = {name: np.arange(end - len(word), end) for end, (name, word) in zip(ends, tasks.items(), strict=True)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        check_apart(marks, members, {name: SPLIT[name] for name in tasks}, "task", "rows")
    return [str(each.message) for each in told]


def test_what_stands_in_one_split_is_passed() -> None:
    assert check({"a": "abc", "b": "abc", "c": "def", "d": "ghi", "e": "ghi"}) == []


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        ({"a": "abc", "c": "abc"}, "2 stand in one of another split too: a \\(train\\), c \\(val\\)"),
        ({"a": "abcde", "c": "abc"}, "1 stand in one of another split too: c \\(val\\)"),
        ({"a": "abc", "b": "abc", "d": "cab"}, "3 stand in one of another split too: a \\(train\\), b"),
        # What many have says nothing.
        ({"a": "abcx", "b": "x", "c": "abcx", "d": "x", "e": "x"}, "2 stand in one of another split too: a .*, c"),
    ],
)
def test_one_task_under_several_names_is_refused(tasks: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=rf"^task: all rows of {named}.*; results are then too good: give what is one"):
        check(tasks)


@pytest.mark.parametrize(
    ("tasks", "count"),
    [
        ({"a": "abc", "c": "cde"}, 1),
        # All rows of c, but in two tasks; b is like a in its own split.
        ({"a": "abx", "b": "cdx", "c": "abcd"}, 4),
        ({"a": "abc", "b": "abc", "c": "def", "d": "dgh"}, 1),
        # Few possible values, and a rare one that two share.
        ({"a": "xyxyr", "b": "xyxxy", "c": "xyyxr", "d": "xyxyx", "e": "yxx"}, 3),
    ],
)
def test_single_rows_are_told_of(tasks: dict[str, str], count: int) -> None:
    (message,) = check(tasks)
    assert message.startswith(f"task: {count} rows stand in two splits; if they are of one task, give it one name")
