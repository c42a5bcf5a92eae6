"""Image files in folders: which are taken, which are left out, and how their names are compared."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from litmaml.data.shared_out import composed
from litmaml.shown import listed, one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""The files of a class folder that are taken for images, in lower or upper case."""

_NOBODYS = {"thumbs.db", "desktop.ini"}
"""What Windows puts into folders of pictures."""


def is_image(name: str) -> bool:
    """Whether a file is taken for an image by its name."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, by name, but for hidden ones."""
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith("."))


def images_in(folder: Path, left_out: list[Path] | None = None) -> list[Path]:
    """The image files in a folder itself, by name.

    Args:
        folder: The folder.
        left_out: A list to which what else it holds is added: files of other kinds, and folders.
    """
    images = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_image(entry.name) and entry.is_file():
                images.append(folder / entry.name)
            elif left_out is not None and entry.name.lower() not in _NOBODYS:
                left_out.append(folder / entry.name)
    return sorted(images)


def class_folders(folder: Path, left_out: list[Path] | None = None) -> dict[str, list[Path]]:
    """The image files of each folder in a folder."""
    return {inner.name: images_in(inner, left_out) for inner in folders_in(folder)}


def tell_of_left_out(left_out: Sequence[Path], argument: str) -> None:
    """Count and name what was taken for no image.

    Args:
        left_out: Files and folders.
        argument: What the user typed to name the folder they are in.

    Warns:
        UserWarning: There are any.
    """
    if not left_out:
        return
    kinds = Counter("folders" if path.is_dir() else path.suffix.lower() or "no suffix" for path in left_out)
    common = sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))
    counts = ", ".join(f"{count} {one_line(kind)}" for kind, count in common[:5])
    warnings.warn(
        f"{argument}: {len(left_out)} files or folders are left out ({counts}), since images are files that end in "
        f"{', '.join(SUFFIXES)}: {listed([one_line(path) for path in sorted(left_out)], 3)}; convert those that are "
        "images, and move images out of folders within a class",
        stacklevel=2,
    )


def one_name_each(names: Iterable[str], argument: str) -> dict[str, str]:
    """The names by their composed form.

    Raises:
        ValueError: Two of them are one to whoever reads them.
    """
    found: dict[str, str] = {}
    for name in names:
        first = found.setdefault(composed(name), name)
        if first != name:
            raise ValueError(
                f"{argument}: two folders are called {composed(name)}, with accents written in two ways; put their "
                "files into one"
            )
    return found
