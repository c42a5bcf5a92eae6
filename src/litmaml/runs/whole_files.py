"""Writing files that are read back or looked at later: whole, or as they were before."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from litmaml.runs.paths import unlinked
from litmaml.shown import printable


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file beside its place, and put it there once it is whole; a kill or a full disk spoils none.

    A link in its place is replaced, and nothing is written through it.

    Raises:
        OSError: It cannot be written; the message names it.
    """
    fresh = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(unlinked(fresh))
        os.replace(fresh, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # it is gone, or never was
            fresh.unlink()


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8, whole; see ``write_whole``."""
    write_whole(path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


def check_writable(folder: Path, argument: str) -> None:
    """Refuse a folder that nothing can be written to, while there is nothing yet that could be lost. None is made.

    Args:
        folder: It; where it does not exist, the one that it would be made in is tried.
        argument: By which it was named.

    Raises:
        OSError: Naming it, and what to do.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise OSError(
            f"{argument}: cannot write to {printable(folder)!r}: {error.strerror or error}; name another for the "
            "results"
        ) from error


def _cannot_write(path: Path, error: OSError) -> OSError:
    return OSError(f"cannot write {str(path)!r}: {error.strerror or error}")
