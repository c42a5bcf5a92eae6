"""How the images of each layout are found in its folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from litmaml.data.class_splits import check_published, of_each_split, split_folders, with_validation
from litmaml.data.image_files import class_folders, folders_in, images_in, one_name_each, tell_of_left_out
from litmaml.data.image_lists import Columns, NoList, by_class, located, read_list, words
from litmaml.data.image_pickles import PickledImages, pickles_in
from litmaml.data.image_source import ImageFiles, ImageSource
from litmaml.data.packed_images import PackedImages
from litmaml.data.shared_out import Dealing, split_called
from litmaml.shown import listed, one_line
from litmaml.tasks import SPLITS, Split

Files = dict[str, list[Path]]
"""The files of each class."""


@dataclass(frozen=True)
class Wanted:
    """What the user says beside the folder.

    Args:
        dealing: How classes are shared out where the files do not say it.
        table: A list of images that has another name than the usual ones.
        columns: Of lists.
        published: The name of a published split, for files that do not say it, and to compare others with.
    """

    dealing: Dealing = field(default_factory=Dealing)
    table: str | None = None
    columns: Columns = field(default_factory=Columns)
    published: str | None = None

    def files(self, layout: str, root: Path, splits: dict[Split, Files], whole: Files) -> ImageFiles:
        """Files by the splits that the layout has itself, or else of classes that are to be shared out.

        Args:
            layout: What it is called.
            root: The folder, for errors.
            splits: The classes of each split, where the layout says it.
            whole: The classes, where it does not.

        Raises:
            ValueError: The published split is another one, or the classes cannot be shared out.
        """
        file = self.dealing.split_file
        if splits and file is None:
            if self.published is not None:
                check_published(self.published, splits)
            return ImageFiles(layout, root, with_validation(splits, self.dealing, f"root={root}"))
        pairs = [*whole.items(), *(pair for classes in splits.values() for pair in classes.items())]
        files = [path for _, paths in pairs for path in paths]
        classes = by_class(files, [name for name, paths in pairs for _ in paths])  # two splits may have one class
        classes |= {name: [] for name, paths in pairs if not paths}
        dealing = self.dealing if file or not self.published else Dealing(split_file=self.published)
        return ImageFiles(layout, root, dealing.deal(classes, "class", root))


def folders_of_classes(root: Path, wanted: Wanted) -> ImageFiles:
    """The images in folders of classes, which may lie in folders for the splits.

    Raises:
        ValueError: There are none, or they cannot be shared out.
    """
    left_out: list[Path] = []
    of_splits = split_folders(root)
    splits = {split: class_folders(folder, left_out) for split, folder in of_splits.items()}
    whole = {} if splits else class_folders(root, left_out)
    for classes in (whole, *splits.values()):
        one_name_each(classes, f"root={root}")
    if not whole and not any(splits.values()):
        raise ValueError(
            f"root={root} has no class folders: images belong in {root / 'CLASS' / 'image.png'}; where a list names "
            "their classes, set data.tasks to litmaml.data.ImageTable, and root to the folder that holds both"
        )
    if [*whole] == ["images"]:
        raise ValueError(
            f"root={root} has no folder but images, which would be one class; put images into a folder for each class, "
            "or set data.tasks to litmaml.data.ImageTable and its table to a CSV file of files and classes"
        )
    found = wanted.files("folders of classes", root, splits, whole)
    tell_of_left_out(left_out, f"root={root}")
    if splits:
        _tell_of_beside(root, [*of_splits.values()])
    return found


def _tell_of_beside(root: Path, splits: Sequence[Path]) -> None:
    """Warn of folders of images that are of no split."""
    others = [folder for folder in folders_in(root) if folder not in splits]
    holding = [one_line(each.name) for each in others if any(map(images_in, (each, *folders_in(each))))]
    if holding:
        beside = ", ".join(folder.name for folder in splits)
        warnings.warn(
            f"root={root}: images in {listed(holding, 3)}, beside {beside}, are left out; move them into one of these, "
            "or away",
            stacklevel=2,
        )


def has_folders(root: Path, wanted: Wanted) -> bool:
    """Whether a folder has folders of images, and not images alone, which would be one class."""
    places = [*split_folders(root).values()] or [root]
    folders = [folder for place in places for folder in folders_in(place)]
    return [folder.name for folder in folders] != ["images"] and any(images_in(folder) for folder in folders)


def _split_lists(root: Path) -> dict[Split, Path]:
    """The lists in a folder that are named after splits."""
    lists = {path.stem: path for path in root.glob("*.csv") if split_called(path.stem)}
    return of_each_split(lists, f"root={root}")


def has_split_lists(root: Path, wanted: Wanted) -> bool:
    """Whether a folder has a list of images for each split."""
    lists = _split_lists(root).values()
    return wanted.table is None and bool(lists) and all(_is_list(path, wanted) for path in lists)


def read_split_lists(root: Path, wanted: Wanted) -> ImageFiles:
    """The images of train.csv, val.csv and test.csv."""
    splits: dict[Split, Files] = {}
    for split, path in _split_lists(root).items():
        rows = read_list(path, wanted.columns)
        files = located(root, [(row[0], row[1]) for row in rows], f"root: {path}")
        splits[split] = by_class(files, [row[1] for row in rows])
    return wanted.files("a list for each split", root, splits, {})


def whole_list(root: Path, wanted: Wanted) -> Path | None:
    """The one list of all images in a folder."""
    names = ("labels.csv", "images.csv") if wanted.table is None else (wanted.table,)
    return next((root / name for name in names if (root / name).is_file()), None)


def has_whole_list(root: Path, wanted: Wanted) -> bool:
    """Whether a folder has one list of all images."""
    path = whole_list(root, wanted)
    return path is not None and (wanted.table is not None or _is_list(path, wanted))


def read_whole_list(root: Path, wanted: Wanted) -> ImageFiles:
    """The images of one list, which may say their splits."""
    path = whole_list(root, wanted)
    assert path is not None
    rows = read_list(path, wanted.columns)
    files = located(root, [(row[0], row[1]) for row in rows], f"table={path}")
    if wanted.columns.split is None:
        return wanted.files("one list", root, {}, by_class(files, [row[1] for row in rows]))
    splits: dict[Split, Files] = {}
    for name in sorted({row[2] for row in rows}):
        split = split_called(name)
        if split is None:
            raise ValueError(
                f"split_column={wanted.columns.split}: {path} has {one_line(name)!r} in it, which is no split; write "
                "train, val or test"
            )
        chosen = [k for k, row in enumerate(rows) if split_called(row[2]) == split]
        splits[split] = by_class([files[k] for k in chosen], [rows[k][1] for k in chosen])
    return wanted.files("one list", root, splits, {})


def _is_list(path: Path, wanted: Wanted) -> bool:
    try:
        return bool(read_list(path, wanted.columns))
    except NoList:
        return False


_BIRDS = ("images.txt", "image_class_labels.txt", "classes.txt")


def has_birds(root: Path, wanted: Wanted) -> bool:
    """Whether a folder is that of CUB-200-2011."""
    return (root / "images").is_dir() and all((root / name).is_file() for name in _BIRDS)


def read_birds(root: Path, wanted: Wanted) -> ImageFiles:
    """The images of CUB-200-2011, whose classes are shared out."""
    files, classes, titles = (dict(line[:2] for line in words(root / name) if len(line) > 1) for name in _BIRDS)
    if {*files} != {*classes} or {*classes.values()} - {*titles}:
        raise ValueError(f"root={root}: {', '.join(_BIRDS)} do not fit together; take them from one archive")
    labels = [titles[classes[number]] for number in files]
    paths = located(root, [*zip(files.values(), labels, strict=True)], f"root: {root / 'images.txt'}")
    return wanted.files("CUB_200_2011", root, {}, by_class(paths, labels))


def cifar_lists(root: Path) -> dict[Split, Path]:
    """The lists of classes that CIFAR-FS has."""
    lists = {path.stem: path for path in (root / "splits" / "bertinetto").glob("*.txt")}
    return of_each_split(lists, f"root={root}")


def read_cifar(root: Path, wanted: Wanted) -> ImageFiles:
    """The images of CIFAR-FS by its own lists."""
    left_out: list[Path] = []
    classes = class_folders(root / "data", left_out)
    splits: dict[Split, Files] = {}
    for split, path in cifar_lists(root).items():
        names = [" ".join(line) for line in words(path)]
        if missing := sorted({*names} - {*classes}):
            raise ValueError(f"root: {path} names classes that {root / 'data'} has no folder of: {listed(missing, 3)}")
        splits[split] = {name: classes[name] for name in sorted(names)}
    found = wanted.files("CIFAR-FS", root, splits, {})
    tell_of_left_out(left_out, f"root={root}")
    return found


def read_packed(root: Path, wanted: Wanted) -> ImageSource:
    """What was packed, in the splits that it was packed in."""
    if wanted.dealing.split_file is not None:
        raise ValueError(
            f"split_file={wanted.dealing.split_file}: {root} is split as it was packed; leave split_file out, or pack "
            "the images anew with it"
        )
    packed = PackedImages(root)
    if wanted.published is not None:
        check_published(wanted.published, {split: packed.counts(split) for split in SPLITS})
    return packed


def read_pickles(root: Path, wanted: Wanted) -> ImageSource:
    """The images of a pickle for each split."""
    if wanted.dealing.split_file is not None:
        raise ValueError(
            f"split_file={wanted.dealing.split_file}: {root} has a pickle for each split already; leave split_file out"
        )
    return PickledImages(pickles_in(root), wanted.published)
