"""Few-shot segmentation: images with masks of the classes that are in them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch

from litmaml.data.affine import random_affine
from litmaml.data.augment import UNCHANGED, Augment
from litmaml.data.episode import AS_IN_TRAINING, LEAST, Episode
from litmaml.data.image_layouts import open_images, recognised
from litmaml.data.image_lists import Columns
from litmaml.data.image_source import ImageFiles, ImageSource
from litmaml.data.images import PHOTOGRAPHS, ImageFormat
from litmaml.data.layout_readers import Wanted
from litmaml.data.leakage import Copies
from litmaml.data.masked_files import with_masks
from litmaml.data.shared_out import Dealing
from litmaml.data.sourced_images import SourcedImages
from litmaml.runs.paths import expanded
from litmaml.tasks import Batch, Tasks, map_batches

_ONE_CLASS = Episode(ways=1, shots=5, queries=5, support_batches=1, hessian_batches=0)


class MaskTasks(SourcedImages):
    """Few-shot segmentation of images with a mask each, in the layouts of ``ImageTable`` that are files.

    A task has ``ways`` classes. Each of its images shows one of them, and each pixel is labelled: 0 where that class
    is not, else 1, 2, ... in the order in which the task's classes are drawn. So the targets are (T, n, H, W), and the
    model gives 1 + ways logits for each pixel, (n, 1 + ways, H, W).

    Args:
        root: The folder, with CLASS/1.jpg and its mask CLASS/1.png beside it, or with images/CLASS/1.jpg and
            masks/CLASS/1.png, or with images/ and a list of them.
        image_format: What the images become. Masks are scaled without values in between.
        masks: The folder in ``root`` with the masks, such as masks, in which they lie as the images do in images, under
            the same names; by default they lie beside the images, as PNG.
        foreground: The value of the class's pixels in the masks, in files with a palette its index; by default 128 and
            more, white on black.
        table: A CSV file in ``root`` that lists all images; by default labels.csv, if there is one.
        file_column: Its column of files.
        label_column: Its column of classes.
        split_column: Its column of splits: train, val or test; by default it has none.
        split: The shares of the classes that training, validation and test get; any three positive numbers.
        split_seed: Of the order in which the classes are dealt out.
        split_file: As of ``ImageTable``.
        train: The numbers of classes, images and batches of a task in training; by default 1 class, 5 and 5 images.
        test: Those in validation and test; as in training where they are left out.
        rotations: Turned by 90, 180 and 270 degrees a class is another class.
        affine: Strength of random affine changes of training images, and of their masks with them.
        augment: Further random changes of training images; masks are moved and mirrored with them.
        copies: What is done about an image that stands, with its mask, in two classes or splits: "refuse", or "warn".
        cache_dir: Folder where the images are kept as bytes; litmaml in the user's cache folder if not given.

    Raises:
        ValueError: if an argument is out of its range, images or masks are missing or cannot be read, or an image
            stands in two classes or splits.
        FileNotFoundError: if there is no such folder or split file.
    """

    least: ClassVar[Episode] = replace(LEAST, ways=1)

    def __init__(
        self,
        root: str,
        image_format: ImageFormat = PHOTOGRAPHS,
        masks: str | None = None,
        foreground: int | None = None,
        table: str | None = None,
        file_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        split_file: str | None = None,
        train: Episode = _ONE_CLASS,
        test: Episode = AS_IN_TRAINING,
        rotations: bool = False,
        affine: float = 0.0,
        augment: Augment = UNCHANGED,
        copies: Copies = "refuse",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(
            root,
            Dealing(split, split_seed, split_file),
            image_format,
            train.over(_ONE_CLASS),
            test,
            rotations,
            affine,
            augment,
            copies,
            cache_dir,
        )
        self.masks, self.foreground = masks, foreground
        self.table = table
        self.file_column, self.label_column, self.split_column = file_column, label_column, split_column

    def open_source(self) -> ImageSource:
        columns = Columns(self.file_column, self.label_column, self.split_column)
        root = expanded(self.root)
        wanted = Wanted(self._dealing, self.table, columns)
        beside_masks = recognised(root, wanted)[0] is None and (root / "images").is_dir()
        found = open_images(root / "images" if beside_masks else root, wanted)
        if not isinstance(found, ImageFiles):
            raise ValueError(f"root={self.root} is {found.layout}, which hold no masks; give the images as files")
        return with_masks(found, root, self.masks, self.foreground)

    def render(self, tasks: Tasks) -> Tasks:
        """Floats for bytes and labels for masks, both changed alike."""
        moving, colouring = replace(self.augment, colour=0.0), replace(self.augment, crop=0, flip=False)

        def develop(batch: Batch) -> Batch:
            inputs = batch.inputs if isinstance(batch.inputs, dict) else {"images": batch.inputs}
            pixels = self._gathered(inputs)
            if "augment" in inputs:
                pixels = moving(pixels, inputs["augment"])
            images, masks = pixels[..., :-1, :, :], pixels[..., -1:, :, :]
            if "augment" in inputs:
                images = colouring(images, inputs["augment"])
            images = self.image_format.to_float(images)
            if "jitter" in inputs:
                both = torch.cat([images, (masks / 255).to(images.dtype)], dim=-3)
                both = random_affine(both, inputs["jitter"], self.affine)
                images, masks = both[..., :-1, :, :], both[..., -1:, :, :] * 255
            labels = batch.targets[..., None, None] + 1
            return Batch(images, torch.where(masks[..., 0, :, :] >= 128, labels, 0))

        return map_batches(develop, tasks)
