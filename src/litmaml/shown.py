"""Names and messages on their way to an error, a terminal, a report or a table; some come from strangers' files."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Sequence

UNSEEN = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""What moves a terminal's cursor or turns the direction of a line; all but tab and the end of a line. For a pattern."""
_UNSEEN = re.compile(f"[{UNSEEN}]")
_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~$@:])")


LINE_EVERY = 60.0
"""Seconds between two lines that say how far something has come, where there is no terminal."""


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for an error, the first few of many."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or else its kind."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def spelled(thing: object) -> str:
    """How an object is made again: its class, with the arguments that are not left at their defaults.

    Arguments that have to be given stand first, without their names.

    >>> from dataclasses import dataclass
    >>> @dataclass(repr=False)
    ... class Rate:
    ...     lr: float
    ...     momentum: float = 0.0
    ...     nesterov: bool = False
    >>> spelled(Rate(0.1, nesterov=True))
    'Rate(0.1, nesterov=True)'
    """
    said = list[str]()
    for name, parameter in inspect.signature(type(thing)).parameters.items():
        value = getattr(thing, name, parameter.default)
        if value is parameter.default or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        text, usual = repr(value), repr(parameter.default)
        if text != usual:
            given = parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY
            said.append(text if given else f"{name}={text}")
    return f"{type(thing).__name__}({', '.join(said)})"


def duration(seconds: float) -> str:
    """A time to wait, in as few figures as it is known to.

    >>> [duration(seconds) for seconds in (0.4, 40, 130, 5000, 90000)]
    ['1 s', '40 s', '2 min', '83 min', '25 h']
    """
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 6000 else f"{round(seconds / 3600)} h"


def printable(text: object) -> str:
    """A text with its control characters written out, as ``\\x1b``."""
    return _UNSEEN.sub(lambda found: ascii(found.group())[1:-1], str(text))


def one_line(text: object) -> str:
    """A text that is printable, and in one line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown(text: object) -> str:
    """A text as itself in a Markdown document and its tables: no link, no picture, no HTML."""
    return _MARKS.sub(r"\\\1", html.escape(one_line(text), quote=False))


def code(text: object) -> str:
    """A text as code within a line of a Markdown document."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def table_cell(text: object) -> str:
    """A text for a CSV file, of which no spreadsheet makes a formula."""
    cell = one_line(text)
    return f"'{cell}" if cell.lstrip().startswith(("=", "+", "-", "@")) else cell
