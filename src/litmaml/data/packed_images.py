"""A folder of packed images: one mapped file for each split, with an index and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from litmaml.data.image_source import TOGETHER, ImageSource
from litmaml.data.images import ImageFormat, ImagePool, compare_pools
from litmaml.data.leakage import Copies
from litmaml.data.packed_pool import Damaged, PackedPool, bytes_of, made_by, write_pool
from litmaml.runs.paths import check_new
from litmaml.runs.plain_files import NotPlain, read_json
from litmaml.shown import one_line
from litmaml.tasks import SPLITS, Split

_INDEX, _FORM = "index.json", "litmaml packed images 1"


def is_packed(root: Path) -> bool:
    """Whether a folder is one of packed images."""
    try:
        return _FORM in str(_index(root)["form"])
    except (NotPlain, KeyError, TypeError):
        return False


def pack_images(
    source: ImageSource,
    image_format: ImageFormat,
    output: Path,
    copies: Copies = "refuse",
    told: Callable[[Split, Iterator[Tensor], int], Iterator[Tensor]] = lambda split, pieces, images: pieces,
) -> dict[Split, dict[str, Any]]:
    """Writes the images of a source to a folder that is whole or not there.

    Args:
        source: The images.
        image_format: What they become.
        output: The folder; it must not exist, or be empty.
        copies: What is done about an image that stands in two classes or splits.
        told: What passes on the pieces of each split, to show how far it has come.

    Returns:
        Of each split: file, images, classes, bytes and sha256.

    Raises:
        FileExistsError: The folder has something in it.
        OSError: It cannot be written, or the disk is too small.
        ValueError: Images cannot be read, or stand in two splits.
    """
    check_new(output, str(output))
    counts = {split: found for split in SPLITS if (found := source.counts(split))}
    shape = (image_format.channels, image_format.size, image_format.size)
    output.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(bytes_of(each, shape) for each in counts.values())
    if needed > (free := shutil.disk_usage(output.parent).free):
        raise OSError(
            f"output: the packed images take {needed >> 20} MB, and {free >> 20} MB are free in {output.parent}; "
            "name a folder on another disk, or make images smaller by --image_format.size"
        )
    source.compare(copies)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        made, splits = Path(scratch) / output.name, dict[Split, dict[str, Any]]()
        pools: dict[Split, ImagePool] = {}
        for split, classes in counts.items():
            path, images = made / f"{split}.safetensors", sum(classes.values())
            pieces = told(split, source.pieces(split, image_format), images)
            write_pool(path, classes, shape, pieces, source.names(split), "")
            pools[split] = compare_pools(pools, split, PackedPool(path).open(), copies)
            splits[split] = {
                "file": path.name,
                "images": images,
                "classes": len(classes),
                "bytes": path.stat().st_size,
                "sha256": _sha256(path),
            }
        index = {"form": _FORM, "image_format": made_by(image_format), "layout": source.layout, "splits": splits}
        (made / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if output.is_dir():
            output.rmdir()
        os.replace(made, output)
    return splits


class PackedImages(ImageSource):
    """The images of a packed folder, mapped into memory.

    Args:
        root: The folder.

    Raises:
        ValueError: Its index is damaged, or a file is not the one that it names.
    """

    kept: ClassVar[bool] = True

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            index = _index(root)
            self._made_by: dict[str, Any] = dict(index["image_format"])
            self._sizes = {split: int(index["splits"][split]["bytes"]) for split in SPLITS if split in index["splits"]}
            self._sums = {split: str(index["splits"][split]["sha256"]) for split in self._sizes}
            layout = str(index["layout"])
        except (NotPlain, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"root: {root / _INDEX} is damaged ({one_line(error)[:100]}); pack the images anew"
            ) from error
        super().__init__(f"packed {layout}")
        self._pools = {split: self._opened(split) for split in self._sizes}

    def counts(self, split: Split) -> dict[str, int]:
        return self._pools[split].counts if split in self._pools else {}

    def names(self, split: Split) -> Sequence[str]:
        return self._pools[split].open().files

    def mark(self) -> str:
        return json.dumps(self._sums)

    def pieces(self, split: Split, image_format: ImageFormat) -> Iterator[Tensor]:
        pixels = self.pool(split, image_format).pixels
        yield from (pixels[first : first + TOGETHER] for first in range(0, len(pixels), TOGETHER))

    def pool(self, split: Split, image_format: ImageFormat) -> ImagePool:
        wanted = made_by(image_format)
        if other := [name for name, value in wanted.items() if self._made_by.get(name) != value]:
            name = other[0]
            raise ValueError(
                f"image_format.{name}: the images of {self.root} were packed with {one_line(self._made_by.get(name))}, "
                f"got {wanted[name]}; set it to that, or pack them anew with --image_format.{name}={wanted[name]}"
            )
        return self._pools[split].open()

    def verify(self) -> None:
        """Compare all files with their checksums.

        Raises:
            ValueError: A file is not what was packed.
        """
        for split, sum_ in self._sums.items():
            path = self._path(split)
            if (found := _sha256(path)) != sum_:
                raise ValueError(f"root: {path} is not what was packed, its SHA-256 is {found}; pack the images anew")

    def _path(self, split: Split) -> Path:
        return self.root / f"{split}.safetensors"  # and not what the index, which may be a stranger's, says

    def _opened(self, split: Split) -> PackedPool:
        path = self._path(split)
        try:
            if not path.is_file() or path.stat().st_size != self._sizes[split]:
                raise Damaged(f"has to be a file of {self._sizes[split]} bytes")
            return PackedPool(path)
        except Damaged as error:
            raise ValueError(f"root: {path} {error}; pack the images anew") from error


def _index(root: Path) -> Any:
    return read_json(root / _INDEX)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
