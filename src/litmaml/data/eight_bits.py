"""Pictures of any kind as 8-bit grey or colour, by one rule for all files of a kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2
_REMEDY = "set image_format.white to the value that is white (255, 4095, 65535, ...), or save the images with 8 bits"


def flattening(
    opened: Image.Image, mode: Literal["L", "RGB"], white: float | None
) -> Callable[[Image.Image], Image.Image]:
    """What makes a picture 8 bits per channel, without a palette and on white where it is transparent.

    It takes the whole picture or any part of it, and gives the same bytes for both. No file is stretched to its own
    darkest and brightest value: equal values become equal bytes in all files of a kind. Of deep grey files, value x
    becomes 255 x / white, where white is

        1                  in files of floats
        2^b - 1            in files of unsigned b-bit numbers, b from 9 to 16
        not to be told     in files of 32-bit or signed numbers: they hold 8-bit as well as 16-bit pictures

    if it is not given.

    Args:
        opened: What ``Image.open`` gave; of a deep file it is decoded.
        mode: Grey or colour.
        white: The value that is white in grey files of more than 8 bits.

    Raises:
        ValueError: Values lie outside [0, white], are none, are too small for white to be right, or white cannot be
            told.
    """
    tags: dict[int, Any] = getattr(opened, "tag_v2", {})
    signed = _SIGNED in tags.get(_SAMPLE_FORMAT, ())
    if opened.mode.startswith(("I", "F")):
        unsigned = opened.mode == "I" and tags.get(_BITS) == (32,) and not signed  # Pillow reads them as signed
        scale = _Scale(_white(opened.mode, opened.format, tags) if white is None else white, unsigned)
        inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # Pillow inverts 8-bit files only
        scale.check(opened)
        return lambda image: scale.grey(image, inverted).convert(mode)
    if signed:
        raise ValueError("its 8-bit numbers are signed, and -1 would be read as white; save them unsigned")
    return lambda image: _on_white(image, mode)


def _on_white(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    # By way of colour: Pillow knows no way from these to grey.
    return (image.convert("RGB") if image.mode in ("LAB", "HSV") else image).convert(mode)


def _white(mode: str, kind: str | None, tags: dict[int, Any]) -> float | None:
    """The value that is white by the file's kind; None if that does not say it."""
    if mode == "F":
        return 1.0
    if mode == "I":
        return None if kind == "TIFF" else 65535.0  # 16-bit PNG and PGM are scaled to this range
    (bits,) = tags.get(_BITS, (16,))
    return float(2**bits - 1)


@dataclass(frozen=True)
class _Scale:
    """How the values of a deep grey file become bytes.

    Args:
        white: The value that becomes 255; None if it is not to be told.
        unsigned: Whether 32-bit numbers have no sign.
    """

    white: float | None
    unsigned: bool

    def check(self, opened: Image.Image) -> None:
        """Refuse a file that is not black to white on this scale.

        Raises:
            ValueError: With its darkest and brightest value.
        """
        values = self._values(opened)
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise ValueError("some of its values are NaN or infinite; save it without")
        found = f"its values go from {low:g} to {high:g}"
        if self.white is None:
            raise ValueError(f"{found} in 32-bit or signed numbers, which do not say what is white; {_REMEDY}")
        darkest, brightest = np.rint(np.array([low, high]) * (255 / self.white))
        if darkest < 0 or brightest > 255:
            raise ValueError(f"{found}, and not from 0, black, to {self.white:g}, white; {_REMEDY}")
        if high > 0 and brightest <= 1:
            raise ValueError(f"{found}, which is all black where {self.white:g} is white; {_REMEDY}")

    def grey(self, image: Image.Image, inverted: bool) -> Image.Image:
        """The picture, or a part of it, in grey of 8 bits."""
        assert self.white is not None
        values = self._values(image)
        grey = np.rint(values * (255 / self.white)).astype(np.uint8)
        if inverted:
            grey = 255 - grey
        if (clear := image.info.get("transparency")) is not None:
            grey[values == clear] = 255
        return Image.fromarray(grey)

    def _values(self, image: Image.Image) -> NDArray[Any]:
        numbers = np.asarray(image)
        return numbers.view(np.uint32) if self.unsigned else numbers
