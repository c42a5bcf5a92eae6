"""Images in the layouts in which few-shot benchmarks are published and shared."""

from __future__ import annotations

from litmaml.data.augment import UNCHANGED, Augment
from litmaml.data.episode import AS_IN_TRAINING, FEW_SHOT, Episode
from litmaml.data.image_layouts import open_images
from litmaml.data.image_lists import Columns
from litmaml.data.image_source import ImageSource
from litmaml.data.images import PHOTOGRAPHS, ImageFormat
from litmaml.data.layout_readers import Wanted
from litmaml.data.leakage import Copies
from litmaml.data.shared_out import Dealing, published_splits
from litmaml.data.sourced_images import SourcedImages
from litmaml.runs.paths import expanded
from litmaml.shown import listed
from litmaml.tasks import Split


class ImageTable(SourcedImages):
    """Few-shot classification of images in any of these layouts, which is told by the files in ``root``:

    * ``train.csv``, ``val.csv`` and ``test.csv`` beside ``images/`` (Ravi and Larochelle, LibFewShot, easyfsl);
    * ``labels.csv``, or the list that ``table`` names, beside ``images/`` (Meta-Album);
    * ``CUB_200_2011`` as it is unpacked;
    * CIFAR-FS as it is unpacked: ``data/CLASS`` with ``splits/bertinetto``;
    * a pickle for each split, as of learn2learn, MetaOptNet and tiered-ImageNet, read without running anything;
    * folders of classes, which may lie in folders for the splits, however these are spelled;
    * what ``litmaml data pack`` wrote.

    Lists name the images' files in ``images/`` or ``root``, or there in a folder for each class. The classes are
    shared out by ``split_file``; or as the files have it, where they are lists, pickles or folders for each split; or
    as ``published``; or by ``split`` and ``split_seed``. Images are read once and then kept as bytes, in a file for
    each split that all processes share.

    Args:
        root: The folder.
        image_format: What the images become.
        table: A CSV file in ``root`` that lists all images; by default labels.csv.
        file_column: Its column of files; by default filename, image_name, FILE_NAME or another usual name.
        label_column: Its column of classes; by default label, class_name, CATEGORY or another usual name.
        split_column: Its column of splits: train, val or test; by default it has none.
        split: The shares of the classes that training, validation and test get; any three positive numbers.
        split_seed: Of the order in which the classes are dealt out. A new class moves few of the others.
        split_file: JSON, an object of split ("train", "val" or "test") by class or of lists of classes by split; or
            CSV, lines of class,split; or the name of a published split: cifar_fs, cub, fc100, mini_imagenet.
        published: The name of a published split, for files that have none; others are refused where they differ.
        train: The numbers of classes, images and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.
        rotations: Turned by 90, 180 and 270 degrees a class is another class.
        affine: Strength of random affine changes of training images; at 1 up to 15 degrees, 15 % of scale and
            shear and 8 % of shift; 0 for none.
        augment: Further random changes of training images: {crop: 8, flip: true, colour: 0.4} moves, mirrors and
            recolours them as the few-shot literature does.
        copies: What is done about an image that stands in two classes or splits: "refuse", or "warn" and go on,
            for a published set that has such. Compared are the files of all splits, and the bytes that the
            learner sees of the splits that are loaded.
        cache_dir: Folder where the images are kept as bytes; litmaml in the user's cache folder if not given.

    Raises:
        ValueError: if an argument is out of its range, the folder is in no such layout, images are missing or cannot
            be read (they are named), or an image stands in two classes or splits.
        FileNotFoundError: if there is no such folder or split file.
    """

    def __init__(
        self,
        root: str,
        image_format: ImageFormat = PHOTOGRAPHS,
        table: str | None = None,
        file_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        split_file: str | None = None,
        published: str | None = None,
        train: Episode = FEW_SHOT,
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
            train,
            test,
            rotations,
            affine,
            augment,
            copies,
            cache_dir,
        )
        if published is not None and published not in published_splits():
            raise ValueError(
                f"published: there is no published split of this name, got {published!r}; there are "
                f"{listed(published_splits())}. Set split_file to a file of your own"
            )
        if published is not None and split_file is not None:
            raise ValueError(
                f"published, split_file: only one of them can say it, got {published!r} and {split_file!r}"
            )
        self.table = table
        self.file_column, self.label_column, self.split_column = file_column, label_column, split_column
        self.published = published

    def open_source(self) -> ImageSource:
        columns = Columns(self.file_column, self.label_column, self.split_column)
        return open_images(expanded(self.root), Wanted(self._dealing, self.table, columns, self.published))

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {"layout": self.source().layout}
