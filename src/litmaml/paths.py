"""Paths as they are typed: ``~`` and ``$NAME`` mean the same in every command, option and file."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with the home folder for ``~`` and the environment's values for ``$NAME``; itself where it is there."""
    if os.path.lexists(path):
        return Path(path)
    return Path(os.path.expandvars(os.path.expanduser(path)))
