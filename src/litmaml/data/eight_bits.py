"""Pictures of any kind as 8-bit grey or colour, by one rule for all files of a kind."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2
_REMEDY = "set image_format.white to the value that is white (255, 4095, 65535, ...), or save the images with 8 bits"


def eight_bits(opened: Image.Image, mode: Literal["L", "RGB"], white: float | None) -> Image.Image:
    """The picture upright, on white where it is transparent, without a palette, in 8 bits per channel.

    No file is stretched to its own darkest and brightest value: equal values become equal bytes in all files of a
    kind. Of deep grey files, value x becomes 255 x / white, where white is

        1                  in files of floats
        2^b - 1            in files of unsigned b-bit numbers, b from 9 to 16
        not to be told     in files of 32-bit or signed numbers: they hold 8-bit as well as 16-bit pictures

    if it is not given.

    Args:
        opened: What ``Image.open`` gave.
        mode: Grey or colour.
        white: The value that is white in grey files of more than 8 bits.

    Raises:
        ValueError: Values lie outside [0, white], are none, are too small for white to be right, or white cannot be
            told.
    """
    tags: dict[int, Any] = getattr(opened, "tag_v2", {})
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith(("I", "F")):
        values = _values(image, tags)
        grey = _scaled(values, _white(image.mode, opened.format, tags) if white is None else white)
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            grey = 255 - grey  # Pillow inverts 8-bit files only
        if (clear := image.info.get("transparency")) is not None:
            grey[values == clear] = 255
        return Image.fromarray(grey).convert(mode)
    if _SIGNED in _sample_formats(tags):
        raise ValueError("its 8-bit numbers are signed, and -1 would be read as white; save them unsigned")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    # By way of colour: Pillow knows no way from these to grey.
    return (image.convert("RGB") if image.mode in ("LAB", "HSV") else image).convert(mode)


def _values(image: Image.Image, tags: dict[int, Any]) -> NDArray[np.float64]:
    numbers = np.asarray(image)
    if image.mode == "I" and tags and tags.get(_BITS) == (32,) and _SIGNED not in _sample_formats(tags):
        numbers = numbers.view(np.uint32)  # Pillow reads them as signed
    return numbers.astype(np.float64)


def _white(mode: str, kind: str | None, tags: dict[int, Any]) -> float | None:
    """The value that is white by the file's kind; None if that does not say it."""
    if mode == "F":
        return 1.0
    if mode == "I":
        return None if kind == "TIFF" else 65535.0  # 16-bit PNG and PGM are scaled to this range
    (bits,) = tags.get(_BITS, (16,))
    return float(2**bits - 1)


def _scaled(values: NDArray[np.float64], white: float | None) -> NDArray[np.uint8]:
    """255 values / white, rounded.

    Raises:
        ValueError: see ``eight_bits``.
    """
    if not np.isfinite(values).all():
        raise ValueError("some of its values are NaN or infinite; save it without")
    low, high = values.min(), values.max()
    found = f"its values go from {low:g} to {high:g}"
    if white is None:
        raise ValueError(f"{found} in 32-bit or signed numbers, which do not say what is white; {_REMEDY}")
    bytes_ = np.rint(values * (255 / white))
    if bytes_.min() < 0 or bytes_.max() > 255:
        raise ValueError(f"{found}, and not from 0, black, to {white:g}, white; {_REMEDY}")
    if high > 0 and bytes_.max() <= 1:
        raise ValueError(f"{found}, which is all black where {white:g} is white; {_REMEDY}")
    return bytes_.astype(np.uint8)


def _sample_formats(tags: dict[int, Any]) -> tuple[int, ...]:
    formats: tuple[int, ...] = tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))
    return formats
