"""Images in pickles, as learn2learn, MetaOptNet and the authors of tiered-ImageNet publish them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmaml.data.class_splits import check_published, of_each_split
from litmaml.data.image_source import TOGETHER, ImageSource
from litmaml.data.images import ImageFormat, lines, read_images
from litmaml.data.plain_pickle import Array, NotPlainPickle, read_plain_pickle
from litmaml.data.shared_out import split_called
from litmaml.shown import listed, one_line
from litmaml.tasks import Split

_FORMS = (
    "a dictionary of image_data (n, H, W, 3) and class_dict, of data (n, H, W, 3) and labels, or a list of PNG files "
    "with label_specific in the file of labels beside it"
)


def pickles_in(root: Path) -> dict[Split, Path]:
    """The pickles with the images of each split in a folder; none if there are no such.

    Raises:
        ValueError: There are those of several sets.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted((*root.glob("*.pkl"), *root.glob("*.pickle"))):
        name = re.sub(r"_images_png$", "", path.stem)
        # MetaOptNet has further images of the training classes in train_phase_val and train_phase_test.
        beside = re.search(r"train_phase_(val|test)$", name) or name.endswith("_labels") or "bookkeeping" in name
        name = re.sub(r"train_phase_train$", "train", name)
        series, _, split = name.rpartition("_" if "_" in name.rpartition("-")[2] else "-")
        if split_called(split) and not beside:
            found.setdefault(series, {})[split] = path
    if len(found) > 1:
        raise ValueError(
            f"root={root} has the pickles of {len(found)} sets ({listed(sorted(found))}); move those of one to a "
            "folder of their own"
        )
    return of_each_split(next(iter(found.values())), f"root={root}") if found else {}


class PickledImages(ImageSource):
    """Images in a pickle for each split, of which nothing is called: see ``plain_pickle``.

    Args:
        files: The pickle of each split.
        published: The name of a published split that they are compared with; None for none.
    """

    def __init__(self, files: Mapping[Split, Path], published: str | None = None) -> None:
        super().__init__("pickles")
        self.files = dict(files)
        self.published = published
        self._counts: dict[Split, dict[str, int]] = {}
        self._held: tuple[Split, _Content] | None = None

    def counts(self, split: Split) -> dict[str, int]:
        if split in self.files and split not in self._counts:
            self._counts[split] = {name: len(members) for name, members in self._content(split).classes.items()}
        return self._counts.get(split, {})

    def mark(self) -> str:
        stats = [
            (path.name, path.stat())
            for file in self.files.values()
            for path in (file, _labels_of(file))
            if path.is_file()
        ]
        return "\n".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)

    def names(self, split: Split) -> Sequence[str]:
        if split not in self.files:
            return ()
        members = self._content(split).classes.values()
        return [f"{self.files[split]}[{place}]" for places in members for place in places]

    def pieces(self, split: Split, image_format: ImageFormat) -> Iterator[Tensor]:
        content, errors = self._content(split), list[str]()
        places = np.concatenate([*content.classes.values()])
        for first in range(0, len(places), TOGETHER):
            pixels, found = content.read(places[first : first + TOGETHER], image_format)
            errors += found
            if not errors:
                yield pixels
        self._held = None  # a gigabyte or more, which is wanted once
        if errors:
            raise ValueError(f"{len(errors)} images of {self.files[split]} cannot be used:\n{lines(errors)}")

    def _content(self, split: Split) -> _Content:
        if self._held is None or self._held[0] != split:
            self._held = None
            path = self.files[split]
            try:
                self._held = split, _understood(path, split)
            except NotPlainPickle as error:
                raise ValueError(f"root: {path} {error}; nothing of it is used") from error
            if self.published is not None:
                check_published(self.published, {split: self._held[1].classes})
        return self._held[1]


class _Content(NamedTuple):
    """classes: The places of each class's images. read: The images in some places, and the errors of those that could
    not be read."""

    classes: dict[str, NDArray[np.int64]]
    read: Callable[[NDArray[np.int64], ImageFormat], tuple[Tensor, list[str]]]


def _labels_of(path: Path) -> Path:
    """The file with the labels of a list of PNG files."""
    return path.with_name(path.name.replace("_images_png", "_labels"))


def _understood(path: Path, split: Split) -> _Content:
    """The images and classes of a pickle.

    Raises:
        NotPlainPickle: It is of none of the published forms.
    """
    content = read_plain_pickle(path)
    if isinstance(content, dict):
        named = _by_name(content)
        if {"image_data", "class_dict"} <= named.keys():
            images = _images(named["image_data"])
            members = {_text(name): _integers(places) for name, places in _dictionary(named["class_dict"]).items()}
        elif {"data", "labels"} <= named.keys():
            images, labels = _images(named["data"]), _integers(named["labels"])
            titles = {
                _number(label): _text(name) for name, label in _dictionary(named.get("catname2label", {})).items()
            }
            members = _members(labels, titles, split)
        else:
            keys = listed([one_line(key)[:40] for key in named])
            raise NotPlainPickle(f"is a dictionary of {keys}, and has to be {_FORMS}")
        _check(members, len(images))
        return _Content(members, lambda places, image_format: _arrays(images[places], image_format))
    labels_path = _labels_of(path)
    if not isinstance(content, list) or labels_path == path or not labels_path.is_file():
        raise NotPlainPickle(f"has to be {_FORMS}")
    named = _by_name(_dictionary(read_plain_pickle(labels_path)))
    labels = _integers(named.get("label_specific"))
    strings = named.get("label_specific_str", [])
    titles = dict(enumerate(map(_text, strings))) if isinstance(strings, list | tuple) else {}
    if len({*titles.values()}) < len(titles):
        titles = {}
    members = _members(labels, titles, split)
    _check(members, len(content))
    return _Content(members, lambda places, image_format: _files(content, places, image_format, path))


def _by_name(content: dict[Any, Any]) -> dict[str, Any]:
    """By text, which Python 2 wrote as bytes."""
    return {_text(key): value for key, value in content.items()}


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _number(value: object) -> int:
    if type(value) is not int:
        raise NotPlainPickle(f"has a label that is no whole number, {one_line(value)[:20]}")
    return value


def _dictionary(value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise NotPlainPickle(f"has to be {_FORMS}")
    return value


def _integers(value: object) -> NDArray[np.int64]:
    numbers = value.held if isinstance(value, Array) else value
    found = np.asarray(numbers if isinstance(numbers, np.ndarray | list | tuple) else [None])
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise NotPlainPickle("has labels or places that are no list of whole numbers")
    return found.astype(np.int64)


def _images(value: object) -> NDArray[np.uint8]:
    images: NDArray[Any] = value.held if isinstance(value, Array) else np.empty(0)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise NotPlainPickle(f"has images that are no bytes (n, H, W, 3), but {images.dtype} {images.shape}")
    return images


def _members(labels: NDArray[np.int64], titles: Mapping[int, str], split: Split) -> dict[str, NDArray[np.int64]]:
    """The places of each class. A number that has no title is of this split alone: others begin at 0 again."""
    return {titles.get(int(k), f"{split} {int(k)}"): np.flatnonzero(labels == k) for k in np.unique(labels)}


def _check(members: Mapping[str, NDArray[np.int64]], images: int) -> None:
    for name, places in members.items():
        if len(places) and not 0 <= places.min() <= places.max() < images:
            raise NotPlainPickle(f"says of the class {one_line(name)[:40]} that it has images beyond the {images}")


def _arrays(images: NDArray[np.uint8], image_format: ImageFormat) -> tuple[Tensor, list[str]]:
    return torch.stack([image_format.of_bytes(image) for image in images]), []


def _files(
    content: Sequence[object], places: NDArray[np.int64], image_format: ImageFormat, path: Path
) -> tuple[Tensor, list[str]]:
    files = {}
    for place in places.tolist():
        part = content[place]
        raw = part.held.tobytes() if isinstance(part, Array) else part if isinstance(part, bytes | bytearray) else b""
        files[f"{path}[{place}]"] = io.BytesIO(raw)
    pixels, errors = read_images(files, image_format)
    return pixels, [*errors.values()]
