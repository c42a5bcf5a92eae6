"""Help that can be read: an option that takes any module is not followed by the names of hundreds."""

from __future__ import annotations

import re
from typing import Any

from jsonargparse import ArgumentParser

_MOST = 20
"""Classes that are named after an option."""


class ShortHelp(ArgumentParser):
    """A parser whose help names the classes that an option takes where they are few."""

    def format_help(self, *formatter: Any, **named: Any) -> str:
        def shorter(found: re.Match[str]) -> str:
            return found[0] if found[1].count(",") < _MOST else ")"

        return re.sub(r",\s+known\s+subclasses:([^)]*)\)", shorter, super().format_help(*formatter, **named))
