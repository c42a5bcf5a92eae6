"""A table that is read and checked: the rows of each task, the split of each, and what rows become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from litmaml.data.apart import check_apart
from litmaml.data.drawing import Rows, rows_by_name
from litmaml.data.leakage import fingerprints
from litmaml.data.row_order import times
from litmaml.data.shared_out import Dealing, by_column, composed
from litmaml.data.table_file import Columns, chosen
from litmaml.data.table_folder import FILE, FOLDER, names_in, read_table
from litmaml.data.table_format import Missing, TableFormat, moments, refuse_cells
from litmaml.runs.paths import expanded
from litmaml.shown import listed
from litmaml.tasks import Split

_REMOVE = "remove the row"
_TOO_LARGE = 1e150
"""Numbers whose squares would be infinite."""


@dataclass(frozen=True)
class TaskTable:
    """The rows of a table by task.

    Args:
        features: The names of the feature columns.
        targets: Those of the target columns, or the one that names the class.
        columns: What was read: numbers are the features, and in regression the targets.
        members: The rows of each task, in their order.
        splits: The split of each.
    """

    features: list[str]
    targets: list[str]
    columns: Columns
    members: dict[str, Rows]
    splits: dict[str, Split]


@dataclass(frozen=True)
class TableReader:
    """Reads a table; the arguments are those of ``TableTasks``.

    Raises:
        ValueError: A column is missing or no number, or all rows of a task stand in another split.
        FileNotFoundError: There is no such file.
    """

    path: str
    features: Sequence[str]
    targets: Sequence[str]
    task: str | None
    classes: bool
    order: str | None
    missing: Missing
    split_column: str | None
    dealing: Dealing

    def read(self) -> TaskTable:
        """The table, read and checked."""
        task = self._task_column()
        split = None if self.split_column is None else composed(self.split_column)
        names = names_in(self.path)
        targets = chosen(self.targets, names, "targets")
        apart = {task, *targets} | ({split} if split else set())
        if named := [name for name in map(composed, self.features) if name in apart]:
            raise ValueError(f"features: {named[0]!r} is the task, a target or the split; leave it out")
        features = [name for name in chosen(self.features, names, "features") if name not in apart]
        values, classes = ([], targets) if self.classes else (targets, [])
        more = [name for name in (split, self.order) if name is not None]
        columns = read_table(self.path, [*features, *values], [task, *classes, *more])
        members = rows_by_name(columns.texts[task].tolist())
        if "" in members:
            line = columns.lines[members[""][0]]
            raise ValueError(f"task: line {line}, column {task!r}: is empty; name the task of each row")
        self._check_cells(columns, features, targets)
        if self.order is not None:
            time = times(columns, self.order, "order")
            refuse_cells(~np.isfinite(time)[:, None], time[:, None], columns.lines, [self.order], "order", _REMOVE)
            members = {name: rows[np.argsort(time[rows], kind="stable")] for name, rows in members.items()}
        if split is None and FOLDER in columns.texts and self.dealing.split_file is None:
            split = FOLDER
        if split is not None:
            splits = by_column(columns.texts[task].tolist(), columns.texts[split].tolist(), split)
        else:
            splits = self.dealing.splits_of([*members])
        check_apart(fingerprints(torch.from_numpy(columns.numbers)), members, splits, "task", "rows")
        return TaskTable(features, targets, columns, members, splits)

    def _task_column(self) -> str:
        if self.task is None and not expanded(self.path).is_dir():
            raise ValueError(
                f"task: has to be the column that names the task of each row, got none for {self.path!r}; give it, or "
                "as path a folder with a file for each task"
            )
        return FILE if self.task is None else self.task

    def _check_cells(self, columns: Columns, features: list[str], targets: list[str]) -> None:
        rows, count = columns.numbers, len(features)
        fits = np.abs(rows) < _TOO_LARGE
        wrong = ~fits[:, :count] & ~(np.isnan(rows[:, :count]) & (self.missing == "mean"))
        remedy = "fill it in, remove the row, or set missing to mean"
        refuse_cells(wrong, rows[:, :count], columns.lines, features, "features", remedy)
        rest = rows[:, count:]
        refuse_cells(~fits[:, count:], rest, columns.lines, targets, "targets", _REMOVE)
        for name in targets if self.classes else []:
            if empty := [line for cell, line in zip(columns.texts[name], columns.lines, strict=True) if not cell]:
                raise ValueError(
                    f"targets: line {empty[0]}, column {name!r}: is empty; remove such rows ({len(empty)})"
                )

    def format_of(self, table: TaskTable) -> TableFormat:
        """What rows become, by those of the training tasks alone.

        Raises:
            ValueError: There are none, or they say nothing of a column or class.
        """
        rows = [rows for name, rows in table.members.items() if table.splits[name] == "train"]
        if not rows:
            raise ValueError("split: no task is of the split train, by whose rows all are standardised; give it some")
        own = np.concatenate(rows)
        count = len(table.features)
        known = table.columns.numbers[own][:, :count]
        if nothing := [name for k, name in enumerate(table.features) if not np.isfinite(known[:, k]).any()]:
            raise ValueError(
                f"features: no training task has a number in the column {listed(nothing, 3)}; leave it out"
            )
        feature_mean, feature_scale = moments(known)
        classes: tuple[str, ...] | None = None
        target_mean: tuple[float, ...] = ()
        target_scale: tuple[float, ...] = ()
        if self.classes:
            classes = tuple(sorted({*table.columns.texts[table.targets[0]][own].tolist()}))
            if len(classes) == 1:
                raise ValueError(f"targets: all training tasks have the one class {classes[0]!r}; name another column")
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
