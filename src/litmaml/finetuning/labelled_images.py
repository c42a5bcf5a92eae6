"""A user's images for fine-tuning: labelled ones in a folder a class, or unlabelled ones in one folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from litmaml.data.image_files import (
    SUFFIXES,
    Unreadable,
    class_folders,
    folders_in,
    images_in,
    is_others,
    one_name_each,
    tell_of_left_out,
    tell_of_unreadable,
)
from litmaml.data.images import ImageFormat, lines, read_images
from litmaml.data.leakage import Pair, Place, copies, fingerprints, listed_pairs
from litmaml.data.shared_out import composed
from litmaml.runs.paths import expanded
from litmaml.shown import listed, one_line


class Images(NamedTuple):
    """Images with their files.

    inputs: (n, channels, size, size), as the model takes them.
    targets: (n,) indices of their classes; None where they are not labelled.
    files: their paths.
    """

    inputs: Tensor
    targets: Tensor | None
    files: list[Path]

    @property
    def labels(self) -> Tensor:
        """The targets of labelled images."""
        assert self.targets is not None
        return self.targets

    def to(self, device: str) -> Images:
        """The same images on another device."""
        return self._replace(
            inputs=self.inputs.to(device), targets=None if self.targets is None else self.targets.to(device)
        )


def read_support(folder: str, image_format: ImageFormat, unreadable: Unreadable = "skip") -> tuple[Images, list[str]]:
    """The labelled images of ``FOLDER/CLASS/*.png|jpg|...`` and the classes' names in alphabetical order.

    Folders without images are no classes.

    Args:
        folder: As it was typed.
        image_format: What the images become.
        unreadable: What is done about files that cannot be read.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are fewer than two classes, or files that cannot be read are to be refused or are all of a
            class.

    Warns:
        UserWarning: Naming what is left out.
    """
    left_out: list[Path] = []
    classes = _class_folders(folder, "data", left_out)
    if not classes and (empty := [path.name for path in folders_in(expanded(folder))]):
        raise ValueError(f"data: without any image ({', '.join(SUFFIXES)}) in {folder!r}: {listed(empty)}; add images")
    if not classes:
        raise ValueError(
            f"data: {folder!r} has no class folders; put the images of each class in a folder with its name: "
            f"{Path(folder, 'CLASS', 'image.png')}"
        )
    if len(classes) == 1:
        raise ValueError(
            f"data: {folder!r} has one class only, {next(iter(classes))!r}; a classifier needs at least two"
        )
    tell_of_left_out(left_out, "data")
    names = list(classes)
    support = _labelled(classes, names, image_format, "data", unreadable)
    if lost := [name for k, name in enumerate(names) if k not in support.labels]:
        raise ValueError(f"data: no image of {listed(lost)} can be read; mend some, or remove the folders")
    return support, names


def read_query(folder: str, names: Sequence[str], image_format: ImageFormat, unreadable: Unreadable = "skip") -> Images:
    """The images to score, in folders named as the classes, or to predict, in the folder itself.

    Args:
        folder: As it was typed.
        names: The classes' names.
        image_format: What the images become.
        unreadable: What is done about files that cannot be read.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has no images, files that cannot be read are to be refused, or it has folders that are no class.

    Warns:
        UserWarning: Naming what is left out.
    """
    left_out, beside = list[Path](), list[Path]()
    classes, loose = _class_folders(folder, "query", left_out), images_in(expanded(folder), beside)
    if classes and loose:
        raise ValueError(
            f"query: {folder!r} has both images and folders; put labelled images into folders named as the classes, or "
            "unlabelled ones into the folder itself"
        )
    # A folder from another system may have its accents written in another way.
    known = {composed(name): name for name in names}
    if unknown := sorted(name for name in classes if composed(name) not in known):
        raise ValueError(
            f"query: no class of --data is called {listed(unknown)}; the classes are {listed(names)}. Put unlabelled "
            "images into the folder itself"
        )
    if not classes and not loose:
        raise ValueError(f"query: there is no image ({', '.join(SUFFIXES)}) in {folder!r}")
    tell_of_left_out(beside if loose else left_out, "query")
    if loose:
        return _read(loose, image_format, "query", unreadable)
    by_name = {known[composed(name)]: files for name, files in classes.items()}
    return _labelled(by_name, names, image_format, "query", unreadable)


def check_copies(support: Images, query: Images | None, names: Sequence[str]) -> None:
    """Refuse images of two classes and scored ones that were adapted to, and tell of copies within a class.

    Args:
        support: The images to adapt to.
        query: Further images; those without labels are not scored and pass.
        names: The classes' names.

    Raises:
        ValueError: Naming at most three pairs, and their number.

    Warns:
        UserWarning: An image stands in its class twice.
    """
    seen: dict[bytes, Place] = {}
    twice = _copies(support, "data", names, seen)
    if apart := [pair for pair in twice if pair.first.label != pair.again.label]:
        raise ValueError(
            f"data: {len(apart)} images stand in two classes: {listed_pairs(apart)}; keep each in the right one alone"
        )
    if twice:
        warnings.warn(
            f"data: {len(twice)} of {len(support.files)} images are copies of another one of their class: "
            f"{listed_pairs(twice)}; an accuracy found by leaving images out is then too good: remove them",
            stacklevel=2,
        )
    if query is None or query.targets is None:
        return
    found = _copies(query, "query", names, seen)
    if known := [pair for pair in found if pair.first.split == "data"]:
        raise ValueError(
            f"query: {len(known)} of {len(query.files)} images stand in --data too: {listed_pairs(known)}; the score "
            "on what was adapted to is too good: remove them from one of the two"
        )
    if apart := [pair for pair in found if pair.first.label != pair.again.label]:
        raise ValueError(
            f"query: {len(apart)} images stand in two classes: {listed_pairs(apart)}; keep each in the right one alone"
        )


def _copies(images: Images, argument: str, names: Sequence[str], seen: dict[bytes, Place]) -> list[Pair]:
    places = [
        Place(argument, names[k], str(file)) for file, k in zip(images.files, images.labels.tolist(), strict=True)
    ]
    return [Pair(*pair) for pair in copies(seen, fingerprints(images.inputs), places)]


def find_images(folder: str, argument: str, follow_links: bool = False) -> list[Path]:
    """All image files in a folder and the folders in it.

    Args:
        folder: As it was typed.
        argument: What it was typed for.
        follow_links: Whether to go where links lead, also out of the folder.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There are no images in it, or links that lead out of it are not to be followed.
    """
    root = _folder(folder, argument)
    files, left_out, seen, home = list[Path](), list[Path](), set(), root.resolve()
    for inner, names, _ in os.walk(root, followlinks=follow_links):
        if (here := Path(inner).resolve()) in seen:
            names.clear()  # a link to a folder above it
            continue
        seen.add(here)
        names[:] = [name for name in names if not is_others(name)]
        files += images_in(Path(inner), left_out)
    if outside := [] if follow_links else [file for file in files if not file.resolve().is_relative_to(home)]:
        raise ValueError(
            f"{argument}: {len(outside)} images in {folder!r} are links to files elsewhere, such as "
            f"{one_line(outside[0])}; type --follow_links=true if they are to be read"
        )
    if not files:
        raise ValueError(f"{argument}: there is no image ({', '.join(SUFFIXES)}) in {folder!r}")
    # Folders are gone through, but for those behind links.
    tell_of_left_out([path for path in left_out if not path.is_dir() or path.resolve() not in seen], argument)
    return sorted(files)


def _labelled(
    classes: Mapping[str, list[Path]],
    names: Sequence[str],
    image_format: ImageFormat,
    argument: str,
    unreadable: Unreadable,
) -> Images:
    labels = {file: names.index(name) for name, members in classes.items() for file in members}
    images = _read([*labels], image_format, argument, unreadable)
    return images._replace(targets=torch.tensor([labels[file] for file in images.files]))


def _read(files: list[Path], image_format: ImageFormat, argument: str, unreadable: Unreadable) -> Images:
    pixels, errors = read_images({str(file): file for file in files}, image_format)
    if errors and (unreadable == "refuse" or len(errors) == len(files)):
        raise ValueError(
            f"{argument}: {len(errors)} of {len(files)} images cannot be read; mend or remove them:\n"
            + lines([*errors.values()])
        )
    tell_of_unreadable(errors, len(files), argument)
    return Images(image_format.to_float(pixels), None, [file for file in files if str(file) not in errors])


def _class_folders(folder: str, argument: str, left_out: list[Path]) -> dict[str, list[Path]]:
    root = _folder(folder, argument)
    if odd := [ascii(path.name) for path in folders_in(root) if _is_no_text(path.name)]:
        raise ValueError(f"{argument}: names of classes that are not in UTF-8: {listed(odd)}; rename the folders")
    classes = class_folders(root, left_out)
    one_name_each(classes, argument)
    return classes


def _is_no_text(name: str) -> bool:
    """Whether a name stands for bytes that are no text, which no file of the results could hold."""
    return any("\ud800" <= sign <= "\udfff" for sign in name)


def _folder(named: str, argument: str) -> Path:
    folder = expanded(named)
    if not folder.is_dir():
        raise FileNotFoundError(f"{argument}: there is no folder {named!r}")
    return folder
