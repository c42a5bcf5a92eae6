"""Image files in folders: which are taken, which are left out, and how their names are compared."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from litmaml.data.images import lines
from litmaml.data.shared_out import composed
from litmaml.shown import listed, one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""The files of a class folder that are taken for images, in lower or upper case."""

Unreadable = Literal["skip", "refuse"]
"""What is done about files of images that cannot be read."""

_NOBODYS = {"thumbs.db", "desktop.ini"}
"""What Windows puts into folders of pictures."""
_OTHERS = {
    *("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    *("$recycle.bin", "system volume information", "lost+found", "__pycache__"),
}
"""Folders that archives of macOS, network drives and systems leave among those of a user."""


def is_image(name: str) -> bool:
    """Whether a file is taken for an image by its name."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def is_others(name: str) -> bool:
    """Whether a folder is one that another program made for itself, by its name."""
    return name.lower() in _OTHERS


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, by name, but for hidden ones and those of other programs."""
    inside = (inner for inner in folder.iterdir() if not inner.name.startswith(".") and not is_others(inner.name))
    return sorted(inner for inner in inside if inner.is_dir())


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
    """The image files of each folder in a folder that has any.

    Args:
        folder: The folder.
        left_out: A list to which folders without images and those of other programs are added, and what else the
            folders hold.
    """
    found = {inner: images_in(inner, left_out) for inner in folders_in(folder)}
    if left_out is not None:
        left_out += [inner for inner, images in found.items() if not images]
        left_out += [inner for inner in folder.iterdir() if is_others(inner.name)]
    return {inner.name: images for inner, images in found.items() if images}


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
    kinds = Counter(map(_kind, left_out))
    common = sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))
    counts = ", ".join(f"{n} {one_line(kind)}{'s' * (n > 1 and kind.endswith('folder'))}" for kind, n in common[:5])
    warnings.warn(
        f"{argument}: {len(left_out)} files or folders are left out ({counts}), since images are files that end in "
        f"{', '.join(SUFFIXES)}: {listed([one_line(path) for path in sorted(left_out, key=_folders_first)], 5)}; "
        "convert those that are images, and move images out of folders within a class",
        stacklevel=2,
    )


def _folders_first(path: Path) -> tuple[bool, Path]:
    return not path.is_dir(), path


def _kind(path: Path) -> str:
    if not path.is_dir():
        return path.suffix.lower() or "no suffix"
    if is_others(path.name):
        return "of other programs"
    return "other folder" if any(path.iterdir()) else "empty folder"


def tell_of_unreadable(errors: Mapping[str, str], total: int, argument: str) -> None:
    """Count and list the images that could not be read.

    Args:
        errors: What is wrong with each, by file.
        total: How many images there are with them.
        argument: What the user typed to name the folder they are in.

    Warns:
        UserWarning: There are any.
    """
    if errors:
        warnings.warn(
            f"{argument}: {len(errors)} of {total} images cannot be read and are left out; mend or remove them:\n"
            + lines([*errors.values()]),
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
