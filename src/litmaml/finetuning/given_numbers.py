"""Numbers in whatever form a user has them, as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from litmaml.tasks import Tree, named_tensors


def is_tree(values: Any) -> bool:
    """Whether these are the parts of inputs or targets by name or position, and no rows.

    A tuple of tensors, arrays or dicts is parts by position, as in tasks; one of numbers, texts or lists is rows.
    """
    if isinstance(values, tuple):
        return any(is_tree(part) or getattr(part, "shape", ()) for part in values)
    return isinstance(values, Mapping)


def tree_of(argument: str, values: Any) -> Tree:
    """Numbers of any kind as a tensor (n, ...), or as a dict or tuple of such, of one n.

    Raises:
        ValueError: A part is no numbers, or not finite, or has other rows than the first.
    """
    found = _tree_of(argument, values)
    count = None
    for name, part in named_tensors(found, argument):
        count = len(part) if count is None else count
        if len(part) != count:
            raise ValueError(
                f"{name}: has {len(part)} rows, and the first of {argument} has {count}; give a row of each for every "
                "example (a tuple's parts are what the model takes by position, a list is rows)"
            )
        if part.numel():
            check_finite(name, part)
    if count is None:
        raise ValueError(f"{argument}: has no tensor, got {values!r}; give at least one")
    return found


def _tree_of(argument: str, values: Any) -> Tree:
    if not is_tree(values):
        return tensor_of(argument, values)
    if isinstance(values, Mapping):
        return {key: _tree_of(f"{argument}[{key!r}]", part) for key, part in values.items()}
    parts = [_tree_of(f"{argument}[{place}]", part) for place, part in enumerate(values)]
    return type(values)(*parts) if hasattr(values, "_fields") else tuple(parts)


def tensor_of(argument: str, values: Any) -> Tensor:
    """Numbers of any kind as a tensor (n, ...).

    Raises:
        ValueError: They are no numbers, or rows of different lengths.
    """
    if isinstance(values, Tensor):
        found = values.detach().to_dense() if values.layout != torch.strided else values.detach()
    elif isinstance(values, list | tuple) and values and all(isinstance(value, Tensor) for value in values):
        found = _stacked(argument, [value.detach() for value in values])
    else:
        found = _of_array(argument, values)
    if found.dim() == 0:
        raise ValueError(f"{argument}: has to be (n, ...), one row for each example, got the single number {found}")
    return found


def _stacked(argument: str, rows: list[Tensor]) -> Tensor:
    if len(shapes := {tuple(row.shape) for row in rows}) > 1:
        raise ValueError(f"{argument}: all examples have to be of one shape, got {sorted(shapes)}; cut or pad them")
    return torch.stack(rows)


def _of_array(argument: str, values: Any) -> Tensor:
    check_masks(argument, values)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{argument}: all examples have to be of one shape ({error}); cut or pad them") from error
    try:
        if array.dtype.kind in "OUS":
            array = array.astype(np.float64)  # None is not a number, and so is named by its row
        wide = {"u": np.int64, "f": np.float64}.get(array.dtype.kind)
        if wide is not None and array.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            array = array.astype(wide)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{argument}: has to hold numbers of one shape ({error}); convert or remove the rest"
        ) from error


def check_masks(argument: str, values: Any) -> None:
    """Refuse numbers that a masked array, or one in a list, has hidden: torch would take what lies below."""
    for part in values if isinstance(values, list | tuple) else (values,):
        if masked := int(np.ma.getmaskarray(part).sum()) if isinstance(part, np.ma.MaskedArray) else 0:
            raise ValueError(
                f"{argument}: {masked} of {part.size} numbers are masked; fill them in (.filled(value)) or remove "
                "their rows"
            )


def check_finite(argument: str, rows: Tensor) -> None:
    bad = ~rows.reshape(len(rows), -1).isfinite().all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        values = rows[row].flatten()
        value = float(values[~values.isfinite()][0].real)
        raise ValueError(
            f"{argument}: row {row} holds {value} ({int(bad.sum())} of {len(rows)} rows have a number that is not "
            "finite); fill in or remove them"
        )
