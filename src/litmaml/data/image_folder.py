"""A user's own images, one folder a class."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from math import inf
from pathlib import Path

from litmaml.data.augment import UNCHANGED, Augment
from litmaml.data.episode import AS_IN_TRAINING, FEW_SHOT, Episode
from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat, ImagePool, lines, read_images
from litmaml.data.leakage import Copies, Pair, Place, copies, judge_copies
from litmaml.runs.paths import expanded
from litmaml.shown import listed
from litmaml.tasks import SPLITS, Split

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
"""The files of a class folder that are taken for images, in lower or upper case."""

_FORMAT = ImageFormat(84, 3)


class ImageFolderTasks(ImageTasks):
    """Few-shot classification of the images in ``root/CLASS/*.png|jpg|jpeg|bmp|webp|gif|tif|tiff``.

    The classes are shared out among the splits by ``split`` and ``split_seed``, or by ``split_file``, or,
    where ``root`` has the folders train, val and test, by these: ``root/train/CLASS/...``. The images of a
    split are held in memory as bytes. The class folders are checked all at once when the first split is
    loaded.

    Args:
        root: The folder.
        image_format: What the images become.
        split: The shares of the classes that training, validation and test get; any three positive numbers.
        split_seed: Of the order in which the classes are dealt out. A new class moves few of the others.
        split_file: JSON, an object of split ("train", "val" or "test") by class; or CSV, lines of
            class,split.
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

    Raises:
        ValueError: if an argument is out of its range, the split file does not fit the folder, images are
            missing or cannot be read (such classes and files are named), or an image stands in two classes or
            splits.
        FileNotFoundError: if there is no such folder or split file.
    """

    def __init__(
        self,
        root: str,
        image_format: ImageFormat = _FORMAT,
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        split_file: str | None = None,
        train: Episode = FEW_SHOT,
        test: Episode = AS_IN_TRAINING,
        rotations: bool = False,
        affine: float = 0.0,
        augment: Augment = UNCHANGED,
        copies: Copies = "refuse",
    ) -> None:
        super().__init__(
            image_format=image_format,
            train=train,
            test=test,
            rotations=rotations,
            affine=affine,
            augment=augment,
        )
        if len(split) != 3 or not all(0 < share < inf for share in split):
            raise ValueError(f"split must be three positive shares for train, val and test, got {split}")
        self.root = root
        self.split = split
        self.split_seed = split_seed
        self.split_file = split_file
        if copies not in ("refuse", "warn"):
            raise ValueError(f"copies must be 'refuse' or 'warn', got {copies!r}")
        self.copies = copies
        self._files: dict[Split, dict[str, list[Path]]] = {}

    def class_names(self, split: Split) -> Sequence[str]:
        return [*self._classes()[split]]

    def load(self, split: Split) -> None:
        if not self._pools:
            self._compare_files()
        super().load(split)

    def read_pool(self, split: Split) -> ImagePool:
        classes = self._classes()[split]
        files = [file for members in classes.values() for file in members]
        labels = [k for k, members in enumerate(classes.values()) for _ in members]
        pixels, errors = read_images({str(file): file for file in files}, self.image_format)
        if errors:
            raise ValueError(
                f"{len(errors)} images of the split {split} cannot be used, mend or remove them:\n" + lines(errors)
            )
        return ImagePool.of(pixels, labels, [*classes], [str(file) for file in files])

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {"root": self.root}

    def _classes(self) -> dict[Split, dict[str, list[Path]]]:
        """The image files of each class of each split."""
        if not self._files:
            root = expanded(self.root)
            if not root.is_dir():
                raise FileNotFoundError(f"root={self.root}: there is no such folder")
            if self.split_file is None and {*SPLITS} <= {folder.name for folder in _folders(root)}:
                files = {split: _images(root / split) for split in SPLITS}
            else:
                files = self._deal(_images(root))
            _check(root, [*files.values()])
            _warn_of_case(files)
            self._files = files
        return self._files

    def _compare_files(self) -> None:
        """Looks for the same file in two splits: also in those that this run does not load."""
        places = [
            Place(split, name, str(file))
            for split, classes in self._classes().items()
            for name, files in classes.items()
            for file in files
        ]
        sizes = [os.path.getsize(place.name) for place in places]
        often = Counter(sizes)
        alike = [place for place, size in zip(places, sizes, strict=True) if often[size] > 1]
        pairs = [Pair(*pair) for pair in copies({}, (_content(place.name) for place in alike), alike)]
        judge_copies([pair for pair in pairs if pair.first.split != pair.again.split], len(places), self.copies)

    def _deal(self, classes: dict[str, list[Path]]) -> dict[Split, dict[str, list[Path]]]:
        """Shares the classes out among the splits."""
        if self.split_file is not None:
            given = {_composed(name): split for name, split in read_split_file(expanded(self.split_file)).items()}
            if missing := sorted({*given} - {*map(_composed, classes)}):
                raise ValueError(f"split_file={self.split_file}: {self.root} has no class {listed(missing)}")
            if missing := sorted({*map(_composed, classes)} - {*given}):
                raise ValueError(f"split_file={self.split_file} gives no split to the class {listed(missing)}")
            splits = {name: given[_composed(name)] for name in classes}
        else:
            # The hash of a class's name and the seed is its own random number, whatever other classes there
            # are.
            marks = {name: f"{self.split_seed} {_composed(name)}".encode() for name in classes}
            mixed = sorted(classes, key=lambda name: hashlib.sha256(marks[name]).digest())
            first = round(len(mixed) * self.split[0] / sum(self.split))
            second = round(len(mixed) * (self.split[0] + self.split[1]) / sum(self.split))
            dealt = zip(SPLITS, (mixed[:first], mixed[first:second], mixed[second:]), strict=True)
            splits = {name: split for split, names in dealt for name in names}
        return {split: {name: classes[name] for name in classes if splits[name] == split} for split in SPLITS}


def read_split_file(path: Path) -> dict[str, Split]:
    """The split of each class.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it cannot be understood, or gives a class to two splits.
    """
    if not path.is_file():
        raise FileNotFoundError(f"split_file={path}: there is no such file")
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text, object_pairs_hook=list)
            rows = [[name, split] for name, split in content]
        except (ValueError, TypeError) as error:
            raise ValueError(f"split_file={path} is no JSON object of splits by class: {error}") from error
    else:
        rows = [row for row in csv.reader(text.splitlines()) if row]
        if rows and rows[0][-1].strip() not in SPLITS:
            rows = rows[1:]  # a line of titles
    splits: dict[str, Split] = {}
    for row in rows:
        found = next((split for split in SPLITS if len(row) == 2 and row[1] == split), None)
        if found is None:
            raise ValueError(f"split_file={path}: expected a class and one of {', '.join(SPLITS)}, got {row}")
        if splits.setdefault(row[0], found) != found:
            raise ValueError(
                f"split_file={path} gives the class {row[0]} to the splits {splits[row[0]]} and {found}: "
                f"a class may be in one split only"
            )
    return splits


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, but for hidden ones."""
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith("."))


def _images(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class folder."""
    return {
        inner.name: sorted(
            file
            for file in inner.iterdir()
            if file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith(".")
        )
        for inner in _folders(folder)
    }


def _composed(name: str) -> str:
    """The name with each accented letter as one sign, as other systems may write it: or a copy of the folder on another
    machine would be dealt out otherwise."""
    return unicodedata.normalize("NFC", name)


def _content(file: str) -> bytes:
    with open(file, "rb", buffering=0) as opened:
        return hashlib.sha1(opened.read(), usedforsecurity=False).digest()


def _warn_of_case(splits: dict[Split, dict[str, list[Path]]]) -> None:
    """Tells of classes of two splits whose names differ in case only."""
    seen: dict[str, tuple[str, str]] = {}
    for split, classes in splits.items():
        for name in classes:
            first = seen.setdefault(name.casefold(), (name, split))
            if first[1] != split and first[0] != name:
                warnings.warn(
                    f"the classes {first[0]} ({first[1]}) and {name} ({split}) differ in case only: if they are one "
                    "class, give them to one split, or results will be too good",
                    stacklevel=2,
                )


def _check(root: Path, splits: Sequence[dict[str, list[Path]]]) -> None:
    """Refuses class folders with fewer than two images, all of them at once."""
    counts = {name: len(files) for classes in splits for name, files in classes.items()}
    if not counts:
        raise ValueError(f"root={root} has no class folders: images belong in {root / 'CLASS' / 'image.png'}")
    empty = [name for name, count in counts.items() if count == 0]
    single = [name for name, count in counts.items() if count == 1]
    if empty or single:
        raise ValueError(
            f"root={root}: each class needs at least 2 images ({', '.join(SUFFIXES)}), one for support "
            f"and one for the query"
            + (f"; without any: {listed(empty)}" if empty else "")
            + (f"; with one only: {listed(single)}" if single else "")
        )
