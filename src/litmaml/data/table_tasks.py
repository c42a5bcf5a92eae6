"""Tasks from a table: the rows of each patient, device, school or assay are one task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmaml.data.drawing import BalancedDraw, Draw, GroupDraw, Rows, by_class, few_rows
from litmaml.data.episode import AS_IN_TRAINING, Episode
from litmaml.data.pool_tasks import Keys, Pool, PoolTasks
from litmaml.data.shared_out import Dealing, Shares, composed
from litmaml.data.table_format import Missing, TableFormat
from litmaml.data.task_table import TableReader, TaskTable
from litmaml.shown import listed
from litmaml.tasks import Split, Tree

_FIVE_ROWS = Episode(shots=5, queries=0, support_batches=1, hessian_batches=0)
_LEAST = Episode(shots=1, queries=0, support_batches=1, hessian_batches=0)
_REMOVE = "remove the row"
_TOO_LARGE = 1e150
"""Numbers whose squares would be infinite."""


class TableTasks(PoolTasks):
    """Regression or classification on a table, a task for each value of one of its columns or each file of a folder.

    Tasks may have any numbers of rows: ``shots`` of them are support, ``queries`` query, or with 0 all that are left
    (of which a training task takes a random power of two, so that there are few sizes, each of which costs a pass).
    Those with fewer than ``shots`` and one more are left out with a warning. In training each task is one of the
    split's at random, in evaluation they come one after the other.

    Without ``order`` rows are drawn at random, in classification ``shots`` and ``queries`` of each class that a task
    has; one with a single class, or too few rows of one, is left out. With an order, the column of a time, the first
    rows are support and later ones the query, whatever their classes; in training the support begins anywhere in the
    first half. Then ``val_tasks`` and ``test_tasks`` are at most the tasks that the split has; without it, where they
    are more, they are other rows of the same.

    Features, and in regression targets, are standardised by the rows of the training tasks alone, so that losses are in
    units of the targets' standard deviations; a checkpoint keeps the numbers. Inputs are (T, n, features), targets
    (T, n, targets), or (T, n) of classes, which are the same in all tasks.

    Args:
        path: CSV, TSV or Parquet, or a folder of such; the first line of a CSV names the columns. Where all files of a
            folder lie in folders named as splits (train/a.csv, val/b.csv, ...), these share out the tasks.
        features: The columns of the inputs, by names or patterns such as "Shimmer*"; a pattern leaves out the task,
            the targets and ``split_column``.
        targets: The columns of the targets, of classification the one that names the class.
        task: The column that names the task of each row; of a folder by default the file.
        kind: "regression" or "classification".
        order: The column of numbers or dates that the rows of a task are in the order of.
        split: The shares of the tasks that training, validation and test get; any three positive numbers.
        split_seed: Of the order in which tasks are dealt out. A new one moves few of the others.
        split_file: JSON, an object of split ("train", "val" or "test") by task; or CSV, lines of task,split.
        split_column: A column that says the split, alike in all rows of a task.
        missing: What is done about an empty cell among the features: "refuse", or "mean" for the training tasks' mean.
        train: The numbers of rows and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.

    Raises:
        ValueError: An argument is out of its range, a column is missing or no number, all rows of a task stand in
            another split, or a split has no task.
        FileNotFoundError: There is no such file.
    """

    least: ClassVar[Episode] = _LEAST

    def __init__(
        self,
        path: str,
        features: Sequence[str],
        targets: Sequence[str],
        task: str | None = None,
        kind: Literal["regression", "classification"] = "regression",
        order: str | None = None,
        split: Shares = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        split_file: str | None = None,
        split_column: str | None = None,
        missing: Missing = "refuse",
        train: Episode = _FIVE_ROWS,
        test: Episode = AS_IN_TRAINING,
    ) -> None:
        super().__init__(train.over(_FIVE_ROWS), test)
        for name, value, choices in (
            ("kind", kind, ("regression", "classification")),
            ("missing", missing, ("refuse", "mean")),
        ):
            if value not in choices:
                raise ValueError(f"{name}: has to be {' or '.join(choices)}, got {value!r}")
        for name, names in (("features", features), ("targets", targets)):
            if isinstance(names, str) or not names:
                raise ValueError(f"{name}: has to be a list of columns or patterns, got {names!r}; give such as [age]")
        if kind == "classification" and len(targets) != 1:
            raise ValueError(f"targets: has to be the one column that names the class, got {list(targets)}")
        if split_file is not None and split_column is not None:
            raise ValueError(f"split_column: is one way to share out, got {split_file!r} for another; leave one out")
        self.path, self.features, self.targets = path, list(features), list(targets)
        self.kind, self.missing = kind, missing
        self.task, self.order = None if task is None else composed(task), None if order is None else composed(order)
        self.split, self.split_seed, self.split_file, self.split_column = split, split_seed, split_file, split_column
        self._reader = TableReader(
            path,
            self.features,
            self.targets,
            self.task,
            kind == "classification",
            self.order,
            missing,
            split_column,
            Dealing(split, split_seed, split_file),
        )
        self._format: TableFormat | None = None
        self._labels: tuple[TableFormat, NDArray[np.int64]] | None = None

    @property
    def format(self) -> TableFormat:
        """What rows become: by the training tasks, or as the checkpoint has it that is tested."""
        if self._format is None:
            self._format = self._reader.format_of(self._table)
        return self._format

    def record(self) -> dict[str, Any]:
        return self.format.plain()

    def adopt(self, record: object) -> None:
        found = TableFormat.of_plain(record, "checkpoint.TaskDataModule.tasks")
        mine, theirs = [*self._table.features, *self._table.targets], [*found.features, *found.targets]
        if mine != theirs:
            raise ValueError(
                f"features: the checkpoint was trained on the columns {listed(theirs)}, got {listed(mine)}; name the "
                "same in the same order"
            )
        if (trained := "regression" if found.classes is None else "classification") != self.kind:
            raise ValueError(f"kind: the checkpoint was trained on {trained}, got {self.kind}; set it to {trained}")
        self._format = found

    def read_pool(self, split: Split) -> Pool:
        table, sizes = self._table, self.sizes(split)
        mine = {name: rows for name, rows in table.members.items() if table.splits[name] == split}
        if not mine:
            raise ValueError(
                f"split: no task is of the split {split}, got {len(table.members)} tasks in all; give other shares, or "
                "more tasks"
            )
        if split == "train":
            _ = self.format  # before training, not in its midst
        needed = sum(sizes.batches[:-1]) + 1
        classes = self._classes() if self.kind == "classification" else None
        balanced = None if self.order is not None else classes
        fewest = mine if balanced is None else {name: _of_fewest(rows, balanced) for name, rows in mine.items()}
        if few := few_rows([*mine], [*fewest.values()], needed):
            of = "" if balanced is None else " of one of their classes, or a single class"
            text = f"shots: {len(few)} of {len(mine)} tasks of the split {split} have fewer than {needed} rows{of}"
            if len(few) == len(mine):
                raise ValueError(f"{text}: {listed(few, 3)}; take fewer shots")
            warnings.warn(f"{text} and are left out: {listed(few, 3)}; take fewer shots to keep them", stacklevel=2)
        kept = [name for name in mine if len(fewest[name]) >= needed]
        members = [mine[name] for name in kept]
        draw: Draw
        if balanced is None:
            draw = GroupDraw(members, self.order is not None, split)
        else:
            draw = BalancedDraw(members, balanced, split)
        return Pool(kept, draw, self._fetch)

    def in_own_units(self, values: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
        if self.kind == "classification" or values[0, 0].numel() != len(self.format.targets):
            return values
        return self.format.unscaled(values.reshape(*values.shape[:2], -1)).reshape(values.shape)

    def describe(self, split: Split) -> dict[str, int | float | str | bool]:
        self.load(split)
        found = super().describe(split) | {"path": self.path, "groups": len(self._pools[split].names)}
        scales = zip(self.format.targets, self.format.target_scale, strict=False)
        return found | {f"one standard deviation of {name}": scale for name, scale in scales}

    def _fetch(self, rows: Rows, keys: Keys) -> tuple[Tree, Tree]:
        table, made = self._table, self.format
        numbers = table.columns.numbers[rows]
        inputs = made.inputs(numbers[..., : len(table.features)])
        if made.classes is None:
            return inputs, made.values(numbers[..., len(table.features) :][..., : len(table.targets)])
        return inputs, torch.from_numpy(self._classes()[rows])

    def _classes(self) -> NDArray[np.int64]:
        """The class of each row of the table."""
        made = self.format
        if self._labels is None or self._labels[0] is not made:
            self._labels = made, made.indices(self._table.columns.texts[self._table.targets[0]].tolist(), "targets")
        return self._labels[1]

    @cached_property
    def _table(self) -> TaskTable:
        return self._reader.read()


def _of_fewest(rows: Rows, classes: Rows) -> Rows:
    """The rows of the class that has the fewest of some rows; none if they are of a single one."""
    parts = by_class(rows, classes)
    return min(parts, key=len) if len(parts) > 1 else rows[:0]
