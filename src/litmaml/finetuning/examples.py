"""A user's examples, made to what a meta-checkpoint was trained on, or refused by row and value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from litmaml.finetuning.input_shape import a_few, check_single, fitted, outputs_of
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.loss_kinds import ignored_index, is_elementwise, takes_class_indices
from litmaml.learner.trial.model_copy import copy_of
from litmaml.shown import listed


class Examples(NamedTuple):
    """What a model is adapted to, on its device.

    inputs: (n, ...), as the model takes them.
    targets: (n, ...) class indices or values, as the loss takes them.
    classes: the classes' names; None in regression.
    """

    inputs: Tensor
    targets: Tensor
    classes: list[str] | None


def read_examples(inner_loop: InnerLoop, inputs: Any, targets: Any, classes: Sequence[str] | None = None) -> Examples:
    """Tensors, arrays or lists as the examples that an inner loop adapts to.

    Whether the targets are classes or values is decided by the loss: by torch's own, whatever the targets look like; by
    another one's if there are names, or whole numbers for several outputs. A dimension of size one is put in or left
    out where the model's shapes have it otherwise.

    Args:
        inner_loop: Of the meta-checkpoint; it is not changed.
        inputs: (n, ...).
        targets: (n,) class indices, names or one-hot rows, or (n, ...) values.
        classes: The classes' names in the order of their indices.

    Raises:
        ValueError: Naming inputs, targets or classes, the row and the value.
    """
    check_single(inner_loop.output, inputs)
    loss, model = inner_loop.loss, copy_of(inner_loop.model).eval()
    device = next(model.parameters()).device
    rows, given = tensor_of("inputs", inputs), _targets_of(targets)
    if len(rows) != len(given) or len(rows) == 0:
        raise ValueError(f"targets: there are {len(rows)} inputs and {len(given)} targets; give one for each")
    _check_finite("inputs", rows)
    rows = fitted(model, rows.to(device))
    outputs = outputs_of(model, a_few(rows))
    shape = (len(rows), *outputs.shape[1:])
    if isinstance(given, Tensor) and given.is_complex() and not outputs.is_complex():
        raise ValueError(
            f"targets: are complex ({given.dtype}), but the checkpoint's model gives real numbers; take their real "
            "part, their magnitude, or both parts side by side (torch.view_as_real)"
        )
    if not _are_classes(loss, given, shape, classes):
        if classes is not None:
            raise ValueError(
                f"classes: the checkpoint was trained on values ({type(loss).__name__}), not on classes; leave them out"
            )
        values = _values(loss, given, shape)
        whole = is_elementwise(loss) and not isinstance(loss, nn.MultiLabelMarginLoss)
        real = values.is_floating_point() or (whole and not values.is_complex())
        return Examples(rows, values.to(rows) if real else values.to(device), None)
    indices, names = _indices(loss, given, shape, None if classes is None else _names(classes))
    return Examples(rows, indices.to(rows if indices.is_floating_point() else device), names)


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
    _check_masks(argument, values)
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


def _check_masks(argument: str, values: Any) -> None:
    """Refuse numbers that a masked array, or one in a list, has hidden: torch would take what lies below."""
    for part in values if isinstance(values, list | tuple) else (values,):
        if masked := int(np.ma.getmaskarray(part).sum()) if isinstance(part, np.ma.MaskedArray) else 0:
            raise ValueError(
                f"{argument}: {masked} of {part.size} numbers are masked; fill them in (.filled(value)) or remove "
                "their rows"
            )


def _targets_of(targets: Any) -> Tensor | list[str]:
    """Numbers, or names."""
    if isinstance(targets, Tensor) or not hasattr(targets, "__len__") or len(targets) == 0:
        return tensor_of("targets", targets)
    _check_masks("targets", targets)
    array = np.asarray(targets, dtype=object if _holds_text(targets) else None)
    if array.ndim == 1 and len(array) and all(isinstance(value, str | bytes) for value in array.tolist()):
        return [value.decode() if isinstance(value, bytes) else str(value) for value in array.tolist()]
    return tensor_of("targets", targets)


def _holds_text(values: Any) -> bool:
    """Whether these are names: numpy would make texts of numbers that stand beside some."""
    return not isinstance(values, np.ndarray) and any(isinstance(value, str | bytes) for value in values)


def _check_finite(argument: str, rows: Tensor) -> None:
    bad = ~rows.reshape(len(rows), -1).isfinite().all(1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        values = rows[row].flatten()
        value = float(values[~values.isfinite()][0].real)
        raise ValueError(
            f"{argument}: row {row} holds {value} ({int(bad.sum())} of {len(rows)} rows have a number that is not "
            "finite); fill in or remove them"
        )


def _are_classes(loss: nn.Module, targets: Tensor | list[str], shape: tuple[int, ...], classes: object) -> bool:
    """Whether the targets are classes, for a model whose predictions have this shape."""
    if takes_class_indices(loss) or is_elementwise(loss):
        return takes_class_indices(loss)
    if classes is not None or not isinstance(targets, Tensor):
        return True
    whole = not (targets.is_floating_point() or targets.is_complex())
    return whole and len(shape) > 1 and shape[1] > 1 and targets.dim() == len(shape) - 1


def _values(loss: nn.Module, targets: Tensor | list[str], shape: tuple[int, ...]) -> Tensor:
    """Values to regress on in the predictions' shape, where theirs differs from it by dimensions of one."""
    if not isinstance(targets, Tensor):
        raise ValueError(
            f"targets: the checkpoint was trained on values ({type(loss).__name__}), got {targets[0]!r}; give numbers"
        )
    _check_finite("targets", targets)
    if [size for size in targets.shape[1:] if size != 1] == [size for size in shape[1:] if size != 1]:
        targets = targets.reshape(shape)
    return targets


def _names(classes: Sequence[str]) -> list[str]:
    if isinstance(classes, str):
        raise ValueError(f"classes: has to be a list of names, got {classes!r}; write [{classes!r}, ...]")
    names = [str(name) for name in classes]
    if not names:
        raise ValueError("classes: is empty; name the classes in the order of their indices, or leave it out")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"classes: named more than once: {listed(twice)}; give each class a name of its own")
    return names


def _indices(
    loss: nn.Module, targets: Tensor | list[str], shape: tuple[int, ...], names: list[str] | None
) -> tuple[Tensor, list[str]]:
    """Class indices (n, ...), or probabilities of the classes, and the classes' names."""
    if not isinstance(targets, Tensor):
        targets, names = _indices_of_names(targets, names)
    _check_finite("targets", targets)
    wanted = (shape[0], *shape[2:])
    if targets.dim() == len(shape) and (targets.shape[0], *targets.shape[2:]) == wanted and targets.shape[1] > 1:
        names = names or [str(k) for k in range(targets.shape[1])]
        return _of_rows(loss, targets, len(names)), names
    if [size for size in targets.shape[1:] if size != 1] != [size for size in wanted[1:] if size != 1]:
        raise ValueError(
            f"targets: for predictions {shape} class indices have the shape {wanted}, got {tuple(targets.shape)}; "
            "give one class for each"
        )
    whole = targets.round().long() if targets.is_floating_point() else targets.long()
    if bool((broken := whole != targets).any()):
        raise ValueError(
            f"targets: the checkpoint was trained on classes ({type(loss).__name__}), whose indices are whole numbers, "
            f"got {float(targets[broken][0]):.4g}; to regress on values start from a checkpoint of a regression"
        )
    return _in_range(whole.reshape(wanted), ignored_index(loss), shape, names)


def _in_range(
    indices: Tensor, ignored: int | None, shape: tuple[int, ...], names: list[str] | None
) -> tuple[Tensor, list[str]]:
    counted = indices if ignored is None else indices[indices != ignored]
    if counted.numel() == 0:
        raise ValueError(f"targets: all are {ignored}, which the loss ignores; give at least two classes")
    low, high = int(counted.min()), int(counted.max())
    dense = len(shape) > 2
    if names is None:
        _check_without_gaps(counted, low, high, dense)
        names = [str(k) for k in range(max(high + 1, shape[1] if dense else 0))]
        if low == high and not dense:
            raise ValueError(
                f"targets: all examples are of class {low}, from which nothing can be told apart; give examples of at "
                "least two, or name all classes (classes)"
            )
    if low < 0 or high >= len(names):
        raise ValueError(f"targets: class indices must lie in 0 .. {len(names) - 1}, got {low} .. {high}")
    return indices, names


def _check_without_gaps(indices: Tensor, low: int, high: int, dense: bool) -> None:
    """Refuse indices that count from 1, or that are names: the model would get outputs that nothing is known of."""
    there = {*indices.flatten().tolist()}
    without = [str(k) for k in range(min(high, len(there) + 3)) if k not in there]
    if 0 <= low < high and not dense and without:
        raise ValueError(
            f"targets: of the classes 0 .. {high} there is no example of {listed(without)}; number them from 0 on, "
            "give names in place of numbers, or name all classes (classes)"
        )


def _indices_of_names(labels: list[str], names: list[str] | None) -> tuple[Tensor, list[str] | None]:
    """Indices of names; of indices that are written as text, the numbers."""
    different = {*labels}
    numbers = [int(label) for label in different] if all(label.isdecimal() for label in different) else []
    if numbers and (sorted(numbers) == [*range(len(numbers))] if names is None else not different <= {*names}):
        return torch.tensor([int(label) for label in labels]), names
    names = sorted({*labels}) if names is None else names
    if unknown := sorted({*labels} - {*names}):
        raise ValueError(f"targets: no class is called {listed(unknown)}; the classes are {listed(names)}")
    return torch.tensor([names.index(label) for label in labels]), names


def _of_rows(loss: nn.Module, rows: Tensor, classes: int) -> Tensor:
    """One-hot rows as indices, and probabilities as they are."""
    rows = rows.double()
    shares = bool((rows >= 0).all()) and bool(((rows.sum(1) - 1).abs() < 1e-4).all())
    one_hot = bool(((rows == 0) | (rows == 1)).all())
    if rows.shape[1] != classes or not shares or not (one_hot or isinstance(loss, nn.CrossEntropyLoss)):
        raise ValueError(
            f"targets: got {tuple(rows.shape)}, which are neither class indices ({len(rows)},) nor rows of {classes} "
            f"probabilities that {type(loss).__name__} takes; give the index of each example's class"
        )
    return rows.argmax(1) if one_hot else rows
