"""Opening image files that somebody else made: kinds, sizes and memory are bounded before pixels are unpacked."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock
from typing import BinaryIO

from PIL import Image, ImageFile, ImageOps

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Told by a file's content. Pillow knows 40 others, among them PostScript, which it has Ghostscript run."""

_LARGE = 1 << 24
"""Pixels from which an image is shrunk strip by strip, or while it is decoded, so that it is held once."""
_MOST_BYTES = 384 << 20
"""Of one unpacked image."""
_LARGEST_FILE = 512 << 20
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}
"""Of a pixel, where it is not four."""
_MOST_SCANS = 100
"""Of a progressive JPEG, each of which goes over the whole image; cameras and programs make about ten."""
_opening = Lock()


class _Memory:
    """A budget of bytes that threads share; what is larger than all of it waits until it is alone."""

    def __init__(self, total: int) -> None:
        self._total, self._used, self._freed = total, 0, Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        with self._freed:
            self._freed.wait_for(lambda: self._used == 0 or self._used + size <= self._total)
            self._used += size
        try:
            yield
        finally:
            with self._freed:
                self._used -= size
                self._freed.notify_all()


_memory = _Memory(max(_MOST_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 16))


Flat = Callable[[Image.Image], Image.Image]


def unpack(source: str | Path | BinaryIO, size: int, flattening: Callable[[Image.Image], Flat]) -> Image.Image:
    """The image in a file, upright and without transparency, large ones made smaller.

    Args:
        source: A path or an open file.
        size: The height and width in pixels that are wanted in the end.
        flattening: What gives, for an opened image, what takes transparency, palette and depth away from any part.

    Raises:
        OSError: It is no image of the kinds that are read, or is damaged.
        ValueError: It is too large.
    """
    if isinstance(source, str | Path):
        if Path(source).exists() and not Path(source).is_file():  # a pipe, at which one would wait
            raise ValueError("it is no file")
        if Path(source).stat().st_size > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE >> 20} MB")
    with _open(source) as opened:
        coefficients = _coefficients(opened)
        if opened.format == "JPEG" and opened.width * opened.height > _LARGE:
            opened.draft(None, (4 * size, 4 * size))  # decodes an eighth, a quarter or a half of it
        pixels = opened.width * opened.height
        needed = pixels * (12 if opened.format == "WEBP" else _BYTES.get(opened.mode, 4)) + coefficients
        if needed > _MOST_BYTES:
            raise ValueError(f"{opened.width} x {opened.height} pixels are too many to unpack safely")
        if coefficients and _scans(opened) > _MOST_SCANS:
            raise ValueError(f"it has more than {_MOST_SCANS} scans")
        if pixels <= _LARGE:
            with _memory.hold(2 * needed):
                return flattening(opened)(ImageOps.exif_transpose(opened))
        with _memory.hold(needed):
            small = _shrunk(opened, max(1, min(opened.width, opened.height) // (4 * size)), flattening(opened))
            small.info["exif"] = opened.info.get("exif", b"")
            return ImageOps.exif_transpose(small)


def _open(source: str | Path | BinaryIO) -> ImageFile.ImageFile:
    # Pillow warns of many pixels, which are looked at here. Filters are of all threads; opening reads a header only.
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(source, formats=_FORMATS)


def _coefficients(image: ImageFile.ImageFile) -> int:
    """Bytes of the coefficients that a progressive JPEG is held by until its last scan."""
    if image.format != "JPEG" or not image.info.get("progressive"):
        return 0
    samples = [across * down for _, across, down, _ in getattr(image, "layer", ())] or [1]
    return int(2 * image.width * image.height * sum(samples) / max(samples))


def _scans(image: ImageFile.ImageFile) -> int:
    file = image.fp
    assert file is not None
    place, count = file.tell(), 0
    file.seek(0)
    while (piece := file.read(1 << 20)) and count <= _MOST_SCANS:
        count += piece.count(b"\xff\xda")
    file.seek(place)
    return count


def _shrunk(image: ImageFile.ImageFile, factor: int, flat: Flat) -> Image.Image:
    """The image by the means of factor x factor pixels, made flat strip by strip."""
    image.load()
    rows = factor * max(1, (1 << 22) // (factor * image.width))
    strips = [
        flat(image.crop((0, top, image.width, min(top + rows, image.height)))).reduce(factor)
        for top in range(0, image.height, rows)
    ]
    whole = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    return whole
