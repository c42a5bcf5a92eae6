"""Images with a mask each, in files: which mask belongs to which image, and both as bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from litmaml.data.image_files import images_in
from litmaml.data.image_source import ImageFiles
from litmaml.data.images import ImageFormat
from litmaml.data.shared_out import composed
from litmaml.data.unpacking import unpack
from litmaml.shown import listed, one_line
from litmaml.tasks import Split

_MASK = 255
"""A byte of the class's pixels in a pool; other pixels are 0."""


class MaskedFiles(ImageFiles):
    """Images in files, each with a mask in another one: a pool has the mask as its last channel.

    Args:
        layout: What its layout is called.
        root: The folder, for errors.
        files: The images' paths by class of each split.
        masks: The mask of each image.
        foreground: The value of the class's pixels in a mask; None: 128 and more.
    """

    def __init__(
        self,
        layout: str,
        root: str | Path,
        files: Mapping[Split, Mapping[str, Sequence[Path]]],
        masks: Mapping[Path, Path],
        foreground: int | None,
    ) -> None:
        super().__init__(f"{layout} with masks", root, files)
        self.masks, self.foreground = masks, foreground

    def channels(self, image_format: ImageFormat) -> int:
        return image_format.channels + 1

    def mark(self) -> str:
        stats = [f"{path}:{(stat := os.stat(path)).st_size}:{stat.st_mtime_ns}" for path in self.masks.values()]
        return "\n".join([super().mark(), str(self.foreground), *stats])

    def pieces(self, split: Split, image_format: ImageFormat) -> Iterator[Tensor]:
        names, done = self.names(split), 0
        for pixels in super().pieces(split, image_format):
            files = [self.masks[Path(name)] for name in names[done : done + len(pixels)]]
            done += len(pixels)
            masks = torch.stack([read_mask(file, image_format, self.foreground) for file in files])
            yield torch.cat([pixels, masks], dim=1)


def read_mask(path: Path, image_format: ImageFormat, foreground: int | None) -> Tensor:
    """The mask in a file as (1, size, size) uint8, 255 where the class is, scaled without values in between.

    Args:
        path: The file.
        image_format: Of the image that it belongs to.
        foreground: The value of the class's pixels, in files with a palette its index; None: 128 and more.

    Raises:
        ValueError: Naming the file, if it cannot be read.
    """
    try:
        image = unpack(path, image_format.size, lambda opened: lambda part: part)
        if foreground is None or image.mode not in ("L", "P"):
            image = image.convert("L")
        scaled = ImageOps.fit if image_format.fit == "crop" else Image.Image.resize
        values = np.array(scaled(image, (image_format.size, image_format.size), Image.Resampling.NEAREST))
    except Exception as error:  # Pillow raises almost any on a broken file
        raise ValueError(f"masks: cannot read {one_line(path)}: {error}; save it as a grey PNG of 8 bits") from error
    found = values >= 128 if foreground is None else values == foreground
    return torch.from_numpy(found.astype(np.uint8) * _MASK).unsqueeze(0)


def with_masks(files: ImageFiles, root: Path, folder: str | None, foreground: int | None) -> MaskedFiles:
    """Images with the mask of each: the file of its name in another folder, or the PNG of its name beside it.

    Args:
        files: The images; where masks lie beside them, with the masks.
        root: The folder with everything.
        folder: The one in it with the masks, in which they lie as the images do in images/; None: beside them.
        foreground: The value of the class's pixels in a mask; None: 128 and more.

    Raises:
        ValueError: Images have no mask; at most three are named, with their number.
    """
    splits = files.files
    if folder is None:
        splits = {
            split: {name: [path for path in paths if path.suffix.lower() != ".png"] for name, paths in classes.items()}
            for split, classes in splits.items()
        }
    images = [path for classes in splits.values() for paths in classes.values() for path in paths]
    kept: dict[Path, dict[str, Path]] = {}
    found, missing = {}, []
    for image in images:
        place = image.parent
        if folder is not None:
            base = root / "images"
            place = root / folder / (place.relative_to(base) if place.is_relative_to(base) else "")
        if place not in kept:
            masks = images_in(place) if place.is_dir() else []
            kept[place] = {composed(path.stem): path for path in masks if folder or path.suffix.lower() == ".png"}
        mask = kept[place].get(composed(image.stem))
        if mask is None:
            missing.append(one_line(image))
        else:
            found[image] = mask
    if missing:
        where = "a PNG of the same name beside it" if folder is None else f"a file of the same name in {root / folder}"
        raise ValueError(
            f"masks={folder}: {len(missing)} of {len(images)} images have no mask: {listed(missing, 3)}; each needs "
            f"{where}"
        )
    return MaskedFiles(files.layout, root, splits, found, foreground)
