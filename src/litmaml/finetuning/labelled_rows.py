"""A user's rows of one new task: those to adapt to, and those to predict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmaml.data.row_order import times
from litmaml.data.table_file import column_names, read_columns
from litmaml.data.table_format import TableFormat, refuse_cells
from litmaml.shown import listed


@dataclass(frozen=True)
class Rows:
    """Rows of one task as its model takes them, in their order.

    Args:
        inputs: (n, features).
        targets: (n, targets), or (n,) of classes; anything where they are not known.
        known: (n,) whether they are.
        lines: (n,) where each stands in the file.
    """

    inputs: Tensor
    targets: Tensor
    known: Tensor
    lines: NDArray[np.int64]

    def labelled(self, known: bool = True) -> Rows:
        """The rows whose targets are known, or the others."""
        mine = self.known == known
        lines = self.lines[mine.cpu().numpy()]
        return Rows(self.inputs[mine], self.targets[mine], self.known[mine], lines)

    def to(self, device: str) -> Rows:
        """The same rows on another device."""
        return Rows(self.inputs.to(device), self.targets.to(device), self.known.to(device), self.lines)

    def __len__(self) -> int:
        return len(self.known)


def read_rows(path: str, made: TableFormat, argument: str) -> Rows:
    """The rows of a file that holds one task. Where the targets' columns are missing or empty, they are not known.

    Args:
        path: CSV, TSV or Parquet with the columns of the features.
        made: What the rows of meta-training became.
        argument: What the path was given for, for the errors.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing, a cell is wrong, or there are rows of several tasks.
    """
    names = column_names(path, argument)
    there = [name for name in made.targets if name in names]
    values, labels = ([], there) if made.classes is not None else (there, [])
    order = [made.order] if made.order is not None and made.order in names else []
    one = [made.task] if made.task is not None and made.task in names else []
    columns = read_columns(path, [*made.features, *values], [*one, *labels, *order], argument)
    for name in one:
        if len(tasks := {*columns.texts[name].tolist()}) > 1:
            raise ValueError(
                f"{argument}: has rows of {len(tasks)} tasks by the column {name!r} ({listed(sorted(tasks), 3)}); give "
                "those of one"
            )
    count = len(made.features)
    features, rest = columns.numbers[:, :count], columns.numbers[:, count:]
    made.check_present(features, columns.lines, argument)
    refuse_cells(np.isinf(rest), rest, columns.lines, values, argument, "give a number")
    by = np.arange(len(rest))
    for name in order:
        time = times(columns, name, argument)
        refuse_cells(~np.isfinite(time)[:, None], time[:, None], columns.lines, order, argument, "fill it in")
        by = np.argsort(time, kind="stable")
    if len(there) < len(made.targets):
        known: NDArray[np.bool_] = np.zeros(len(rest), dtype=bool)
        targets = torch.zeros(len(rest), len(made.targets)) if made.classes is None else torch.zeros(len(rest)).long()
    elif made.classes is None:
        wanted = rest
        known = np.array([bool(row.all()) for row in np.isfinite(wanted)])
        targets = made.values(np.where(known[:, None], wanted, 0.0))
    else:
        cells = columns.texts[labels[0]]
        known = np.array([cell != "" for cell in cells])
        indices = np.zeros(len(rest), dtype=np.int64)
        indices[known] = made.indices(cells[known].tolist(), argument)
        targets = torch.from_numpy(indices)
    return Rows(
        made.inputs(features[by]), targets[torch.from_numpy(by)], torch.from_numpy(known[by]), columns.lines[by]
    )


def check_apart(support: Rows, query: Rows) -> None:
    """Refuse scored rows that the model was adapted to.

    Raises:
        ValueError: Naming at most three of their lines.
    """

    def marks(rows: Rows) -> list[bytes]:
        return [x.numpy().tobytes() + y.numpy().tobytes() for x, y in zip(rows.inputs, rows.targets, strict=True)]

    scored, seen = query.labelled(), {*marks(support)}
    if twice := [str(line) for line, mark in zip(scored.lines, marks(scored), strict=True) if mark in seen]:
        raise ValueError(
            f"query: {len(twice)} of {len(scored)} rows stand in --data too (line {listed(twice, 3)}); the score on "
            "what was adapted to is too good: remove them from one of the two"
        )
