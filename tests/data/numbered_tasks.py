"""Images that tell what they are."""

from __future__ import annotations

import torch

from litmaml.data import ImageFormat, ImagePool, ImageTasks
from litmaml.tasks import SPLITS, Split


class Numbered(ImageTasks):
    """Classes of 4 x 4 images that tell what they are: the first pixel is the class, the second the image.

    The four in the middle are the split, so that none stands in two.
    """

    def __init__(self, classes: int = 12, images: int | list[int] = 10, **options: object) -> None:
        super().__init__(ImageFormat(4), **options)  # type: ignore[arg-type]
        self.classes = classes
        self.images = [images] * classes if isinstance(images, int) else images

    def class_names(self, split: Split) -> list[str]:
        return [f"{split}{k}" for k in range(self.classes)]

    def read_pool(self, split: Split) -> ImagePool:
        labels = torch.arange(self.classes).repeat_interleave(torch.tensor(self.images))
        pixels = torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8)
        pixels[:, 0, 0, 0] = labels
        pixels[:, 0, 0, 1] = torch.cat([torch.arange(count) for count in self.images])
        pixels[:, 0, 1:3, 1:3] = 1 + SPLITS.index(split)
        return ImagePool.of(pixels, labels, self.class_names(split))
