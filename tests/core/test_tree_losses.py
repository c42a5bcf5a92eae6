"""Losses of targets that are a tree, and of one tensor: what is told of classes, ranges and stretched shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from litmaml import MetaLearner
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.learner.checks import check_labels
from litmaml.learner.trial.loss_checks import check_loss_on
from litmaml.models import MLP
from litmaml.tasks import Batch, Tasks


class Of(nn.Module):
    """A loss that is a function."""

    def __init__(self, taken: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.taken = taken

    def forward(self, predictions: Tensor, targets: Any) -> Tensor:
        return self.taken(predictions, targets)


class Two(nn.CrossEntropyLoss):
    """Classes with a value beside them."""

    def forward(self, predictions: Tensor, targets: Any) -> Tensor:
        found: Tensor = super().forward(predictions[:, :3], targets["label"])
        return found + (predictions[:, 3] - targets["value"]).square().mean()


SCORES = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 2, 1])
VALUES = torch.linspace(0.1, 0.9, 5)

REFUSED: dict[str, tuple[nn.Module, Any, str]] = {
    "a class too many": (Two(), {"label": LABELS + 1, "value": VALUES}, "ways: the tasks have 4 classes, but .* 3 log"),
    "a class below 0": (Two(), {"label": LABELS - 1, "value": VALUES}, "targets: class indices begin at 0, got -1"),
    "a range": (
        Of(lambda p, t: functional.binary_cross_entropy_with_logits(p[:, 0], t[1])),
        (LABELS, VALUES + 1),
        "targets: BCEWithLogitsLoss takes targets of 0 to 1, got 1.1",
    ),
    "a module within": (
        Of(lambda p, t: nn.KLDivLoss(reduction="sum")(p.log_softmax(1), t["shares"])),
        {"shares": SCORES},
        "targets: KLDivLoss takes targets of 0 to 1",
    ),
    "stretched by torch": (
        Of(lambda p, t: functional.mse_loss(p[:, :1], t["value"])),
        {"value": VALUES},
        r"targets: MSELoss takes them in the shape of the predictions, \(5, 1\), got \(5,\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_parts_of_a_tree_are_judged_by_the_losses_that_are_taken_of_them(case: str) -> None:
    loss, targets, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        check_loss_on(loss, SCORES, targets)


@pytest.mark.parametrize("weight", [torch.ones(5, 1), torch.rand(5, 1)])
def test_a_part_that_a_hand_written_loss_stretches_is_named(weight: Tensor) -> None:
    loss = Of(lambda p, t: (t["weight"] * (p - t["value"]).square()).mean())
    scores = SCORES[:, :1]
    check_loss_on(loss, scores, {"value": VALUES[:, None], "weight": weight})
    with pytest.raises(ValueError, match=r"targets\['value'\]: Of takes them in the shape .* got \(5,\)"):
        check_loss_on(loss, scores, {"value": VALUES, "weight": weight})


HONEST: dict[str, tuple[nn.Module, Any]] = {
    "two heads": (Two(), {"label": LABELS, "value": VALUES}),
    "what is ignored": (Two(), {"label": torch.tensor([0, -100, 2, 2, -100]), "value": VALUES}),
    "a weight for each": (
        Of(lambda p, t: (t["weight"] * functional.cross_entropy(p, t["label"], reduction="none")).mean()),
        {"label": LABELS, "weight": VALUES},
    ),
    "lengths": (
        Of(lambda p, t: ((p - t["value"][:, None]).square().sum(1) / t["length"]).mean()),
        {"value": VALUES, "length": LABELS + 1},
    ),
    "pairs with each other": (  # a loss of all pairs is meant so
        Of(lambda p, t: ((p[:, None, 0] - p[None, :, 0]) - (t["x"][:, None] - t["x"][None])).square().mean()),
        {"x": VALUES},
    ),
    "one number only": (Of(lambda p, t: functional.mse_loss(p.mean(), t["x"].mean())), {"x": VALUES}),
}


@pytest.mark.parametrize("case", HONEST)
def test_honest_losses_of_trees_pass(case: str) -> None:
    loss, targets = HONEST[case]
    check_loss_on(loss, SCORES, targets)


def test_as_many_classes_as_examples_are_no_stretched_values() -> None:
    one_hot = Of(lambda p, t: -(functional.one_hot(t, p.shape[1]) * p.log_softmax(1)).sum(-1).mean())
    check_loss_on(one_hot, SCORES[:4], torch.tensor([0, 1, 2, 3]))
    across = Of(lambda p, t: (p - t).square().mean())
    for targets in (torch.tensor([0, 1, 2, 3]), VALUES[:4]):
        with pytest.raises(ValueError, match=r"targets: Of takes them in the shape of the predictions, \(4, 4\)"):
            check_loss_on(across, SCORES[:4], targets)


def test_all_tasks_classes_are_looked_at() -> None:
    def tasks(labels: Tensor) -> Tasks:
        batch = Batch(torch.randn(3, 5, 2), {"label": labels, "value": torch.randn(3, 5)})
        return Tasks((batch,), batch, torch.arange(3))

    loop = InnerLoop(MLP(inputs=2, outputs=4), Two(), SGD(), ["*"], 1)
    labels = LABELS.repeat(3, 1)
    assert check_labels(loop, tasks(labels)).shape == (5, 4)
    labels = labels.clone()
    labels[2, 3] = 3
    with pytest.raises(ValueError, match="ways: the tasks have 4 classes, but the model gives 3 logits"):
        check_labels(loop, tasks(labels))


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild loss")
def test_a_learner_of_classes_in_a_tree_is_tried() -> None:
    batch = Batch(torch.randn(3, 5, 2), {"label": LABELS.repeat(3, 1), "value": torch.randn(3, 5)})
    learner = MetaLearner(MLP(inputs=2, outputs=4), loss=Two(), metrics={})
    learner._try(Tasks((batch,), batch._replace(inputs=torch.randn(3, 5, 2)), torch.arange(3)))
