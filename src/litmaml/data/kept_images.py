"""Images that are read from their files once, and then from one file for each split, which processes share."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from litmaml.data.image_source import ImageSource
from litmaml.data.images import ImageFormat, ImagePool
from litmaml.data.leakage import Copies
from litmaml.data.packed_pool import Damaged, PackedPool, bytes_of, made_by, write_pool
from litmaml.shown import first_line
from litmaml.tasks import SPLITS, Split

_RECIPE = 1
"""To be raised whenever the kept images change."""


class KeptImages(ImageSource):
    """The images of a source, kept as bytes once they were read, by their files' names, sizes and times.

    There is one file for each source, split and format. Where files have changed it is made anew, in the same place.

    Args:
        source: Where they come from.
        folder: Where they are kept.
        named: The folder that they come from: what is kept of others stays.
        image_format: What they become.
        policy: What is done about an image that stands in two splits: what is kept was compared.
    """

    def __init__(
        self, source: ImageSource, folder: Path, named: str, image_format: ImageFormat, policy: Copies
    ) -> None:
        super().__init__(source.layout)
        self.source, self.folder, self.named = source, folder, named
        self.image_format, self.policy = image_format, policy
        self._marked, self._compared = "", False

    def counts(self, split: Split) -> dict[str, int]:
        found = self._found(split)
        return self.source.counts(split) if found is None else found.counts

    def pieces(self, split: Split, image_format: ImageFormat) -> Iterator[Tensor]:
        return self.source.pieces(split, image_format)

    def channels(self, image_format: ImageFormat) -> int:
        return self.source.channels(image_format)

    def mark(self) -> str:
        self._marked = self._marked or self.source.mark()
        return self._marked

    def names(self, split: Split) -> Sequence[str]:
        return self.source.names(split)

    def leave_out(self, split: Split, names: Collection[str]) -> None:
        self.source.leave_out(split, names)

    def missing(self, split: Split, pool: ImagePool) -> Sequence[str]:
        return self.source.missing(split, pool)

    def compare(self, policy: Copies) -> None:
        kept = policy == "refuse" and any(self._found(split) is not None for split in SPLITS)
        if not kept and not self._compared:
            self.source.compare(policy)
            self._compared = True

    def pool(self, split: Split, image_format: ImageFormat) -> ImagePool:
        kept = self._kept(split)
        return self.source.pool(split, image_format) if kept is None else kept.open()

    def keep(self, split: Split, image_format: ImageFormat) -> None:
        self._kept(split)

    def _kept(self, split: Split) -> PackedPool | None:
        """The file with the images of a split, which is made if it is not there; None where it cannot be.

        Warns:
            UserWarning: The folder cannot be written to, or the disk is full.
        """
        if (found := self._found(split)) is not None:
            return found
        if not (counts := self.source.counts(split)):
            return None
        self.compare(self.policy)
        path, size = self._path(split), self.image_format.size
        shape = (self.channels(self.image_format), size, size)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            needed, free = bytes_of(counts, shape), shutil.disk_usage(self.folder).free
            if needed > free:
                raise OSError(f"it takes {needed >> 20} MB and {free >> 20} MB are free")
            pieces = self.source.pieces(split, self.image_format)
            write_pool(path, counts, shape, pieces, self.source.names(split), self._key())
        except OSError as error:
            warnings.warn(
                f"cannot keep the images of the split {split} in {path} ({first_line(error)}); they are read from "
                "their files into each process: set cache_dir to a folder with room",
                stacklevel=2,
            )
            return None
        return self._found(split)  # none if another process took the place for other splits

    def _found(self, split: Split) -> PackedPool | None:
        path = self._path(split)
        if not path.is_file():
            return None
        try:
            found = PackedPool(path)
        except Damaged:
            return None
        return found if found.key == self._key() else None

    def _path(self, split: Split) -> Path:
        whose = f"{self.layout}\n{self.named}\n{made_by(self.image_format)}"
        return self.folder / f"images-{_hash(whose)[:16]}-{split}.safetensors"

    def _key(self) -> str:
        return _hash(f"{_RECIPE}\n{made_by(self.image_format)}\n{self.policy}\n{self.mark()}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
