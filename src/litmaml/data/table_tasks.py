"""Tasks from a table: the rows of each patient, device, school or assay are one task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from litmaml.data.apart import check_apart
from litmaml.data.drawing import GroupDraw, Rows, few_rows, rows_by_name
from litmaml.data.episode import AS_IN_TRAINING, Episode
from litmaml.data.leakage import fingerprints
from litmaml.data.pool_tasks import Keys, Pool, PoolTasks
from litmaml.data.shared_out import Dealing, Shares, by_column
from litmaml.data.table_file import Columns, chosen, column_names, read_columns
from litmaml.data.table_format import Missing, TableFormat, moments, refuse_cells
from litmaml.shown import listed
from litmaml.tasks import Split, Tree

_FIVE_ROWS = Episode(shots=5, queries=0, support_batches=1, hessian_batches=0)
_LEAST = Episode(shots=1, queries=0, support_batches=1, hessian_batches=0)


class _Read(NamedTuple):
    """The table, and what follows from it.

    names: Of the feature and of the target columns. columns: What was read. members: The rows of each task. splits: The
    split of each.
    """

    features: list[str]
    targets: list[str]
    columns: Columns
    members: dict[str, Rows]
    splits: dict[str, Split]


class TableTasks(PoolTasks):
    """Regression or classification on a table in a file, a task for each value of one of its columns.

    Tasks may have any numbers of rows: ``shots`` of them are support, ``queries`` query, or with 0 all that are left
    (of which a training task takes a random power of two, so that there are few sizes, each of which costs a pass).
    Those with fewer than ``shots`` and one more are left out with a warning. In training each task is one of the
    split's at random, in evaluation they come one after the other.

    Without ``order`` rows are drawn at random. With it, the column of a time, the first rows are support and later ones
    the query; in training the support begins anywhere in the first half. Then ``val_tasks`` and ``test_tasks`` are at
    most the tasks that the split has; without it, where they are more, they are other rows of the same.

    Features, and in regression targets, are standardised by the rows of the training tasks alone, so that losses are in
    units of the targets' standard deviations; a checkpoint keeps the numbers. Inputs are (T, n, features), targets
    (T, n, targets), or (T, n) of classes, which are the same in all tasks.

    Args:
        path: CSV, TSV or Parquet; the first line of a CSV names the columns.
        task: The column that names the task of each row.
        features: The columns of the inputs, by names or patterns such as "Shimmer*"; a pattern leaves out the task,
            the targets and ``split_column``.
        targets: The columns of the targets, of classification the one that names the class.
        kind: "regression" or "classification".
        order: The column of numbers that the rows of a task are in the order of.
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
        task: str,
        features: Sequence[str],
        targets: Sequence[str],
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
        self._dealing = Dealing(split, split_seed, split_file)
        self.path, self.task, self.features, self.targets = path, task, list(features), list(targets)
        self.kind, self.order, self.missing = kind, order, missing
        self.split, self.split_seed, self.split_file, self.split_column = split, split_seed, split_file, split_column
        self._format: TableFormat | None = None
        self._labels: tuple[TableFormat, NDArray[np.int64]] | None = None

    @property
    def format(self) -> TableFormat:
        """What rows become: by the training tasks, or as the checkpoint has it that is tested."""
        if self._format is None:
            self._format = self._made_format()
        return self._format

    def record(self) -> dict[str, Any]:
        return self.format.plain()

    def adopt(self, record: object) -> None:
        found = TableFormat.of_plain(record, "checkpoint.TaskDataModule.tasks")
        if mine := [*self._table.features, *self._table.targets]:
            theirs = [*found.features, *found.targets]
            if mine != theirs:
                raise ValueError(
                    f"features: the checkpoint was trained on the columns {listed(theirs)}, got {listed(mine)}; name "
                    "the same in the same order"
                )
        self._format = found

    def read_pool(self, split: Split) -> Pool:
        table, sizes = self._table, self.sizes(split)
        mine = {name: rows for name, rows in table.members.items() if table.splits[name] == split}
        if not mine:
            raise ValueError(
                f"split: no task is of the split {split}, got {len(table.members)} tasks in all; give other shares, or "
                "more tasks"
            )
        needed = sum(sizes.batches[:-1]) + 1
        if few := few_rows([*mine], [*mine.values()], needed):
            text = f"shots: {len(few)} of {len(mine)} tasks of the split {split} have fewer than {needed} rows"
            if len(few) == len(mine):
                raise ValueError(f"{text}: {listed(few)}; take fewer shots")
            warnings.warn(f"{text} and are left out: {listed(few, 3)}; take fewer shots to keep them", stacklevel=2)
        kept = {name: rows for name, rows in mine.items() if len(rows) >= needed}
        if split == "train":
            _ = self.format  # before training, not in its midst
        return Pool([*kept], GroupDraw([*kept.values()], self.order is not None, split), self._fetch)

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
        if self._labels is None or self._labels[0] is not made:
            self._labels = made, made.indices(table.columns.texts[table.targets[0]].tolist(), "targets")
        return inputs, torch.from_numpy(self._labels[1][rows])

    @cached_property
    def _table(self) -> _Read:
        """The table, read and checked."""
        names = column_names(self.path)
        targets = chosen(self.targets, names, "targets")
        apart = {self.task, *targets} | ({self.split_column} if self.split_column else set())
        if named := [name for name in self.features if name in apart]:
            raise ValueError(f"features: {named[0]!r} is the task, a target or the split; leave it out")
        features = [name for name in chosen(self.features, names, "features") if name not in apart]
        classes = self.kind == "classification"
        numbers = [*features, *([] if classes else targets), *([self.order] if self.order else [])]
        texts = [self.task, *(targets if classes else []), *([self.split_column] if self.split_column else [])]
        columns = read_columns(self.path, numbers, texts)
        members = rows_by_name(columns.texts[self.task].tolist())
        if "" in members:
            line = columns.lines[members[""][0]]
            raise ValueError(f"task: line {line}, column {self.task!r}: is empty; name the task of each row")
        self._check_cells(columns, features, numbers, targets if classes else [])
        if self.order is not None:
            time = columns.numbers[:, -1]
            members = {name: rows[np.argsort(time[rows], kind="stable")] for name, rows in members.items()}
        splits = self._shared_out(columns, [*members])
        values = columns.numbers[:, : len(features) + (0 if classes else len(targets))]
        check_apart(fingerprints(torch.from_numpy(values)), members, splits, "task", "rows")
        return _Read(features, targets, columns, members, splits)

    def _check_cells(self, columns: Columns, features: list[str], numbers: list[str], classes: list[str]) -> None:
        rows, count = columns.numbers, len(features)
        wrong = np.isinf(rows[:, :count]) if self.missing == "mean" else ~np.isfinite(rows[:, :count])
        remedy = "fill it in, remove the row, or set missing to mean"
        refuse_cells(wrong, rows[:, :count], columns.lines, features, "features", remedy)
        rest = rows[:, count:]
        refuse_cells(~np.isfinite(rest), rest, columns.lines, numbers[count:], "targets, order", "remove the row")
        for name in classes:
            if empty := [line for cell, line in zip(columns.texts[name], columns.lines, strict=True) if not cell]:
                raise ValueError(
                    f"targets: line {empty[0]}, column {name!r}: is empty; remove such rows ({len(empty)})"
                )

    def _shared_out(self, columns: Columns, names: list[str]) -> dict[str, Split]:
        if self.split_column is not None:
            return by_column(
                columns.texts[self.task].tolist(), columns.texts[self.split_column].tolist(), self.split_column
            )
        return self._dealing.splits_of(names)

    def _made_format(self) -> TableFormat:
        table = self._table
        rows = [rows for name, rows in table.members.items() if table.splits[name] == "train"]
        if not rows:
            raise ValueError("split: no task is of the split train, by whose rows all are standardised; give it some")
        own = np.concatenate(rows)
        count = len(table.features)
        feature_mean, feature_scale = moments(table.columns.numbers[own][:, :count])
        classes: tuple[str, ...] | None = None
        target_mean: tuple[float, ...] = ()
        target_scale: tuple[float, ...] = ()
        if self.kind == "classification":
            classes = tuple(sorted({*table.columns.texts[table.targets[0]][own].tolist()}))
        else:
            target_mean, target_scale = moments(table.columns.numbers[own][:, count : count + len(table.targets)])
        return TableFormat(
            tuple(table.features),
            feature_mean,
            feature_scale,
            tuple(table.targets),
            target_mean,
            target_scale,
            classes,
            self.task,
            self.order,
            self.missing,
        )
