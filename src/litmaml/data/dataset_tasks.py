"""Tasks from any map-style dataset: torch's and torchvision's, Hugging Face's, learn2learn's, or one's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from litmaml.data.apart import check_apart
from litmaml.data.dataset_items import Items, Key
from litmaml.data.drawing import ClassDraw, Draw, GroupDraw, Rows, few_rows, rows_by_name
from litmaml.data.episode import AS_IN_TRAINING, FEW_SHOT, LEAST, Episode
from litmaml.data.images import ImageFormat
from litmaml.data.leakage import fingerprints
from litmaml.data.pool_tasks import Held, Keys, Pool, PoolTasks
from litmaml.data.shared_out import Dealing, Shares
from litmaml.randomness import global_generators_seeded, task_stream, task_streams
from litmaml.shown import first_line, listed
from litmaml.tasks import SPLITS, Batch, Split, Tasks, Tree, map_batches, tensors_of, tree_map

_AS_USUAL = Episode()
_LOOKED_AT = 3
"""Examples of each class that are compared where they are not in memory."""


class DatasetTasks(PoolTasks):
    """Few-shot classification of a dataset's items, or a task for each group of them.

    Without ``group`` a task is ``ways`` classes, labelled anew, with ``shots`` and ``queries`` items of each. With it a
    task is one group, such as a user or a device, with so many of its items in all (``queries`` 0: all that are left),
    and the targets are the items' own.

    Labels are found in the dataset's ``targets`` or ``labels``, in a column of Hugging Face's, or by reading all items.
    Classes or groups are shared out among the splits by chance or by a file; or each split has a dataset of its own.

    Inputs are tensors, arrays, numbers or pictures; pictures and other bytes (uint8) of three dimensions become real
    numbers from 0 to 1, or what ``image_format`` says.

    Args:
        dataset: Anything with ``len`` and items by number, or a function without arguments that makes it; in YAML a
            class with its arguments, or a function's import path. With the two next ones the training items.
        val_dataset: The validation items, where each split has its own.
        test_dataset: The test items.
        inputs: Which part of an item is the input: a place in a tuple, a name in a dict, or several, which the model
            gets by position or keyword.
        target: Which part is the label, or with ``group`` the value.
        group: Which part names the group.
        in_memory: Read all items once when a split is loaded. Otherwise each task's are read when it is drawn: for what
            is too large, or changes at random each time (data.num_workers processes do it side by side).
        split: The shares of the classes or groups that training, validation and test get.
        split_seed: Of the order in which they are dealt out.
        split_file: JSON, an object of split by class or group; or CSV, lines of name,split.
        image_format: What pictures become.
        train: The numbers of classes, items and batches of a task in training; what is left out is of classes 5 ways, 1
            shot and 15 queries, of groups 5 shots and all that are left.
        test: Those in validation and test; as in training where they are left out.

    Raises:
        ValueError: An argument is out of its range, an item has no such part, a class has too few items, or two splits
            share classes or groups.
    """

    least: ClassVar[Episode] = LEAST

    def __init__(
        self,
        dataset: Dataset | Callable[[], Any],  # type: ignore[type-arg]  # the command line knows it without
        val_dataset: Dataset | Callable[[], Any] | None = None,  # type: ignore[type-arg]
        test_dataset: Dataset | Callable[[], Any] | None = None,  # type: ignore[type-arg]
        inputs: Key | Sequence[Key] = 0,
        target: Key = 1,
        group: Key | None = None,
        in_memory: bool = True,
        split: Shares = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        split_file: str | None = None,
        image_format: ImageFormat | None = None,
        train: Episode = _AS_USUAL,
        test: Episode = AS_IN_TRAINING,
    ) -> None:
        if group is not None:
            self.least = Episode(shots=1, queries=0, support_batches=1, hessian_batches=0)  # type: ignore[misc]
        usual = FEW_SHOT if group is None else Episode(shots=5, queries=0)
        super().__init__(train.over(usual), test)
        self._dealing = Dealing(split, split_seed, split_file)
        if (val_dataset is None) != (test_dataset is None):
            raise ValueError("val_dataset, test_dataset: only one is given; give both, or neither to share out classes")
        if val_dataset is not None and split_file is not None:
            raise ValueError(f"split_file: each split has its own dataset, got {split_file!r}; leave it out")
        self.dataset, self.val_dataset, self.test_dataset = dataset, val_dataset, test_dataset
        self.inputs, self.target, self.group, self.in_memory = inputs, target, group, in_memory
        self.split, self.split_seed, self.split_file = split, split_seed, split_file
        self.image_format = image_format
        self._items: dict[Split, Items] = {}
        self._members: dict[Split, dict[str, Rows]] = {}

    def read_pool(self, split: Split) -> Pool:
        self._find()
        items, members = self._items[split], self._members[split]
        sizes = self.sizes(split)
        needed = sizes.shots + sizes.queries if self.group is None else sum(sizes.batches[:-1]) + 1
        if few := few_rows([*members], [*members.values()], needed):
            raise ValueError(
                f"shots, queries: a task of the split {split} takes {needed} items of a "
                f"{'class' if self.group is None else 'group'}, and these have fewer: {listed(few)}; take fewer, or "
                "leave them out of the dataset"
            )
        self.check_ways(split, len(members), "classes", "take fewer, or give the split more classes")
        names, rows = [*members], [*members.values()]
        draw: Draw = ClassDraw(rows) if self.group is None else GroupDraw(rows, ordered=False, split=split)
        return Pool(names, draw, self._held(items, rows) if self.in_memory else _Lazily(items, self.group is not None))

    def render(self, tasks: Tasks) -> Tasks:
        def develop(part: Tensor) -> Tensor:
            if part.dtype != torch.uint8 or part.dim() < 5:
                return part
            return part / 255 if self.image_format is None else self.image_format.to_float(part)

        made = map_batches(lambda batch: Batch(tree_map(develop, batch.inputs), batch.targets), tasks)
        return super().render(made)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        self._find()
        found = super().describe(split) | {"dataset": type(self._items[split].dataset).__name__}
        return found | {"classes" if self.group is None else "groups": len(self._members[split])}

    def _find(self) -> None:
        """Makes the datasets and finds the classes or groups of each split."""
        if self._items:
            return
        given = {"train": self.dataset, "val": self.val_dataset, "test": self.test_dataset}
        made = {name: _made(each, f"{name}_dataset" if name != "train" else "dataset") for name, each in given.items()
                if each is not None}  # fmt: skip
        items = {name: Items(each, self.inputs, self.target, self.image_format) for name, each in made.items()}
        key = self.target if self.group is None else self.group
        asked = "target" if self.group is None else "group"
        with global_generators_seeded(task_stream(0, "train", 0)):
            labels = {name: each.label_names(each.column(key, asked), asked) for name, each in items.items()}
        if len(items) == 1:
            self._members = self._dealing.deal(rows_by_name(labels["train"]))
            items = dict.fromkeys(SPLITS, items["train"])
        else:
            self._members = {split: rows_by_name(labels[split]) for split in SPLITS}
            self._refuse_shared()
        if empty := [split for split in SPLITS if not self._members[split]]:
            raise ValueError(f"split: nothing is of the split {empty[0]}; give other shares, or more classes")
        self._compare(items)
        self._items = items  # type: ignore[assignment]

    def _refuse_shared(self) -> None:
        """Names that two splits share. Numbers may begin anew in each dataset: of groups they are told of."""
        what = "classes" if self.group is None else "groups"
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            both = sorted({*self._members[one]} & {*self._members[other]})  # type: ignore[index]
            named = [name for name in both if not name.isdecimal()]
            text = f"{other}_dataset: shares {len(named or both)} {what} with that of {one}: {listed(named or both, 3)}"
            if named:
                raise ValueError(f"{text}; give each of the {what} to one split only, or results will be too good")
            if both and self.group is not None:
                warnings.warn(f"{text}; if they are the same ones, results are too good", stacklevel=2)

    def _compare(self, items: Mapping[str, Items]) -> None:
        """Looks for classes that stand in two splits under two names, by a few items of each."""
        marks: list[bytes] = []
        members, splits = {}, {}
        with global_generators_seeded(task_stream(0, "train", 0)):
            for split in SPLITS:
                for name, rows in self._members[split].items():
                    some = [items[split].inputs_of(items[split].item(row)) for row in rows[:_LOOKED_AT]]
                    label = f"{name} of {split}"
                    members[label] = np.arange(len(marks), len(marks) + len(some))
                    splits[label] = split
                    marks += [b"".join(fingerprints(part[None])[0] for part in tensors_of(each)) for each in some]
        check_apart(marks, members, splits, "class" if self.group is None else "group", "items looked at")

    def _held(self, items: Items, members: list[Rows]) -> Held:
        """The items of these rows, which are read once."""
        rows = np.concatenate(members)
        with global_generators_seeded(task_stream(0, "train", 0)):
            read = [items.item(row) for row in rows]
            inputs = _stacked([items.inputs_of(item) for item in read])
            targets = _stacked([items.target_of(item) for item in read]) if self.group is not None else None
        return Held(rows, inputs, targets)


class _Lazily:
    """Reads the items of each task, with the global generators seeded by the task.

    Args:
        items: The dataset's.
        targets: Whether targets are asked for.
    """

    def __init__(self, items: Items, targets: bool) -> None:
        self.items, self.targets = items, targets

    def __call__(self, rows: Rows, keys: Keys) -> tuple[Tree, Tree]:
        tasks = []
        streams = task_streams(keys.seed, keys.split, keys.numbers, "layers")
        for mine, stream in zip(rows, streams, strict=True):
            with global_generators_seeded(stream):
                read = [self.items.item(row) for row in mine]
                inputs = _stacked([self.items.inputs_of(item) for item in read])
                targets = _stacked([self.items.target_of(item) for item in read]) if self.targets else None
            tasks.append((inputs, targets))
        both: tuple[Tree, Tree] = _stacked(tasks)
        return both


def _stacked(trees: Sequence[Tree]) -> Any:
    """One tree of the stacked tensors of many."""
    try:
        return tree_map(lambda *parts: torch.stack(parts), *trees)
    except (RuntimeError, ValueError, KeyError, AttributeError) as error:
        shapes = sorted({str([tuple(part.shape) for part in tensors_of(tree)]) for tree in trees})
        raise ValueError(
            f"dataset: items have to be of one shape, got {listed(shapes, 3)}; cut, pad or scale them in the dataset, "
            "or give pictures an image_format"
        ) from error


def _made(given: Any, argument: str) -> Any:
    dataset = given
    if callable(given) and (isinstance(given, type) or not hasattr(given, "__getitem__")):
        try:
            dataset = given()
        except Exception as error:  # of somebody's code
            raise ValueError(
                f"{argument}: {getattr(given, '__name__', given)} makes none ({type(error).__name__}: "
                f"{first_line(error)}); mend it, or give a class with its arguments"
            ) from error
    by_number = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not by_number or isinstance(dataset, IterableDataset):
        raise ValueError(
            f"{argument}: has to have a length and items by number, got {type(dataset).__name__}; of a stream make a "
            "list first"
        )
    if not len(dataset):
        raise ValueError(f"{argument}: has no items, got an empty {type(dataset).__name__}; give one with some")
    return dataset
