"""A user's own images, one folder a class."""

from __future__ import annotations

from litmaml.data.augment import UNCHANGED, Augment
from litmaml.data.episode import AS_IN_TRAINING, NOT_SAID, Episode
from litmaml.data.image_files import Unreadable
from litmaml.data.image_layouts import recognised
from litmaml.data.image_source import ImageSource
from litmaml.data.images import PHOTOGRAPHS, ImageFormat
from litmaml.data.layout_readers import Wanted, folders_of_classes
from litmaml.data.leakage import Copies
from litmaml.data.shared_out import Dealing
from litmaml.data.sourced_images import SourcedImages
from litmaml.runs.paths import expanded


class ImageFolderTasks(SourcedImages):
    """Few-shot classification of the images in ``root/CLASS/*.png|jpg|jpeg|bmp|webp|gif|tif|tiff``.

    The classes are shared out among the splits by ``split`` and ``split_seed``, or by ``split_file``, or,
    where ``root`` has folders for training, validation and test, however they are spelled, by these:
    ``root/train/CLASS/...``. Where none is for validation some classes of training are, which is said. The images are
    read once and then kept as bytes, in a file for each split that all processes share. The class folders are checked
    all at once when the first split is loaded.

    Where ``train.ways`` is left out a task has five classes, or as many as its split where that has fewer. Each split
    gets at least two of six or more classes. Folders without images, and those that other programs made (__MACOSX,
    @eaDir), are left out.

    Args:
        root: The folder.
        image_format: What the images become.
        split: The shares of the classes that training, validation and test get; any three positive numbers.
        split_seed: Of the order in which the classes are dealt out. A new class moves few of the others.
        split_file: JSON, an object of split ("train", "val" or "test") by class or of lists of classes by split; or
            CSV, lines of class,split; or the name of a published split: cifar_fs, cub, fc100, mini_imagenet.
        train: The numbers of classes, images and batches of a task in training: 5 classes or fewer, 1 shot and 15
            queries where they are left out.
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
        unreadable: What is done about files that cannot be read: "skip" leaves them out, counted and listed; "refuse"
            ends the run.

    Raises:
        ValueError: if an argument is out of its range, the split file does not fit the folder, a class has fewer than
            two images (it is named), or an image stands in two classes or splits.
        FileNotFoundError: if there is no such folder or split file.
    """

    def __init__(
        self,
        root: str,
        image_format: ImageFormat = PHOTOGRAPHS,
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        split_file: str | None = None,
        train: Episode = NOT_SAID,
        test: Episode = AS_IN_TRAINING,
        rotations: bool = False,
        affine: float = 0.0,
        augment: Augment = UNCHANGED,
        copies: Copies = "refuse",
        cache_dir: str | None = None,
        unreadable: Unreadable = "skip",
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
            unreadable,
        )

    def open_source(self) -> ImageSource:
        root = expanded(self.root)
        if not root.is_dir():
            raise FileNotFoundError(f"root={self.root}: there is no such folder")
        wanted = Wanted(self._dealing)
        layout, _ = recognised(root, wanted)
        if layout is not None and layout.read is not folders_of_classes:
            raise ValueError(
                f"root={self.root} is {layout.name}, and no folders of classes; set data.tasks to "
                "litmaml.data.ImageTable, which reads it"
            )
        return folders_of_classes(root, wanted)
