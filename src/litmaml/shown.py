"""Names and messages that come from files, on their way to a terminal, a report or a table."""

from __future__ import annotations

import html
import re

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor or turns the direction of a line; all but tab and the end of a line."""
_MARKS = re.compile(r"([\\`*_{}\[\]()#+!|~$@:])")


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
