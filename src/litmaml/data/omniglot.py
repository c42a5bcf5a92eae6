"""Omniglot (Lake, Salakhutdinov and Tenenbaum, Science 2015): 1,623 characters of 50 alphabets, 20 drawings
each."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from litmaml.data.cache import cache_folder, read_tensors, write_tensors
from litmaml.data.download import download as fetch
from litmaml.data.episode import AS_IN_TRAINING, FEW_SHOT, Episode
from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat, ImagePool, read_images
from litmaml.runs.paths import expanded
from litmaml.shown import one_line
from litmaml.tasks import Split

_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{}.zip"
_PUBLISHED = {
    "images_background": ("68d2efa1b9178cc56df9314c21c6e718", 964),
    "images_evaluation": ("6b91aef0f799c5bb55b94e3f2daec811", 659),
}
"""The MD5 sum of each published archive and how many characters it holds."""

_DRAWINGS = 20
_FORMAT = ImageFormat(28, invert=True)
_LARGEST_FILE, _LARGEST_IN_ALL = 1 << 16, 1 << 26
"""Bytes of a drawing, which has some 200, and of all in an archive."""
_WIDEST = 1024
"""Pixels of a drawing, which has 105."""
_MOST_ENTRIES = 100_000
_RECIPE = 1
"""To be raised whenever the kept images change: it is part of the cache file's name."""

_VAL_ALPHABETS = 5
_VAL_CHARACTERS = 100
_TEST_CHARACTERS = 423


class Omniglot(ImageTasks):
    """Handwritten characters of 50 alphabets, 28 x 28, ink 1 on 0: 1,623 classes of 20 images.

    The two splits in use are different tasks, so a result has to name its own:

    * ``character``: 1,200 random characters for meta-training and 423 for test, as in MAML (Finn et al. 2017);
      100 of the 1,200 are kept for validation, which leaves 1,100. The draw is fixed.
    * ``alphabet``: as published: of the 30 background alphabets 25 (fixed) are for training and 5 for
      validation, the 20 evaluation alphabets are for test. Harder, since whole alphabets are new.

    Args:
        root: Folder with ``images_background`` and ``images_evaluation``, as folders or as .zip files; packed
            anew they are fine too. If not given: the folder omniglot in ``cache_dir``.
        split_by: "character" or "alphabet".
        download: Whether to fetch the published archives (14 MB) into ``root`` if they are not there.
        train: The numbers of classes, images and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.
        rotations: Each class of a task is turned by its own random multiple of 90 degrees, in every split,
            which makes four classes of one character (Finn et al. 2017).
        affine: Strength of random affine changes of training images; 0 for none, as in the literature.
        cache_dir: Folder where the reduced images are kept; litmaml in the user's cache folder if not given.

    Raises:
        ValueError: if an argument is out of its range, or the files are not Omniglot.
        FileNotFoundError: if the files are not there and ``download`` is off.
        OSError: if they cannot be fetched.
    """

    def __init__(
        self,
        root: str | None = None,
        split_by: Literal["character", "alphabet"] = "character",
        download: bool = False,
        train: Episode = FEW_SHOT,
        test: Episode = AS_IN_TRAINING,
        rotations: bool = True,
        affine: float = 0.0,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(
            image_format=_FORMAT,
            train=train,
            test=test,
            rotations=rotations,
            affine=affine,
        )
        if split_by not in ("character", "alphabet"):
            raise ValueError(f"split_by must be 'character' or 'alphabet', got {split_by!r}")
        self.root = root
        self.split_by = split_by
        self.download = download
        self.cache_dir = cache_dir
        self._images: tuple[Tensor, list[str]] | None = None

    def prepare(self) -> None:
        folder = self._folder()
        if self.download:
            for part, (md5, _) in _PUBLISHED.items():
                if not (folder / part).is_dir() and not (folder / f"{part}.zip").is_file():
                    fetch(_URL.format(part), folder / f"{part}.zip", md5)
        self._all_images()

    def class_names(self, split: Split) -> Sequence[str]:
        return self._splits()[split]

    def read_pool(self, split: Split) -> ImagePool:
        pixels, names = self._all_images()
        chosen = self._splits()[split]
        place = {name: k for k, name in enumerate(names)}
        images = pixels.view(len(names), _DRAWINGS, *pixels.shape[1:])[[place[name] for name in chosen]]
        return ImagePool.of(images.flatten(0, 1), torch.arange(len(chosen)).repeat_interleave(_DRAWINGS), chosen)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        return super().describe(split) | {"split_by": self.split_by}

    def _folder(self) -> Path:
        return cache_folder(self.cache_dir) / "omniglot" if self.root is None else expanded(self.root)

    def _splits(self) -> dict[Split, list[str]]:
        """The characters of each split, as PART/ALPHABET/CHARACTER."""
        _, names = self._all_images()
        if self.split_by == "character":
            mixed = _mixed(names)
            test = {*mixed[:_TEST_CHARACTERS]}
            val = {*mixed[_TEST_CHARACTERS : _TEST_CHARACTERS + _VAL_CHARACTERS]}
        else:
            test = {name for name in names if name.startswith("images_evaluation/")}
            alphabets = _mixed({_folder_of(name) for name in names if name not in test})[:_VAL_ALPHABETS]
            val = {name for name in names if _folder_of(name) in alphabets}
        return {"train": sorted({*names} - test - val), "val": sorted(val), "test": sorted(test)}

    def _all_images(self) -> tuple[Tensor, list[str]]:
        """All images, 20 by 20, and the names of their characters in the same order."""
        if self._images is None:
            folder = self._folder()
            listings = {part: _listing(folder, part) for part in _PUBLISHED}
            marks = json.dumps([_RECIPE, *listings.values()]).encode()
            path = cache_folder(self.cache_dir) / f"omniglot-{hashlib.sha256(marks).hexdigest()[:16]}.safetensors"
            kept = read_tensors(path)
            if kept is None or not _is_whole(*kept, sum(map(len, listings.values()))):
                pixels = torch.cat([_read(folder, part, [*listing]) for part, listing in listings.items()])
                names = [*dict.fromkeys(_folder_of(file) for listing in listings.values() for file in listing)]
                kept = {"pixels": pixels}, {"characters": json.dumps(names)}
                write_tensors(path, *kept)
            self._images = kept[0]["pixels"], json.loads(kept[1]["characters"])
        return self._images


def _is_whole(tensors: dict[str, Tensor], metadata: dict[str, str], drawings: int) -> bool:
    """Whether the cache holds what was put there: its folder may be named by a checkpoint of somebody else's."""
    try:
        names = json.loads(metadata["characters"])
        pixels = tensors["pixels"]
    except (KeyError, ValueError, RecursionError):
        return False
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    whole = pixels.shape == (drawings, 1, _FORMAT.size, _FORMAT.size) and pixels.dtype == torch.uint8
    return named and whole and len(names) * _DRAWINGS == drawings


def _listing(folder: Path, part: str) -> dict[str, int]:
    """The drawings of a part, sorted by name, each with a number that changes with its content."""
    tree, archive = folder / part, folder / f"{part}.zip"
    if tree.is_dir():
        source = tree
        found = [file for file in tree.glob("*/*/*.png") if file.is_file()]
        files = {file.relative_to(folder).as_posix(): file.stat().st_size for file in found}
    elif archive.is_file():
        source = archive
        try:
            with zipfile.ZipFile(archive) as opened:
                if len(opened.infolist()) > _MOST_ENTRIES:
                    raise ValueError(f"{archive} holds {len(opened.infolist())} files, which cannot be")
                files = {entry.filename: entry.CRC for entry in opened.infolist()}
        except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeError) as error:
            raise ValueError(f"{archive} is damaged or no zip file: {error}") from error
    else:
        raise FileNotFoundError(
            f"root={folder} has neither the folder {part} nor the file {part}.zip: set download to true to "
            f"fetch the published archives, or set root to the folder that holds Omniglot"
        )
    drawing = re.compile(rf"{part}/[^/]+/character\d+/\d+_\d+\.png")
    files = {name: mark for name, mark in sorted(files.items()) if drawing.fullmatch(name)}
    characters = Counter(map(_folder_of, files))
    expected = _PUBLISHED[part][1]
    if len(characters) != expected or {*characters.values()} != {_DRAWINGS}:
        raise ValueError(
            f"{source} is not Omniglot's {part}: of drawings named {part}/ALPHABET/characterNN/NNNN_NN.png "
            f"it holds {len(files)} of {len(characters)} characters, not {_DRAWINGS} of each of {expected}"
        )
    return files


def _read(folder: Path, part: str, names: list[str]) -> Tensor:
    """The drawings of a part, (M, 1, 28, 28) uint8. An archive is read in memory, nothing is unpacked to
    disk."""
    contents = _packed(folder / f"{part}.zip", names) if not (folder / part).is_dir() else _loose(folder, names)
    for name, content in contents.items():
        # The header of a PNG says how much there is to unpack.
        width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
        if max(width, height) > _WIDEST:
            raise ValueError(f"the drawing {one_line(name)} has {width} x {height} pixels, which cannot be")
    pixels, errors = read_images({name: io.BytesIO(content) for name, content in contents.items()}, _FORMAT)
    if errors:
        raise ValueError(f"{len(errors)} drawings of {folder / part} are damaged: {'; '.join([*errors.values()][:5])}")
    return pixels


def _loose(folder: Path, names: list[str]) -> dict[str, bytes]:
    """The drawings in folders."""
    contents = {}
    for name in names:
        with (folder / name).open("rb") as file:
            contents[name] = file.read(_LARGEST_FILE + 1)
        _check_size(name, len(contents[name]))
    return contents


def _packed(path: Path, names: list[str]) -> dict[str, bytes]:
    """The drawings in an archive."""
    with zipfile.ZipFile(path) as archive:
        sizes = {name: archive.getinfo(name).file_size for name in names}
        for name, size in sizes.items():
            _check_size(name, size)
        if sum(sizes.values()) > _LARGEST_IN_ALL:
            raise ValueError(f"{path} holds drawings of {sum(sizes.values())} bytes, which cannot be")
        try:
            return {name: archive.read(name) for name in names}
        except Exception as error:  # of whatever the archive says that it is packed with
            raise ValueError(f"{path} is damaged: {error}") from error


def _check_size(name: str, size: int) -> None:
    if size > _LARGEST_FILE:
        raise ValueError(f"the drawing {one_line(name)} has {size} bytes or more, which cannot be")


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _mixed(names: Iterable[str]) -> list[str]:
    """The names in an order that is random, yet the same for ever: that of their hashes."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
