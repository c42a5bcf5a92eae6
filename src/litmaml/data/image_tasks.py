"""Few-shot classification tasks from pools of images."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmaml.data.affine import AFFINE_NUMBERS, random_affine
from litmaml.data.augment import AUGMENT_NUMBERS, UNCHANGED, Augment
from litmaml.data.episode import AS_IN_TRAINING, FEW_SHOT, Episode
from litmaml.data.images import ImageFormat, ImagePool, compare_pools
from litmaml.data.leakage import Copies
from litmaml.data.shared_out import composed
from litmaml.data.task_distribution import TaskDistribution
from litmaml.randomness import task_stream, task_streams
from litmaml.shown import listed
from litmaml.tasks import SPLITS, Batch, Split, Tasks, map_batches

_PART = 4
"""Of a device's free memory a split's images take this part at the most."""


class ImageTasks(TaskDistribution):
    """Few-shot classification: ``ways`` classes of one split, each with a few support and query images.

    A task's classes are drawn without replacement and labelled 0, 1, ... in the order drawn. Support and
    query never share an image. Fresh support or Hessian batches are disjoint as long as the class has images
    left and then begin again with its first.

    Args:
        image_format: What the images become.
        train: The numbers of classes, images and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.
        rotations: Turned by 90, 180 and 270 degrees a class is another class: each class of a task is turned
            by its own random multiple of 90 degrees, in every split (Finn et al. 2017). No class stands in a
            task twice.
        affine: Strength of the random affine change of each training image: at 1 up to 15 degrees of
            rotation, 15 % of scale and shear, and 8 % of shift; 0 for none.
        augment: Further random changes of each training image, done before ``affine``: {crop: 8, flip: true,
            colour: 0.4}.

    Raises:
        ValueError: if a number is out of its range.
    """

    drawn_anew: ClassVar[bool] = False
    """Whether each use of an image is a new drawing of it: then ``affine`` works in every split, and an image
    may stand several times in a support batch or in a query (never in both) where a class has too few."""

    def __init__(
        self,
        image_format: ImageFormat,
        train: Episode = FEW_SHOT,
        test: Episode = AS_IN_TRAINING,
        rotations: bool = False,
        affine: float = 0.0,
        augment: Augment = UNCHANGED,
    ) -> None:
        super().__init__(train.over(FEW_SHOT), test)
        if not 0 <= affine <= 3:
            raise ValueError(f"affine must lie between 0 (none) and 3, got {affine}")
        if augment.crop >= image_format.size:
            raise ValueError(
                f"augment.crop: must be smaller than the images, of {image_format.size} pixels, got {augment.crop}; "
                "give a tenth of their size or so"
            )
        self.image_format = image_format
        self.rotations = rotations
        self.affine = affine
        self.augment = augment
        self.copies: Copies = "refuse"
        self._pools: dict[Split, ImagePool] = {}
        self._kept: dict[Split, Tensor | None] = {}

    @abstractmethod
    def class_names(self, split: Split) -> Sequence[str]:
        """The classes of a split. Cheap: no image is read."""

    @abstractmethod
    def read_pool(self, split: Split) -> ImagePool:
        """The images of a split. Called once."""

    def load(self, split: Split) -> None:
        """Reads the images of a split into memory.

        Raises:
            ValueError: if two splits share a class, the split has too few classes or images for its tasks, or an
                image stands in two classes or in a split that was loaded before.
        """
        if split in self._pools:
            return
        # "é" can be one sign or two: such names are one to whoever reads them.
        names = {each: {composed(name) for name in self.class_names(each)} for each in SPLITS}
        for one, other in combinations(SPLITS, 2):
            if shared := sorted(names[one] & names[other]):
                raise ValueError(
                    f"the splits {one} and {other} share {len(shared)} classes: {listed(shared)}. "
                    f"Give each class to one split only: it is tested on classes that it never saw. Or put all images "
                    f"of a class into one folder, without {one} and {other} above it, and classes are shared out by "
                    "themselves"
                )
        classes, (_, shots, queries, *_) = len(self.class_names(split)), self.sizes(split)
        fewer = f"choose at most {classes} or " if classes > 1 else ""
        self.check_ways(split, classes, "classes", f"{fewer}give the split more classes")
        pool = self.read_pool(split)
        reuse = self.drawn_anew and self.affine > 0
        few = [f"{pool.names[k]} ({pool.counts[k]})" for k in np.flatnonzero(pool.counts < shots + queries)]
        if few and not reuse:
            raise ValueError(
                f"a task of the split {split} takes shots + queries = {shots} + {queries} images of a class, "
                f"and these have fewer: {listed(few)}; give fewer queries (train.queries, test.queries)"
            )
        self._pools[split] = compare_pools(self._pools, split, pool, self.copies)

    def keep_on(self, split: Split, device: torch.device) -> None:
        pixels, kept = self._pools[split].pixels, self._kept.get(split)
        if (kept is None or kept.device != device) and pixels.nbytes <= _room(device):
            self._kept[split] = pixels.to(device)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which makes batches and has no use for what a GPU holds."""
        return self.__dict__ | {"_kept": dict.fromkeys(self._kept)}

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        self.load(split)
        pool = self._pools[split]
        ways, shots, queries, *_ = sizes = self.sizes(split)
        each = sum(sizes.batches)
        drawn = each - queries
        numbers_for = self._numbers_for(split)

        tasks, most = len(numbers), pool.members.shape[1]
        classes = np.empty((tasks, ways), dtype=np.int64)
        turns = np.empty((tasks, ways), dtype=np.int64)
        keys = np.empty((tasks, ways, most))
        uniform = {
            change: np.empty((tasks, ways, each, count), dtype=np.float32) for change, count in numbers_for.items()
        }
        for row, stream in enumerate(task_streams(seed, split, numbers)):
            classes[row], turns[row] = self._draw_classes(stream, len(pool), ways)
            stream.random(out=keys[row])
            for drawing in uniform.values():
                stream.random(dtype=np.float32, out=drawing[row])

        counts = pool.counts[classes]
        order = _random_order(keys, counts, min(most, each))
        places = _places(counts, shots, drawn, queries)
        chosen = pool.members[classes[..., None], np.take_along_axis(order, places, axis=-1)]
        labels = torch.arange(ways)

        def batch(first: int, last: int) -> Batch:
            """The images first..last of every class as one batch."""
            targets = labels.repeat_interleave(last - first).expand(tasks, -1).contiguous()
            changes = {name: torch.from_numpy(u[:, :, first:last]).flatten(1, 2) for name, u in uniform.items()}
            if split in self._kept:
                places = torch.from_numpy(chosen[:, :, first:last]).flatten(1, 2)
                quarters = torch.from_numpy(turns).repeat_interleave(last - first, dim=1)
                return Batch({f"places in {split}": places, "quarters": quarters} | changes, targets)
            images = _gather(pool.pixels, chosen[:, :, first:last], turns).flatten(1, 2)
            return Batch({"images": images} | changes if changes else images, targets)

        adapting = [batch(first, first + shots) for first in range(0, drawn, shots)]
        return self._arrange(split, [*adapting, batch(drawn, each)], numbers)

    def _numbers_for(self, split: Split) -> dict[str, int]:
        """How many random numbers each change of an image takes in this split. The order is that of drawing."""
        numbers = {}
        if self.affine > 0 and (split == "train" or self.drawn_anew):
            numbers["jitter"] = AFFINE_NUMBERS
        if self.augment != UNCHANGED and split == "train":
            numbers["augment"] = AUGMENT_NUMBERS
        return numbers

    def classes_of(self, split: Split, number: int, seed: int) -> list[str]:
        """The names of a task's classes, in the order of its labels 0, 1, ..."""
        self.load(split)
        names = self._pools[split].names
        classes, turns = self._draw_classes(task_stream(seed, split, number), len(names), self.sizes(split).ways)
        return [
            names[k] + (f", turned {90 * quarters}°" if quarters else "")
            for k, quarters in zip(classes, turns, strict=True)
        ]

    def _draw_classes(
        self, stream: np.random.Generator, classes: int, ways: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What a task's stream gives first: its classes and by how many quarter turns each is turned."""
        drawn = stream.choice(classes, ways, replace=False)
        return drawn, stream.integers(4, size=ways) if self.rotations else np.zeros(ways, np.int64)

    def render(self, tasks: Tasks) -> Tasks:
        """Floats for bytes, with the changes that uniform random numbers stand for: ``augment``'s (T, n, 6), and the
        affine ones of ``jitter`` (T, n, 5)."""

        def develop(batch: Batch) -> Batch:
            inputs = batch.inputs if isinstance(batch.inputs, dict) else {"images": batch.inputs}
            images = self._gathered(inputs)
            if "augment" in inputs:
                images = self.augment(images, inputs["augment"])
            images = self.image_format.to_float(images)
            if "jitter" in inputs:
                images = random_affine(images, inputs["jitter"], self.affine)
            return Batch(images, batch.targets)

        return map_batches(develop, tasks)

    def _gathered(self, inputs: dict[str, Tensor]) -> Tensor:
        """The images of a raw batch, (T, n, C, H, W) bytes."""
        if "images" in inputs:
            return inputs["images"]
        (split,) = (each for each in SPLITS if f"places in {each}" in inputs)
        places = inputs[f"places in {split}"]
        kept = self._kept[split]
        if kept is not None and kept.device == places.device:
            images = kept[places]
        else:
            images = self._pools[split].pixels[places.cpu()].to(places.device)
        for quarter in (1, 2, 3) if self.rotations else ():
            turned = (inputs["quarters"] == quarter)[..., None, None, None]
            images = torch.where(turned, torch.rot90(images, quarter, (-2, -1)), images)
        return images

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        changes = {f"augment.{name}": value for name, value in asdict(self.augment).items()}
        return super().describe(split) | {
            "classes": len(self.class_names(split)),
            "rotations": self.rotations,
            "affine": self.affine if split == "train" or self.drawn_anew else 0.0,
            **(changes if split == "train" and self.augment != UNCHANGED else {}),
        }


def _room(device: torch.device) -> int:
    """Bytes of images that a device may hold; without bound where they are already."""
    return torch.cuda.mem_get_info(device)[0] // _PART if device.type == "cuda" else sys.maxsize


def _random_order(keys: NDArray[np.float64], counts: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """The first places of a random permutation of each class's images.

    Args:
        keys: (T, W, most) uniform random numbers.
        counts: (T, W) how many images each class has.
        first: How many places are wanted; beyond a class's count they hold no image.
    """
    most = keys.shape[-1]
    keys[np.arange(most) >= counts[..., None]] = np.inf
    if first < most // 4:
        # Few of many: put them apart before sorting them.
        some = np.argpartition(keys, first, axis=-1)[..., :first]
        return np.take_along_axis(some, np.argsort(np.take_along_axis(keys, some, -1), -1), -1)
    return np.argsort(keys, axis=-1)[..., :first]


def _places(counts: NDArray[np.int64], shots: int, drawn: int, queries: int) -> NDArray[np.int64]:
    """Which places of a class's random order are used, (T, W, drawn + queries).

    The first ``support`` of its images are for support, the others for the query, and each part is gone
    through again and again. With enough images nothing comes twice; with too few for one batch and the query
    they are parted in proportion.
    """
    enough = counts >= shots + queries
    proportional = np.clip(np.rint(counts * shots / (shots + queries)), 1, counts - 1).astype(np.int64)
    support = np.where(enough, np.minimum(drawn, counts - queries), proportional)[..., None]
    ours = np.arange(drawn) % support
    theirs = support + np.arange(queries) % (np.minimum(counts, drawn + queries)[..., None] - support)
    return np.concatenate([ours, theirs], axis=-1)


def _gather(pixels: Tensor, chosen: NDArray[np.int64], turns: NDArray[np.int64]) -> Tensor:
    """The chosen images (T, W, n, C, H, W'), each class turned by its number of quarter turns."""
    # In numpy, which turns bytes twice as fast as torch does.
    images = np.take(pixels.numpy(), chosen, axis=0)
    for quarter in (1, 2, 3):
        if (turned := turns == quarter).any():
            images[turned] = np.rot90(images[turned], quarter, (-2, -1))
    return torch.from_numpy(images)
