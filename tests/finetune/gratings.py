"""Pictures of gratings: classes that are easy to tell apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def grating(turn: float, seed: int) -> Image.Image:
    """Stripes of a direction with noise: easy to tell apart, no two pictures the same."""
    stream = np.random.default_rng([seed, int(turn * 1000)])
    y, x = np.mgrid[:32, :32]
    wave = np.sin(0.8 * (x * math.cos(turn) + y * math.sin(turn)) + stream.uniform(0, 6))
    return Image.fromarray(np.clip(127 + 80 * wave + stream.normal(0, 20, wave.shape), 0, 255).astype(np.uint8))


def draw(folder: Path, names: Sequence[str], each: int, seed: int = 0) -> Path:
    """A folder of images of these classes; a class's look depends on its place among the names."""
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            grating(math.pi * k / len(names), seed + i).save(folder / name / f"{i}.png")
    return folder
