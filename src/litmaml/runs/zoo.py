"""The zoo: meta-checkpoints that come with the package, named ``zoo:NAME``, each with a card that tells of it."""

from __future__ import annotations

from pathlib import Path

import litmaml
from litmaml.shown import printable

PREFIX = "zoo:"


def folder() -> Path:
    """Where they lie: in the package, which may be read only."""
    return Path(litmaml.__file__).parent / "zoo"


def names() -> list[str]:
    """What there is, such as ``omniglot-5w1s``."""
    return sorted(file.stem for file in folder().glob("*.ckpt"))


def checkpoint_of(named: str, argument: str) -> Path:
    """The file of a name, with the prefix or without.

    Raises:
        FileNotFoundError: There is none; the message says which there are.
    """
    name = named.removeprefix(PREFIX)
    if name not in names():
        there = ", ".join(PREFIX + each for each in names())
        raise FileNotFoundError(
            f"{argument}: no checkpoint of this name comes with litmaml, got {printable(named)!r}; there are {there}"
        )
    return folder() / f"{name}.ckpt"


def card_of(named: str, argument: str) -> str:
    """What is told of one, in Markdown: its first line is the title.

    Raises:
        FileNotFoundError: There is none.
    """
    return checkpoint_of(named, argument).with_suffix(".md").read_text(encoding="utf-8")


def subject_of(name: str) -> str:
    """A line on one: its card's title without the name."""
    return card_of(name, "name").partition("\n")[0].partition(": ")[2]


def told(name: str | None = None) -> str:
    """The list of all, with a line on each, or the card of one.

    Raises:
        FileNotFoundError: There is no checkpoint of this name.
    """
    if name is not None:
        return card_of(name, "name").rstrip()
    wide, first = max(map(len, names())), names()[0]
    lines = [f"{each:{wide}}  {subject_of(each)}" for each in names()]
    return "\n".join(
        [*lines, "", f"The card of one: litmaml zoo {first}; it is a checkpoint by the name {PREFIX}{first}"]
    )
