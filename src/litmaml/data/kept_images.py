"""Images that are read from their files once, and then from one file for each split, which processes share."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from litmaml.data.image_source import ImageSource
from litmaml.data.images import ImageFormat, ImagePool
from litmaml.data.leakage import Copies
from litmaml.data.packed_pool import Damaged, PackedPool, write_pool
from litmaml.shown import first_line
from litmaml.tasks import Split

_RECIPE = 1
"""To be raised whenever the kept images change."""


class KeptImages(ImageSource):
    """The images of a source, kept as bytes once they were read, by their files' names, sizes and times.

    There is one file for each source, split and format. Where files have changed it is made anew, in the same place.

    Args:
        source: Where they come from.
        folder: Where they are kept.
        named: What the source was typed as: what is kept of others stays.
    """

    def __init__(self, source: ImageSource, folder: Path, named: str) -> None:
        super().__init__(source.layout)
        self.source, self.folder, self.named = source, folder, named
        self._marked = ""
        self._compared = False

    def counts(self, split: Split) -> dict[str, int]:
        return self.source.counts(split)

    def pieces(self, split: Split, image_format: ImageFormat) -> Iterator[Tensor]:
        return self.source.pieces(split, image_format)

    def channels(self, image_format: ImageFormat) -> int:
        return self.source.channels(image_format)

    def mark(self) -> str:
        self._marked = self._marked or self.source.mark()
        return self._marked

    def names(self, split: Split) -> Sequence[str]:
        return self.source.names(split)

    def compare(self, policy: Copies) -> None:
        self.source.compare(policy)

    def pool(self, split: Split, image_format: ImageFormat) -> ImagePool:
        kept = self._kept(split, image_format)
        return self.source.pool(split, image_format) if kept is None else kept.open()

    def keep(self, split: Split, image_format: ImageFormat) -> None:
        self._kept(split, image_format)

    def _kept(self, split: Split, image_format: ImageFormat) -> PackedPool | None:
        """The file with the images of a split, which is made if it is not there; None where it cannot be.

        Warns:
            UserWarning: The folder cannot be written to, or the disk is full.
        """
        path, key = self._place(split, image_format), self._key(image_format)
        if (found := _found(path, key)) is not None:
            return found
        counts = self.source.counts(split)
        if not counts:
            return None
        shape = (self.channels(image_format), image_format.size, image_format.size)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            needed, free = sum(counts.values()) * (shape[0] * shape[1] * shape[2] + 256), _free(self.folder)
            if needed > free:
                raise OSError(f"it takes {needed >> 20} MB and {free >> 20} MB are free")
            write_pool(path, counts, shape, self.source.pieces(split, image_format), self.source.names(split), key)
        except OSError as error:
            warnings.warn(
                f"cannot keep the images of the split {split} in {path} ({first_line(error)}); they are read from "
                "their files into each process: set cache_dir to a folder with room",
                stacklevel=2,
            )
            return None
        return _found(path, key)  # none if another process took the place for other splits

    def _place(self, split: Split, image_format: ImageFormat) -> Path:
        whose = f"{self.layout}\n{self.named}\n{_made(image_format)}"
        return self.folder / f"images-{hashlib.sha256(whose.encode()).hexdigest()[:16]}-{split}.safetensors"

    def _key(self, image_format: ImageFormat) -> str:
        text = f"{_RECIPE}\n{_made(image_format)}\n{self.mark()}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _made(image_format: ImageFormat) -> str:
    """What of a format makes the bytes what they are; the rest is done to bytes."""
    return f"{image_format.size} {image_format.channels} {image_format.fit} {image_format.white}"


def _found(path: Path, key: str) -> PackedPool | None:
    if not path.is_file():
        return None
    try:
        found = PackedPool(path)
    except Damaged:
        return None
    return found if found.key == key else None


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
