"""A user's examples, made to what a meta-checkpoint was trained on, or refused by row and value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from litmaml.finetuning.given_numbers import check_finite, check_masks, is_tree, tensor_of, tree_of
from litmaml.finetuning.input_shape import a_few, fitted, outputs_of, real_kind
from litmaml.inner.class_losses import ignored_index, takes_class_indices
from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.loss_kinds import is_elementwise
from litmaml.learner.trial.model_copy import copy_of
from litmaml.shown import listed
from litmaml.tasks import Tree, count_of, tree_map


class Examples(NamedTuple):
    """What a model is adapted to, on its device.

    inputs: (n, ...), or a tree of such, as the model takes them.
    targets: (n, ...) class indices or values, or a tree of such, as the loss takes them.
    classes: the classes' names; None in regression, and where targets are a tree.
    """

    inputs: Tree
    targets: Tree
    classes: list[str] | None


def read_examples(inner_loop: InnerLoop, inputs: Any, targets: Any, classes: Sequence[str] | None = None) -> Examples:
    """Tensors, arrays or lists, or dicts and tuples of such, as the examples that an inner loop adapts to.

    Whether the targets are classes or values is decided by the loss: by torch's own, whatever the targets look like; by
    another one's if there are names, or whole numbers for several outputs. A dimension of size one is put in or left
    out where the model's shapes have it otherwise. Targets that are a dict or a tuple are the loss's own affair: they
    are given to it as they are, real numbers in the model's precision.

    Args:
        inner_loop: Of the meta-checkpoint; it is not changed.
        inputs: (n, ...), or a dict or tuple of such (a tuple of tensors or arrays is no list of rows).
        targets: (n,) class indices, names or one-hot rows, or (n, ...) values, or a dict or tuple of such.
        classes: The classes' names in the order of their indices.

    Raises:
        ValueError: Naming inputs, targets or classes, the row and the value.
    """
    loss, model = inner_loop.loss, copy_of(inner_loop.model).eval()
    device, real = next(model.parameters()).device, real_kind(model)
    rows, given = tree_of("inputs", inputs), _targets_of(targets)
    count, wanted = count_of(rows), len(given) if isinstance(given, list) else count_of(given)
    if count != wanted or count == 0:
        rule = " (a tuple's parts are what the model takes by position, a list is rows)" if is_tree(inputs) else ""
        raise ValueError(f"targets: there are {count} inputs and {wanted} targets; give one for each{rule}")
    rows = fitted(model, tree_map(lambda part: part.to(device), rows), inner_loop.output)
    outputs = outputs_of(model, a_few(rows), inner_loop.output)
    if not isinstance(given, Tensor | list):
        if classes is not None:
            raise ValueError(
                f"classes: of targets that are a {type(given).__name__} none can be told to be classes; leave them out"
            )
        values = tree_map(lambda part: part.to(device, real if part.is_floating_point() else None), given)
        return Examples(rows, values, None)
    shape = (count, *outputs.shape[1:])
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
        as_real = values.is_floating_point() or (whole and not values.is_complex())
        return Examples(rows, values.to(device, real if as_real else None), None)
    indices, names = _indices(loss, given, shape, None if classes is None else _names(classes))
    return Examples(rows, indices.to(device, real if indices.is_floating_point() else None), names)


def _targets_of(targets: Any) -> Tree | list[str]:
    """Numbers, a tree of such, or names."""
    if is_tree(targets):
        return tree_of("targets", targets)
    if isinstance(targets, Tensor) or not hasattr(targets, "__len__") or len(targets) == 0:
        return tensor_of("targets", targets)
    check_masks("targets", targets)
    array = np.asarray(targets, dtype=object if _holds_text(targets) else None)
    if array.ndim == 1 and len(array) and all(isinstance(value, str | bytes) for value in array.tolist()):
        return [value.decode() if isinstance(value, bytes) else str(value) for value in array.tolist()]
    return tensor_of("targets", targets)


def _holds_text(values: Any) -> bool:
    """Whether these are names: numpy would make texts of numbers that stand beside some."""
    return not isinstance(values, np.ndarray) and any(isinstance(value, str | bytes) for value in values)


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
    check_finite("targets", targets)
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
    check_finite("targets", targets)
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
