"""The layouts in which users have sets of images: each is known by the files that it has, and read into a source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from litmaml.data.image_files import images_in
from litmaml.data.image_pickles import pickles_in
from litmaml.data.image_source import ImageSource
from litmaml.data.layout_readers import (
    Wanted,
    cifar_lists,
    folders_of_classes,
    has_birds,
    has_folders,
    has_split_lists,
    has_whole_list,
    read_birds,
    read_cifar,
    read_packed,
    read_pickles,
    read_split_lists,
    read_whole_list,
    whole_list,
)
from litmaml.data.packed_images import is_packed
from litmaml.shown import listed, one_line


class Layout(NamedTuple):
    """A layout of sets of images.

    name: What it is called.
    looks: What it looks like, for whoever has another.
    fits: Whether a folder has it.
    read: The images of a folder that has it.
    """

    name: str
    looks: str
    fits: Callable[[Path, Wanted], bool]
    read: Callable[[Path, Wanted], ImageSource]


def open_images(root: Path, wanted: Wanted) -> ImageSource:
    """The images of a folder in any layout.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has no layout that is known; what it has, and the layouts, are named.
    """
    if root.is_file():
        raise ValueError(f"root={root} is a file; unpack it, and set root to the folder that it was unpacked to")
    if not root.is_dir():
        raise FileNotFoundError(f"root={root}: there is no such folder")
    layout, place = recognised(root, wanted)
    if layout is None:
        above, _ = recognised(root.parent, wanted) if images_in(root) else (None, root)
        names = [one_line(path.name) + "/" * path.is_dir() for path in sorted(root.iterdir())]
        raise ValueError(
            f"root={root} is in no layout that is known; it has {listed(names, 6) or 'nothing in it'}. "
            + (
                f"The folder above is {above.name}: set root to {root.parent}. "
                if above and above.read is not folders_of_classes
                else ""
            )
            + f"Known are {'; '.join(known.looks for known in LAYOUTS)}"
        )
    if layout.read not in (read_split_lists, read_whole_list):
        given = {f"{name}_column": value for name, value in asdict(wanted.columns).items() if value is not None}
        for argument, value in given.items():
            raise ValueError(
                f"{argument}: root={root} is {layout.name}, without such columns, got {value!r}; leave it out"
            )
    return layout.read(place, wanted)


def recognised(root: Path, wanted: Wanted) -> tuple[Layout | None, Path]:
    """The layout of a folder, or of one in it that archives are unpacked to, and which of them has it.

    Raises:
        FileNotFoundError: There is no such list as was named.
    """
    if wanted.table is not None:
        if whole_list(root, wanted) is None:
            raise FileNotFoundError(f"table={wanted.table}: there is no such file in {root}")
        return next(layout for layout in LAYOUTS if layout.read is read_whole_list), root
    for place in (root, *(root / name for name in _UNPACKED if (root / name).is_dir())):
        for layout in LAYOUTS:
            if layout.fits(place, wanted):
                return layout, place
    return None, root


_UNPACKED = ("CUB_200_2011", "tiered-imagenet", "cifar100", "cifarfs/cifar100", "processed", "cifarfs/processed")
"""Folders that archives are unpacked to."""

LAYOUTS = (
    Layout(
        "packed images",
        "what litmaml data pack writes",
        lambda root, wanted: is_packed(root),
        read_packed,
    ),
    Layout(
        "pickles of learn2learn, MetaOptNet or tiered-ImageNet",
        "pickles such as NAME-train.pkl, NAME_val.pickle, test_images_png.pkl with test_labels.pkl",
        lambda root, wanted: bool(pickles_in(root)),
        read_pickles,
    ),
    Layout(
        "CUB-200-2011",
        "images/ with images.txt, image_class_labels.txt and classes.txt",
        has_birds,
        read_birds,
    ),
    Layout(
        "CIFAR-FS",
        "data/CLASS/*.png with splits/bertinetto/train.txt",
        lambda root, wanted: bool(cifar_lists(root)) and (root / "data").is_dir(),
        read_cifar,
    ),
    Layout(
        "a list of images for each split, as of Ravi and Larochelle, LibFewShot or easyfsl",
        "images/ with train.csv, val.csv and test.csv",
        has_split_lists,
        read_split_lists,
    ),
    Layout(
        "one list of all images, as of Meta-Album",
        "images/ with labels.csv, or with a list that the argument table names",
        has_whole_list,
        read_whole_list,
    ),
    Layout(
        "folders of classes",
        "CLASS/*.png, or train/CLASS/*.png, val/CLASS/*.png, test/CLASS/*.png",
        has_folders,
        folders_of_classes,
    ),
)
"""In the order in which they are looked for."""
