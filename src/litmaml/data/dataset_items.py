"""The items of any map-style dataset: what of them are inputs and targets, as tensors, and all labels at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from litmaml.data.images import ImageFormat
from litmaml.data.table_file import cell_name
from litmaml.shown import first_line, one_line
from litmaml.tasks import Tree

Key = int | str
"""The place of a part in an item that is a tuple, or its name in one that is a dict."""

_ALL = ("targets", "labels", "_labels", "y")
"""Attributes under which datasets keep all labels, in order."""


class Items:
    """A dataset's items by number.

    Args:
        dataset: Has ``len`` and items by number: tuples, lists or dicts.
        inputs: Which part of an item is the input; several are given to the model by keyword, or by position where they
            are places.
        target: Which part is the label or value.
        image_format: What pictures of PIL become; by default bytes of their own size.
    """

    def __init__(
        self, dataset: Any, inputs: Key | Sequence[Key], target: Key, image_format: ImageFormat | None = None
    ) -> None:
        self.dataset, self.inputs, self.target, self.image_format = dataset, inputs, target, image_format

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, number: int) -> Any:
        """One item.

        Raises:
            ValueError: The dataset fails on it.
        """
        try:
            return self.dataset[int(number)]
        except Exception as error:  # of somebody's code
            raise ValueError(
                f"dataset: item {number} of {type(self.dataset).__name__} cannot be read ({type(error).__name__}: "
                f"{first_line(error)}); mend it, or leave it out by torch.utils.data.Subset"
            ) from error

    def inputs_of(self, item: Any) -> Tree:
        """An item's inputs as tensors."""
        if isinstance(self.inputs, int | str):
            return self._tensor(part_of(item, self.inputs, "inputs"))
        parts = [self._tensor(part_of(item, key, "inputs")) for key in self.inputs]
        named = all(isinstance(key, str) for key in self.inputs)
        return dict(zip(map(str, self.inputs), parts, strict=True)) if named else tuple(parts)

    def target_of(self, item: Any) -> Tensor:
        """An item's target as a tensor."""
        found = self._tensor(part_of(item, self.target, "target"))
        assert isinstance(found, Tensor)
        return found

    def column(self, key: Key, argument: str) -> list[Any]:
        """One part of all items, without making the others where the dataset can tell it by itself.

        Args:
            key: Which part.
            argument: What it was given for, for the errors.
        """
        if isinstance(key, str) and key in (getattr(self.dataset, "column_names", None) or ()):
            return [*self.dataset[key]]  # Hugging Face's
        if key == self.target and (known := known_labels(self.dataset)) is not None and self._are_of(known, key):
            return known
        return [part_of(self.item(k), key, argument) for k in range(len(self))]

    def _are_of(self, known: list[Any], key: Key) -> bool:
        """Whether the list of labels is of this part of the items, and not of another one such as finer classes."""
        for k in {0, len(known) // 2, len(known) - 1}:
            own = plain(part_of(self.item(k), key, "target"))
            if type(own) in (int, float, str) and own != plain(known[k]):
                return False
        return True

    def label_names(self, labels: Iterable[Any], argument: str) -> list[str]:
        """The names of labels, by the dataset's own list of them if it has one.

        Raises:
            ValueError: One is no number or name.
        """
        names = getattr(self.dataset, "classes", None)
        features = getattr(self.dataset, "features", None)
        if names is None and isinstance(features, Mapping):
            names = getattr(features.get(self.target), "names", None)
        values = [plain(label) for label in labels]
        for k, value in enumerate(values):
            if type(value) not in (int, float, str) or value != value or value == "":
                raise ValueError(
                    f"{argument}: that of item {k} is neither a number nor a name, got {one_line(value)[:60]}; let the "
                    "dataset give the class's number or name, and leave out items without by torch.utils.data.Subset"
                )
        if isinstance(names, list | tuple) and all(type(n) is int and 0 <= n < len(names) for n in values):
            called = [cell_name(name) for name in names]
            twice = {name for name, count in Counter(called).items() if count > 1}
            called = [f"{name} ({n})" if name in twice else name for n, name in enumerate(called)]
            return [called[number] for number in values]
        return [cell_name(value) for value in values]

    def _tensor(self, value: Any) -> Tree:
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Image.Image):
            return self._pixels(value)
        if isinstance(value, Mapping):
            return {str(key): self._tensor(part) for key, part in value.items()}
        if isinstance(value, tuple) and any(isinstance(part, Tensor | np.ndarray) for part in value):
            return tuple(self._tensor(part) for part in value)
        try:
            array = np.asarray(value)
            found = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"dataset: an item's part is no numbers, got {type(value).__name__} ({error}); give the dataset a "
                "transform that makes tensors, or name another part (inputs, target)"
            ) from error
        return found.float() if found.dtype == torch.float64 else found

    def _pixels(self, image: Image.Image) -> Tensor:
        if self.image_format is not None:
            held = BytesIO()
            image.save(held, "PNG")
            return self.image_format.read(held)
        image = image if image.mode in ("L", "RGB") else image.convert("RGB")
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1).contiguous()


def known_labels(dataset: Any) -> list[Any] | None:
    """All labels of a dataset in order, where it keeps them; None if it does not."""
    if isinstance(dataset, Subset):
        whole = known_labels(dataset.dataset)
        return None if whole is None else [whole[k] for k in dataset.indices]
    by_item = getattr(dataset, "indices_to_labels", None)  # learn2learn's
    if isinstance(by_item, Mapping) and len(by_item) == len(dataset):
        return [by_item[k] for k in range(len(dataset))]
    for name in _ALL:
        known = getattr(dataset, name, None)
        if isinstance(known, list | tuple | Tensor | np.ndarray) and len(known) == len(dataset):
            return [*(known.tolist() if isinstance(known, Tensor | np.ndarray) else known)]
    return None


def part_of(item: Any, key: Key, argument: str) -> Any:
    """A part of an item.

    Raises:
        ValueError: It has none of this place or name.
    """
    try:
        return item[key]
    except (KeyError, IndexError, TypeError) as error:
        parts = f"the names {', '.join(map(str, item))}" if isinstance(item, Mapping) else f"a {type(item).__name__}"
        raise ValueError(f"{argument}: an item has no part {key!r}, it is or has {parts}; name another") from error


def plain(label: Any) -> Any:
    """A label as a number or text of Python, where it is one."""
    value = label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
    while isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return int(value) if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) else value
