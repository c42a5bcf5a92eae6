"""Few-shot classification of the images of a source: checked as files, read once, kept as bytes."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from litmaml.data.augment import Augment
from litmaml.data.cache import cache_folder
from litmaml.data.episode import Episode, Sizes
from litmaml.data.image_files import Unreadable
from litmaml.data.image_source import ImageSource, UnreadableImages
from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat, ImagePool
from litmaml.data.kept_images import KeptImages
from litmaml.data.leakage import Copies
from litmaml.data.shared_out import Dealing
from litmaml.runs.paths import expanded
from litmaml.shown import listed, one_line
from litmaml.tasks import SPLITS, Split

T = TypeVar("T")


class SourcedImages(ImageTasks):
    """Few-shot classification of images that somebody has in files.

    Args:
        root: The folder.
        dealing: How classes are shared out among the splits.
        image_format: What the images become.
        train: The numbers of classes, images and batches of a task in training.
        test: Those in validation and test.
        rotations: Turned by 90, 180 and 270 degrees a class is another class.
        affine: Strength of random affine changes of training images.
        augment: Further random changes of training images.
        copies: What is done about an image that stands in two classes or splits.
        cache_dir: Where the images are kept as bytes.
        unreadable: What is done about images that cannot be read.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        root: str,
        dealing: Dealing,
        image_format: ImageFormat,
        train: Episode,
        test: Episode,
        rotations: bool,
        affine: float,
        augment: Augment,
        copies: Copies,
        cache_dir: str | None,
        unreadable: Unreadable = "refuse",
    ) -> None:
        super().__init__(
            image_format=image_format,
            train=train,
            test=test,
            rotations=rotations,
            affine=affine,
            augment=augment,
        )
        if copies not in ("refuse", "warn"):
            raise ValueError(f"copies must be 'refuse' or 'warn', got {copies!r}")
        if unreadable not in ("skip", "refuse"):
            raise ValueError(f"unreadable: must be skip or refuse, got {unreadable!r}; give one of the two")
        self.root = root
        self.split, self.split_seed, self.split_file = dealing.shares, dealing.seed, dealing.split_file
        self.copies, self.unreadable = copies, unreadable
        self.cache_dir = cache_dir
        self._dealing = dealing
        self._source: ImageSource | None = None
        self._own_ways = train.ways is None
        self._most: dict[Split, int] = {}

    @abstractmethod
    def open_source(self) -> ImageSource:
        """Where the images come from. Cheap: no image is read."""

    def source(self) -> ImageSource:
        """Where the images come from, with what is kept of them."""
        if self._source is None:
            found = self.open_source()
            folder = cache_folder(self.cache_dir)
            named = str(expanded(self.root).absolute())
            kept = KeptImages(found, folder, named, self.image_format, self.copies)
            self._source = found if found.kept else kept
        return self._source

    def prepare(self) -> None:
        source = self.source()
        source.compare(self.copies)
        for split in SPLITS:
            self._without_unreadable(split, partial(source.keep, split, self.image_format))

    def class_names(self, split: Split) -> Sequence[str]:
        return [*self.source().counts(split)]

    def load(self, split: Split) -> None:
        if not self._pools:
            self.source().compare(self.copies)
        self._fit_ways(split, len(self.class_names(split)))
        super().load(split)

    def _fit_ways(self, split: Split, classes: int) -> None:
        """Make the tasks of a split as many classes as it has, where nobody said how many and it has fewer."""
        ways = self.sizes(split).ways
        theirs = self._own_ways and (split == "train" or self.test.ways is None)
        if theirs and self.least.ways and self.least.ways <= classes < ways:
            self._most[split] = classes
            warnings.warn(
                f"data: the split {split} has {classes} classes, so its tasks are {classes}-way in place of {ways}-way",
                stacklevel=2,
            )

    def sizes(self, split: Split) -> Sizes:
        sizes = super().sizes(split)
        return sizes._replace(ways=min(sizes.ways, self._most.get(split, sizes.ways)))

    def read_pool(self, split: Split) -> ImagePool:
        source = self.source()
        pool = self._without_unreadable(split, partial(source.pool, split, self.image_format))
        if missing := source.missing(split, pool):
            told = (
                f"root={self.root}: {len(missing)} of {len(missing) + len(pool.pixels)} images of the split {split} "
                f"cannot be read: {listed([one_line(name) for name in missing], 10)}; mend or remove them"
            )
            if self.unreadable == "refuse":  # kept by a run that left them out
                raise ValueError(told)
            warnings.warn(f"{told}; they are left out", stacklevel=2)
        return pool

    def _without_unreadable(self, split: Split, read: Callable[[], T]) -> T:
        """What is read, once more without the images that could not be read if these are to be left out."""
        try:
            return read()
        except UnreadableImages as error:
            if self.unreadable == "refuse":
                raise
            self.source().leave_out(split, error.names)
            return read()

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {"root": self.root}
