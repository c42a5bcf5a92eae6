"""A split's images in one file that is mapped into memory: opened at once, and held once by all of a machine."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from litmaml.data.images import ImageFormat, ImagePool
from litmaml.data.leakage import prints_of

_FORM = "1"
"""To be raised whenever the file's form changes."""


class Damaged(ValueError):
    """A file that is no pool of images; the message goes on after its name."""


def made_by(image_format: ImageFormat) -> dict[str, Any]:
    """What of a format makes the bytes what they are; the rest is done to bytes."""
    return {name: getattr(image_format, name) for name in ("size", "channels", "fit", "white")}


def bytes_of(counts: dict[str, int], shape: Sequence[int]) -> int:
    """What the file of so many images of a shape takes at the most, with names of 200 letters."""
    return sum(counts.values()) * (int(np.prod(shape)) + 256) + (1 << 16)


def write_pool(
    path: Path, counts: dict[str, int], shape: Sequence[int], pieces: Iterable[Tensor], names: Sequence[str], key: str
) -> None:
    """Writes the images of a split, as they come, to a safetensors file that is whole or not there.

    Only one piece is in memory at a time. The file holds ``pixels`` (M, C, H, W), what the images are compared by,
    ``prints`` (M, 20), and ``names``, separated by zeros; its metadata say how many images of which class follow each
    other.

    Args:
        path: The file. Missing folders are made.
        counts: How many images each class has, in the order of the images.
        shape: C, H and W.
        pieces: The images, in order.
        names: What they are called in errors; none where they have no names.
        key: What they were made of, to be compared with when they are opened.

    Raises:
        OSError: It cannot be written.
        ValueError: The pieces are of another number or shape.
    """
    images, named = sum(counts.values()), "\0".join(names).encode("utf-8", "surrogateescape")
    parts = {"pixels": [images, *shape], "prints": [images, 20], "names": [len(named)]}
    header: dict[str, Any] = {"__metadata__": {"form": _FORM, "classes": json.dumps(counts), "key": key}}
    place = 0
    for name, sizes in parts.items():
        end = place + int(np.prod(sizes))
        header[name] = {"dtype": "U8", "shape": sizes, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4096 + 4096 - 8)  # the images begin where a page of memory does
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as folder:
        made, prints, done = Path(folder) / path.name, [], 0
        with made.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for piece in pieces:
                if piece.dtype != torch.uint8 or [*piece.shape[1:]] != [*shape]:
                    raise ValueError(f"images have to be bytes {tuple(shape)}, got {piece.dtype} {tuple(piece.shape)}")
                piece.contiguous().numpy().tofile(file)
                prints.append(prints_of(piece))
                done += len(piece)
            if done != images:
                raise ValueError(f"there are {done} images in place of {images}")
            file.write(b"".join(each.tobytes() for each in prints) + named)
        os.replace(made, path)


class PackedPool:
    """A file that ``write_pool`` made, of which nothing but its header is read at first.

    Args:
        path: The file.

    Raises:
        Damaged: It is no such file, or says of itself what cannot be.
    """

    def __init__(self, path: Path) -> None:
        try:
            file: Any = safe_open(path, framework="pt")  # typed without its methods
            metadata = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in ("pixels", "prints", "names")}
            kinds = {file.get_slice(name).get_dtype() for name in shapes}
            form, self.key, counts = metadata["form"], metadata["key"], json.loads(metadata["classes"])
        except Exception as error:  # on a header that lies it raises almost any
            raise Damaged(f"is no pool of images, or is damaged ({str(error)[:100]})") from error
        if form != _FORM:
            raise Damaged(f"is of the form {form[:20]!r}, which this version does not read")
        if not isinstance(counts, dict) or not all(type(count) is int and count > 0 for count in counts.values()):
            raise Damaged("does not say which images are of which class")
        images = sum(counts.values())
        if kinds != {"U8"} or len(shapes["pixels"]) != 4 or shapes["pixels"][0] != images:
            raise Damaged(f"does not hold the {images} images that it says")
        if shapes["prints"] != [images, 20]:
            raise Damaged("does not hold what its images are compared by")
        self.path, self.counts = path, counts
        self._file = file  # and not what may have taken its place by the time that it is opened

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedPool, (self.path,)

    def open(self) -> ImagePool:
        """The images, mapped into memory: read from the disk where and when they are looked at."""
        pixels, prints, names = (self._file.get_tensor(name) for name in ("pixels", "prints", "names"))
        labels = np.repeat(np.arange(len(self.counts)), [*self.counts.values()])
        pool = _Mapped.of(pixels, labels, [*self.counts], _Names(names), prints.numpy())
        object.__setattr__(pool, "place", (self.path, self.key))
        return pool


class _Mapped(ImagePool):
    """A pool that another process maps itself, where it is handed over."""

    place: tuple[Path, str]
    """The file, and what its images were made of."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped_again, self.place


def _mapped_again(path: Path, key: str) -> ImagePool:
    found = PackedPool(path)
    if found.key != key:
        raise Damaged(f"{path} was replaced while it was in use; begin again")
    return found.open()


class _Names(Sequence[str]):
    """Names that are only taken apart when one is asked for, which is in errors."""

    def __init__(self, joined: Tensor) -> None:
        self._joined = joined

    def _apart(self) -> list[str]:
        return self._joined.numpy().tobytes().decode("utf-8", "surrogateescape").split("\0")

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        return self._apart()[place]

    def __len__(self) -> int:
        return len(self._apart()) if len(self._joined) else 0
