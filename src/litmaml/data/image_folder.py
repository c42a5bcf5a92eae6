"""A user's own images, one folder a class."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from litmaml.data.image_tasks import ImageTasks, listed
from litmaml.data.images import ImageFormat, ImagePool, read_images
from litmaml.paths import expanded
from litmaml.types import SPLITS, Split

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
        ways: Classes of a task.
        shots: Support images of each class in one support batch.
        queries: Query images of each class.
        test_ways: Classes of a task in validation and test; as in training if not given.
        test_shots: Support images of each class in validation and test; as in training if not given.
        test_queries: Query images of each class in validation and test; as in training if not given.
        rotations: Turned by 90, 180 and 270 degrees a class is another class.
        affine: Strength of random affine changes of training images; at 1 up to 15 degrees, 15 % of scale and
            shear and 8 % of shift; 0 for none.
        support_batches: 1: every inner step uses the same support batch. N: a fresh one for each of N inner
            steps.
        hessian_batches: 0: Hessian products use each step's own support batch. N: N fresh batches.

    Raises:
        ValueError: if an argument is out of its range, the split file does not fit the folder, or images are
            missing or cannot be read: every such class and file is named.
        FileNotFoundError: if there is no such folder or split file.
    """

    def __init__(
        self,
        root: str,
        image_format: ImageFormat = _FORMAT,
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        split_file: str | None = None,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        test_ways: int | None = None,
        test_shots: int | None = None,
        test_queries: int | None = None,
        rotations: bool = False,
        affine: float = 0.0,
        support_batches: int = 1,
        hessian_batches: int = 0,
    ) -> None:
        super().__init__(
            image_format=image_format,
            ways=ways,
            shots=shots,
            queries=queries,
            test_ways=test_ways,
            test_shots=test_shots,
            test_queries=test_queries,
            rotations=rotations,
            affine=affine,
            support_batches=support_batches,
            hessian_batches=hessian_batches,
        )
        if len(split) != 3 or not all(share > 0 for share in split):
            raise ValueError(f"split must be three positive shares for train, val and test, got {split}")
        self.root = root
        self.split = split
        self.split_seed = split_seed
        self.split_file = split_file
        self._files: dict[Split, dict[str, list[Path]]] = {}

    def class_names(self, split: Split) -> Sequence[str]:
        return [*self._classes()[split]]

    def read_pool(self, split: Split) -> ImagePool:
        classes = self._classes()[split]
        files = [file for members in classes.values() for file in members]
        labels = [k for k, members in enumerate(classes.values()) for _ in members]
        pixels, errors = read_images({str(file): file for file in files}, self.image_format)
        if errors:
            raise ValueError(
                f"{len(errors)} images of the split {split} cannot be used, mend or remove them:\n" + "\n".join(errors)
            )
        return ImagePool.of(pixels, labels, [*classes])

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
            self._files = files
        return self._files

    def _deal(self, classes: dict[str, list[Path]]) -> dict[Split, dict[str, list[Path]]]:
        """Shares the classes out among the splits."""
        if self.split_file is not None:
            splits = read_split_file(expanded(self.split_file))
            if missing := sorted({*splits} - {*classes}):
                raise ValueError(f"split_file={self.split_file}: {self.root} has no class {listed(missing)}")
            if missing := sorted({*classes} - {*splits}):
                raise ValueError(f"split_file={self.split_file} gives no split to the class {listed(missing)}")
        else:
            # The hash of a class's name and the seed is its own random number, whatever other classes there
            # are.
            mixed = sorted(classes, key=lambda name: hashlib.sha256(f"{self.split_seed} {name}".encode()).digest())
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
