"""What rows of a table become: chosen columns, standardised by the numbers of the training tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litmaml.data.table_file import Numbers, cell_name
from litmaml.shown import listed

Missing = Literal["refuse", "mean"]
_MOST = 100_000
"""Columns or classes that a checkpoint's record may have."""


@dataclass(frozen=True)
class TableFormat:
    """How rows become inputs and targets, and predictions become values again.

    A number x of a column becomes (x - mean) / scale with the mean and the standard deviation over the rows of all
    training tasks; of a column that is constant there the scale is 1.

    Args:
        features: The columns of the inputs, in their order.
        feature_mean: The mean of each.
        feature_scale: The standard deviation of each.
        targets: The columns of the targets, or the one that names the class.
        target_mean: The mean of each; of classes none.
        target_scale: The standard deviation of each; of classes none.
        classes: The names of the classes in the order of their indices; None in regression.
        task: The column that names the task; None where each is a file.
        order: The column of the order, or None.
        missing: What is done about an empty cell among the features: "refuse", or "mean" for the training tasks' mean.
    """

    features: tuple[str, ...]
    feature_mean: tuple[float, ...]
    feature_scale: tuple[float, ...]
    targets: tuple[str, ...]
    target_mean: tuple[float, ...]
    target_scale: tuple[float, ...]
    classes: tuple[str, ...] | None
    task: str | None
    order: str | None = None
    missing: Missing = "refuse"

    def inputs(self, rows: Numbers) -> Tensor:
        """Standardised features (..., F) of rows of numbers (..., F)."""
        found = (rows - np.asarray(self.feature_mean)) / np.asarray(self.feature_scale)
        if self.missing == "mean":
            found = np.nan_to_num(found, nan=0.0)
        return torch.from_numpy(found.astype(np.float32))

    def values(self, rows: Numbers) -> Tensor:
        """Standardised targets (..., K) of rows of numbers (..., K)."""
        found = (rows - np.asarray(self.target_mean)) / np.asarray(self.target_scale)
        return torch.from_numpy(found.astype(np.float32))

    def unscaled(self, values: Tensor) -> Tensor:
        """Targets or predictions (..., K) in the table's own units, float64."""
        scale, mean = (torch.tensor(each, dtype=torch.float64) for each in (self.target_scale, self.target_mean))
        return values.detach().cpu().double() * scale + mean

    def indices(self, names: Sequence[str], argument: str) -> NDArray[np.int64]:
        """The index of each name of a class.

        Raises:
            ValueError: There is no class of a name.
        """
        places = {name: k for k, name in enumerate(self.classes or ())}
        if unknown := sorted({*map(cell_name, names)} - {*places}):
            raise ValueError(
                f"{argument}: no training task has the class {listed(unknown, 3)}, and those there are "
                f"{listed([*places], 3)}; give such rows to training or remove them, or set kind to regression if "
                "these are values"
            )
        return np.array([places[cell_name(name)] for name in names], dtype=np.int64)

    def check_present(self, rows: Numbers, lines: NDArray[np.int64], argument: str) -> None:
        """Refuse empty cells among the features, unless they are filled, and infinite numbers.

        Raises:
            ValueError: With line and column.
        """
        wrong = np.isinf(rows) if self.missing == "mean" else ~np.isfinite(rows)
        refuse_cells(wrong, rows, lines, self.features, argument, "fill it in, remove the row, or set missing to mean")

    def plain(self) -> dict[str, Any]:
        """The format as plain values, for a checkpoint."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of_plain(cls, record: object, what: str) -> TableFormat:
        """The format that ``plain`` gave, perhaps in a stranger's file.

        Raises:
            ValueError: It is another thing.
        """
        wrong = ValueError(f"{what}: is no format of a table; take another checkpoint")
        if not isinstance(record, Mapping) or {*record} != {*cls.__dataclass_fields__}:
            raise wrong
        names, counts = {}, {"feature": "features", "target": "targets"}
        for name in ("features", "targets", "classes"):
            value = record[name]
            if not (value is None and name == "classes"):
                if not _is_list(value, str) or not value:
                    raise wrong
                value = tuple(value)
            names[name] = value
        numbers = {}
        for part, of in counts.items():
            for kind in ("mean", "scale"):
                value = record[f"{part}_{kind}"]
                expected = 0 if part == "target" and names["classes"] is not None else len(names[of])
                if not _is_list(value, float) or len(value) != expected or not all(map(isfinite, value)):
                    raise wrong
                if kind == "scale" and not all(each > 0 for each in value):
                    raise wrong
                numbers[f"{part}_{kind}"] = tuple(value)
        task, order, missing = record["task"], record["order"], record["missing"]
        texts = (str, type(None))
        if type(task) not in texts or type(order) not in texts or missing not in ("refuse", "mean"):
            raise wrong
        return cls(**names, **numbers, task=task, order=order, missing=missing)


def refuse_cells(
    wrong: NDArray[np.bool_],
    rows: Numbers,
    lines: NDArray[np.int64],
    names: Sequence[str],
    argument: str,
    remedy: str,
) -> None:
    """Refuse cells, naming the first.

    Raises:
        ValueError: One is wrong.
    """
    if wrong.any():
        row, column = (int(place) for place in np.argwhere(wrong)[0])
        value = rows[row, column]
        raise ValueError(
            f"{argument}: line {lines[row]}, column {names[column]!r}: is {'empty' if np.isnan(value) else value} "
            f"({int(wrong.sum())} such cells in {int(wrong.any(1).sum())} rows); {remedy}"
        )


def moments(rows: Numbers) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each column, of those that are there; 1 for the deviation of a constant."""
    there = np.isfinite(rows)
    count = np.maximum(there.sum(0), 1)
    mean = np.where(there, rows, 0.0).sum(0) / count
    spread = np.sqrt((np.where(there, rows - mean, 0.0) ** 2).sum(0) / count)
    constant = spread <= 1e-12 * np.abs(mean)
    return tuple(mean.tolist()), tuple(np.where(constant, 1.0, spread).tolist())


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and len(value) <= _MOST and all(type(part) is kind for part in value)
