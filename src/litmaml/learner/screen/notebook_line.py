"""A line of a notebook's cell that is written over."""

from __future__ import annotations

import importlib
from typing import Any


class NotebookLine:
    """Shows the newest of several texts, as plain text, which needs no widgets and is kept in the saved notebook."""

    def __init__(self) -> None:
        self._shown: Any = None

    def show(self, text: str) -> None:
        """Put a text in the place of the one before."""
        said = {"text/plain": text}
        if self._shown is None:
            display = importlib.import_module("IPython.display")
            self._shown = display.display(said, raw=True, display_id=True)
        else:
            self._shown.update(said, raw=True)
