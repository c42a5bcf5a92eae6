"""Few-shot classification of the images of a source: checked as files, read once, kept as bytes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from litmaml.data.augment import Augment
from litmaml.data.cache import cache_folder
from litmaml.data.episode import Episode
from litmaml.data.image_source import ImageSource
from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat, ImagePool
from litmaml.data.kept_images import KeptImages
from litmaml.data.leakage import Copies
from litmaml.data.shared_out import Dealing
from litmaml.runs.paths import expanded
from litmaml.tasks import SPLITS, Split


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
        self.root = root
        self.split, self.split_seed, self.split_file = dealing.shares, dealing.seed, dealing.split_file
        self.copies = copies
        self.cache_dir = cache_dir
        self._dealing = dealing
        self._source: ImageSource | None = None

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
            source.keep(split, self.image_format)

    def class_names(self, split: Split) -> Sequence[str]:
        return [*self.source().counts(split)]

    def load(self, split: Split) -> None:
        if not self._pools:
            self.source().compare(self.copies)
        super().load(split)

    def read_pool(self, split: Split) -> ImagePool:
        return self.source().pool(split, self.image_format)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {"root": self.root}
