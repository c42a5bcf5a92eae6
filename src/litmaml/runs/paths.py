"""Paths: ``~`` and ``$NAME`` mean the same wherever they are typed, and what is written stays in its folder."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """The path with the home folder for ``~`` and the environment's values for ``$NAME``; itself where it is there."""
    if os.path.lexists(path):
        return Path(path)
    return Path(os.path.expandvars(os.path.expanduser(path)))


def check_new(folder: Path, typed: str) -> None:
    """Refuse a folder to write to that has something in it.

    Args:
        folder: It.
        typed: As it was typed.

    Raises:
        FileExistsError: It does, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"output: {typed} exists already and is no empty folder; name a new one")


def unlinked(path: Path, hard: bool = True) -> Path:
    """The path of a file that is about to be written, where no link or pipe lies any more.

    A folder that somebody else made may hold links, through which a file of the user's would be written over.

    Args:
        path: The file.
        hard: Whether a file goes, too, that has other names, under which it stays.
    """
    other = path.exists() and not path.is_file() and not path.is_dir()
    if path.is_symlink() or other or (hard and path.is_file() and path.stat().st_nlink > 1):
        path.unlink()
    return path
