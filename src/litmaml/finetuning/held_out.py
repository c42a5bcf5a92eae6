"""How good a model is when there are no images to try it on: each is left out of the support set in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.shown import listed
from litmaml.tasks import Tree, select

_ONE_BY_ONE = 50
_FOLDS = 5
_ONCE = 1000


def folds(targets: Tensor) -> list[Tensor]:
    """Which examples to leave out together: one by one up to 50; of more a fifth at a time; from 1,000 only one fifth.

    Args:
        targets: (n,) class indices, sorted; each class at least twice, so that one is always left.
    """
    number = len(targets) if len(targets) <= _ONE_BY_ONE else _FOLDS
    rounds = 1 if len(targets) >= _ONCE else number
    return [torch.arange(k, len(targets), number) for k in range(rounds)]


def why_not(targets: Tensor, classes: Sequence[str]) -> str | None:
    """Why no example can be left out, or None if it can."""
    counts = torch.bincount(targets, minlength=len(classes)).tolist()
    if single := [name for name, count in zip(classes, counts, strict=True) if count < 2]:
        return (
            f"The support set is too small to tell how good the model is: with one image only of {listed(single)} "
            "none can be left out to try the model on. Give --query, or two images of each class."
        )
    return None


def held_out(
    tuner: FineTuner, inputs: Tree, targets: Tensor, left_out: Sequence[Tensor] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Adapt without each fold in turn.

    Args:
        tuner: Adapts, each time from the meta-learnt start.
        inputs: (n, ...) the support set, or a tree of such.
        targets: (n,) class indices, sorted, or (n, ...) values.
        left_out: Which examples to leave out together; by default ``folds``.

    Yields:
        The indices of the examples left out (m,), and their predictions (m, ...) by the model, frozen, that never saw
        them.
    """
    for some in folds(targets) if left_out is None else left_out:
        kept = torch.ones(len(targets), dtype=torch.bool)
        kept[some] = False
        *_, last = tuner.path(select(inputs, kept), targets[kept])
        model = tuner.module(last.weights, select(inputs, kept))
        with torch.no_grad():
            yield some, model(select(inputs, some))
