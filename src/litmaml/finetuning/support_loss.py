"""The loss of a whole support set: what its parts count in it, and when it is as low as one wants it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from litmaml.inner.class_losses import ignored_index, takes_class_indices
from litmaml.learner.trial.state import Drawn
from litmaml.tasks import Tree, count_of, tree_map

LEARNT = 0.05
"""The loss at which a support set is learnt: the true class has a probability of 95%, in the geometric mean. It counts
from the least that is possible, which label smoothing and targets that are probabilities lift above zero."""


def weigh(loss: nn.Module, parts: Sequence[Tree]) -> list[float]:
    """What each part's loss counts in that of all, by their targets (n_k, ...): l = sum_k w_k l_k.

    A sum adds up. A mean is over the examples; in torch's losses of class indices it is over the places that are not
    ignored, each with its class's weight.
    """
    if getattr(loss, "reduction", "mean") == "sum":
        return [1.0 for _ in parts]
    sizes = [_size(loss, targets) for targets in parts]
    return [size / sum(sizes) if size else 0.0 for size in sizes]


def check_parts(
    loss: nn.Module, predictions: Sequence[Tensor], targets: Sequence[Tree], shares: Sequence[float]
) -> None:
    """Refuse a loss that is no such sum of its parts, as one that divides by weights of its own.

    Args:
        loss: The inner loop's.
        predictions: (n_k, ...) of each part.
        targets: Of each part.
        shares: As ``weigh`` gives them.

    Raises:
        ValueError: With both numbers.
    """
    drawn = Drawn(predictions[0].device)
    if len(predictions) < 2:
        return
    with torch.no_grad(), drawn:
        value: Tensor = loss(torch.cat([*predictions]), tree_map(lambda *rows: torch.cat(rows), *targets))
        each = [share * float(loss(*both)) for share, *both in zip(shares, predictions, targets, strict=True) if share]
    whole = float(value)
    # What is not finite is told of with the step that it is found in.
    if not drawn.by_torch and abs(sum(each) - whole) > 0.01 * abs(whole) + 1e-6 * sum(map(abs, each)):
        raise ValueError(
            f"loss: {type(loss).__name__} of all {sum(map(len, predictions))} examples is {whole:.4g}, but "
            f"{sum(each):.4g} as the mean over parts of them, which a support set of this size is adapted to in; take "
            "a mean over the examples, or give fewer"
        )


def _size(loss: nn.Module, targets: Tree) -> float:
    if not isinstance(targets, Tensor):
        return count_of(targets)
    if not takes_class_indices(loss) or targets.is_floating_point() or isinstance(loss, nn.MultiMarginLoss):
        return len(targets)
    ignored, weight = ignored_index(loss), getattr(loss, "weight", None)
    labels = targets if ignored is None else targets[targets != ignored]
    return labels.numel() if weight is None else float(weight[labels.long()].double().sum())


def forget_class_weights(loss: nn.Module, classes: int) -> None:
    """Let a loss that weighs another number of classes weigh each alike: those that it knew are none of these."""
    weight = getattr(loss, "weight", None)
    if takes_class_indices(loss) and isinstance(weight, Tensor) and weight.shape != (classes,):
        warnings.warn(
            f"loss: its weight is for {weight.numel()} classes, and there are {classes} here, each of which counts "
            "alike; for weights of these, take MetaLearner.load_from_checkpoint(path, model=..., loss=...) with a head "
            "of as many",
            stacklevel=2,
        )
        loss.weight = None  # type: ignore[assignment]  # a buffer, which may be none


def learnt_at(loss: nn.Module, targets: Tree, classes: int) -> float:
    """The loss of a support set at which it is learnt (``LEARNT``).

    The least that is possible is the entropy of what cross entropy is taken to, (1 - s) q + s / C with the label
    smoothing s, C classes and q the targets. (With class weights it is that of all classes alike.)

    Args:
        loss: The inner loop's.
        targets: Of the whole support set.
        classes: C.
    """
    least = 0.0
    if isinstance(loss, nn.CrossEntropyLoss) and isinstance(targets, Tensor):
        soft = targets.is_floating_point()
        shares = targets.double().movedim(1, -1) if soft else torch.eye(classes, dtype=torch.float64)[:1]
        smoothed = (1 - loss.label_smoothing) * shares + loss.label_smoothing / classes
        least = float(torch.special.entr(smoothed).sum(-1).mean())
    if getattr(loss, "reduction", "mean") != "sum":
        return LEARNT + least
    soft = isinstance(targets, Tensor) and targets.is_floating_point()
    return (LEARNT + least) * (len(targets) if soft else _size(loss, targets))
