"""Random changes of images as photographs differ anyway: where they are cut, which way they face, and in what light."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litmaml.shown import spelled

AUGMENT_NUMBERS = 6
"""How many random numbers one image takes: place down and across, flip, brightness, contrast, saturation."""


@dataclass(frozen=True, repr=False)
class Augment:
    """Random changes of each training image; without any by default.

    Each image of each use is changed by its own random numbers, which are a function of the seed and the task's number.

    Args:
        crop: The image is moved up or down, left or right by up to so many pixels, as if it were padded by them and cut
            again at random; what comes in repeats the border. The literature takes 8 of 84 pixels, 4 of 32.
        flip: Whether half of the images are mirrored, left to right.
        colour: Strength c of changes of brightness, contrast and saturation, in this order: each weighs the image by
            its own f from [1 - c, 1 + c], and by 1 - f black, its mean grey, and its own greys: f x + (1 - f) y, kept
            between 0 and 1. The literature takes 0.4. A grey image has no saturation to change. It is done to the
            image as it is in its file, before ``invert``, ``mean`` and ``std``.

    Raises:
        ValueError: if a number is out of its range.
    """

    crop: int = 0
    flip: bool = False
    colour: float = 0.0

    def __repr__(self) -> str:
        return spelled(self)

    def __post_init__(self) -> None:
        if type(self.crop) is not int or self.crop < 0:
            raise ValueError(
                f"augment.crop: has to be a whole number of pixels, 0 or more, got {self.crop}; give 8, say"
            )
        if not 0 <= self.colour <= 1:
            raise ValueError(
                f"augment.colour: must lie between 0 (none) and 1, got {self.colour}; give one such as 0.4"
            )

    def __call__(self, pixels: Tensor, uniform: Tensor) -> Tensor:
        """The images, changed.

        Args:
            pixels: (..., C, H, W) bytes.
            uniform: (..., 6) random numbers in [0, 1).

        Returns:
            As many: bytes, or with ``colour`` floats from 0 to 1 of torch's default dtype.
        """
        down, across, flip, *light = uniform.unbind(-1)
        if self.crop or self.flip:
            width = 2 * self.crop + 1
            down, across = ((number * width).floor().long() - self.crop for number in (down, across))
            pixels = moved(pixels, down, across, flip < 0.5 if self.flip else torch.zeros_like(flip, dtype=torch.bool))
        if self.colour:
            images = pixels / 255
            pixels = recoloured(images, *(1 + self.colour * (2 * number.to(images.dtype) - 1) for number in light))
        return pixels


UNCHANGED = Augment()


def moved(pixels: Tensor, down: Tensor, across: Tensor, flip: Tensor) -> Tensor:
    """Images cut at another place, then mirrored. What lies outside repeats the border.

    Args:
        pixels: (..., C, H, W) of any dtype.
        down: (...) by how many rows the place lies below the image.
        across: (...) by how many columns it lies to the right.
        flip: (...) which of them are mirrored.
    """
    *_, channels, height, width = pixels.shape
    rows, columns = (torch.arange(size, device=pixels.device) for size in (height, width))
    rows = (rows + down[..., None]).clamp(0, height - 1)
    columns = torch.where(flip[..., None], width - 1 - columns, columns)
    columns = (columns + across[..., None]).clamp(0, width - 1)
    # One gather for both directions, four times as fast as indexing by rows and columns.
    places = (rows[..., :, None] * width + columns[..., None, :]).flatten(-2)[..., None, :]
    return pixels.flatten(-2).gather(-1, places.expand(*places.shape[:-2], channels, -1)).view_as(pixels)


def recoloured(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Images with more or less light, contrast and colour, by torchvision's formulas.

    Args:
        images: (..., C, H, W) floats from 0 to 1.
        brightness: (...) factors of brightness; 1 changes nothing, 0 gives black.
        contrast: (...) factors of contrast; 0 gives the mean grey.
        saturation: (...) factors of saturation; 0 gives greys.
    """
    brightness, contrast, saturation = (each[..., None, None, None] for each in (brightness, contrast, saturation))
    # In place where it can be: new memory costs more than the arithmetic.
    images = (images * brightness).clamp_(0, 1)
    mean = _grey(images).mean((-2, -1), keepdim=True)
    images.mul_(contrast).add_((1 - contrast) * mean).clamp_(0, 1)
    if images.shape[-3] == 1:
        return images
    grey = _grey(images)
    return images.mul_(saturation).add_(grey.mul_(1 - saturation)).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    """Grey ones (..., 1, H, W) of grey or coloured images, by the weights that torchvision rounds ITU-R BT.601 to."""
    if images.shape[-3] == 1:
        return images
    red, green, blue = images.unbind(-3)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(-3)
