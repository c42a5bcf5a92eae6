"""Where the images of a set come from: files by class and split, or whatever else holds them."""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from litmaml.data.image_files import SUFFIXES
from litmaml.data.images import ImageFormat, ImagePool, lines, read_images
from litmaml.data.leakage import Copies, Pair, Place, copies, judge_copies
from litmaml.shown import listed
from litmaml.tasks import SPLITS, Split

TOGETHER = 1024
"""Images that are read at a time."""


class UnreadableImages(ValueError):
    """Images that cannot be read.

    Args:
        message: What is said where they are not left out.
        names: What they are called.
    """

    def __init__(self, message: str, names: Collection[str] = ()) -> None:
        super().__init__(message)
        self.names = names


class ImageSource(ABC):
    """The images of a set, by class of each split.

    Args:
        layout: What its layout is called, which results are stated with.
    """

    kept: ClassVar[bool] = False
    """Whether its images are bytes already that processes share."""

    def __init__(self, layout: str) -> None:
        self.layout = layout

    @abstractmethod
    def counts(self, split: Split) -> dict[str, int]:
        """How many images each class of a split has, in the order of the images."""

    @abstractmethod
    def pieces(self, split: Split, image_format: ImageFormat) -> Iterator[Tensor]:
        """The images of a split, class after class, some at a time: (m, C, size, size) uint8.

        Raises:
            UnreadableImages: Some cannot be read; they are named.
            ValueError: They cannot be used.
        """

    def channels(self, image_format: ImageFormat) -> int:
        """How many channels the images have here."""
        return image_format.channels

    @abstractmethod
    def mark(self) -> str:
        """A text that changes when the files do, from their names, sizes and times alone."""

    def names(self, split: Split) -> Sequence[str]:
        """What the images are called in errors; none where they have no names."""
        return ()

    def compare(self, policy: Copies) -> None:  # noqa: B027 - what is in no files is compared once it is read
        """Looks for the same file in two splits, also in those that are not read.

        Raises:
            ValueError: There is one, and the policy is to refuse it.
        """

    def leave_out(self, split: Split, names: Collection[str]) -> None:  # noqa: B027 - what is in no files is whole
        """Goes on without images that cannot be read.

        Raises:
            ValueError: A class has fewer than two others.
        """

    def missing(self, split: Split, pool: ImagePool) -> Sequence[str]:
        """What of a split is not among the images that were read of it, by name."""
        return ()

    def keep(self, split: Split, image_format: ImageFormat) -> None:  # noqa: B027 - most are kept by ``KeptImages``
        """Makes what ``pool`` opens, by one process for all."""

    def pool(self, split: Split, image_format: ImageFormat) -> ImagePool:
        """The images of a split in memory."""
        counts = self.counts(split)
        shape = (sum(counts.values()), self.channels(image_format), image_format.size, image_format.size)
        pixels, done = torch.empty(shape, dtype=torch.uint8), 0
        for piece in self.pieces(split, image_format):
            pixels[done : done + len(piece)] = piece
            done += len(piece)
        labels = [k for k, count in enumerate(counts.values()) for _ in range(count)]
        return ImagePool.of(pixels, labels, [*counts], self.names(split))


class ImageFiles(ImageSource):
    """Images in files.

    Args:
        layout: What its layout is called.
        root: The folder, for errors.
        files: Their paths by class of each split; a split that is left out has no classes.

    Raises:
        ValueError: A class has fewer than two images; all such classes are named.
    """

    def __init__(self, layout: str, root: str | Path, files: Mapping[Split, Mapping[str, Sequence[Path]]]) -> None:
        super().__init__(layout)
        _check_counts(root, [*files.values()])
        self.root = root
        self.files = {split: files.get(split, {}) for split in SPLITS}
        self._found = self.files
        _warn_of_case(self.files)

    def counts(self, split: Split) -> dict[str, int]:
        return {name: len(members) for name, members in self.files[split].items()}

    def names(self, split: Split) -> Sequence[str]:
        return [str(file) for members in self.files[split].values() for file in members]

    def mark(self) -> str:
        parts = []
        for split, classes in self.files.items():
            for name, members in classes.items():
                stats = [(file.name, os.stat(file)) for file in members]
                parts += [f"{split}/{name}/{file}:{stat.st_size}:{stat.st_mtime_ns}" for file, stat in stats]
        return "\n".join(parts)

    def pieces(self, split: Split, image_format: ImageFormat) -> Iterator[Tensor]:
        names, errors = self.names(split), dict[str, str]()
        for first in range(0, len(names), TOGETHER):
            pixels, found = read_images({name: name for name in names[first : first + TOGETHER]}, image_format)
            errors |= found
            if not errors:
                yield pixels
        if errors:
            raise UnreadableImages(
                f"{len(errors)} images of the split {split} cannot be used, mend or remove them:\n"
                + lines([*errors.values()]),
                errors,
            )

    def leave_out(self, split: Split, names: Collection[str]) -> None:
        gone = {*names}
        read = {
            label: [file for file in members if str(file) not in gone] for label, members in self.files[split].items()
        }
        _check_counts(self.root, [read])
        self.files = {**self.files, split: read}

    def missing(self, split: Split, pool: ImagePool) -> Sequence[str]:
        found = [str(file) for members in self._found[split].values() for file in members]
        if len(found) == len(pool.pixels):
            return ()
        read = {*pool.files}
        return [name for name in found if name not in read]

    def compare(self, policy: Copies) -> None:
        places = [
            Place(split, name, str(file))
            for split, classes in self.files.items()
            for name, members in classes.items()
            for file in members
        ]
        sizes = [os.path.getsize(place.name) for place in places]
        often = Counter(sizes)
        alike = [place for place, size in zip(places, sizes, strict=True) if often[size] > 1]
        pairs = [Pair(*pair) for pair in copies({}, (_content(place.name) for place in alike), alike)]
        judge_copies([pair for pair in pairs if pair.first.split != pair.again.split], len(places), policy)


def _content(file: str) -> bytes:
    with open(file, "rb", buffering=0) as opened:
        return hashlib.sha1(opened.read(), usedforsecurity=False).digest()


def _warn_of_case(splits: Mapping[Split, Mapping[str, Sequence[Path]]]) -> None:
    """Tells of classes of two splits whose names differ in case only."""
    seen: dict[str, tuple[str, str]] = {}
    for split, classes in splits.items():
        for name in classes:
            first = seen.setdefault(name.casefold(), (name, split))
            if first[1] != split and first[0] != name:
                warnings.warn(
                    f"the classes {first[0]} ({first[1]}) and {name} ({split}) differ in case only: if they are one "
                    "class, give them to one split, or results will be too good",
                    stacklevel=2,
                )


def _check_counts(root: str | Path, splits: Sequence[Mapping[str, Sequence[Path]]]) -> None:
    """Refuses classes with fewer than two images, all of them at once."""
    counts = {name: len(files) for classes in splits for name, files in classes.items()}
    empty = [name for name, count in counts.items() if count == 0]
    single = [name for name, count in counts.items() if count == 1]
    if empty or single:
        raise ValueError(
            f"root={root}: each class needs at least 2 images ({', '.join(SUFFIXES)}), one for support "
            f"and one for the query"
            + (f"; without any: {listed(empty)}" if empty else "")
            + (f"; with one only: {listed(single)}" if single else "")
        )
