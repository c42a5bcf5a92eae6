"""Small random affine changes of images, batched, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

AFFINE_NUMBERS = 5
"""How many random numbers one change takes: rotation, scale, shear, shift in x and in y."""

# The largest change at strength 1: radians, logarithm of the scale, shear, and shift in half image widths.
_LIMITS = (math.radians(15), math.log(1.15), 0.15, 0.16, 0.16)


def sent(made: Tensor, device: torch.device) -> Tensor:
    """Numbers that were made here, on the device: to make them on a GPU is to wait for all that it has been given."""
    return made.to(device, non_blocking=True)


def random_affine(images: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """Turns, scales, shears and shifts every image by its own random numbers.

    A point p of the new image, in coordinates from -1 to 1, shows the point A p + t of the old one, where
    A = scale * rotation * [[1, shear], [0, 1]]. What lies outside repeats the border. Bilinear.

    Args:
        images: (..., C, H, W) floats.
        uniform: (..., 5) random numbers in [0, 1); 0.5 changes nothing.
        strength: 1: up to 15 degrees, 15 % of scale and shear, and a shift of 8 % of the width; in
            proportion.
    """
    limits = sent(torch.tensor(_LIMITS, dtype=images.dtype), uniform.device)
    amounts = (2 * uniform.to(images.dtype) - 1) * limits * strength
    angle, log_scale, shear, right, down = amounts.flatten(0, -2).unbind(-1)
    cos, sin = log_scale.exp() * angle.cos(), log_scale.exp() * angle.sin()
    matrix = torch.stack([cos, cos * shear - sin, right, sin, sin * shear + cos, down], -1).view(-1, 2, 3)
    flat = images.flatten(0, -4)
    grid = functional.affine_grid(matrix, list(flat.shape), align_corners=False)
    return functional.grid_sample(flat, grid, padding_mode="border", align_corners=False).view_as(images)
