"""What a loss can be taken of: every loss of torch on the right form, and on the wrong ones."""

from __future__ import annotations

import dataclasses
import doctest
import math
import warnings
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from litmaml.learner.trial import loss_checks
from litmaml.learner.trial.loss_checks import check_loss_on
from litmaml.problems import HalfSquaredLoss, LogCoshLoss, RankOneLoss

DRAW = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=DRAW)


def share(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=DRAW)


N, C = 6, 3
COLUMN, ROWS, LABELS = normal(N, 1), normal(N, C), torch.tensor([0, 1, 2, 2, 1, 0])
SIGNS = torch.where(normal(N, 1) > 0, 1.0, -1.0)
HOT = nn.functional.one_hot(LABELS, C).float()
LOGS = ROWS.log_softmax(1)
PADDED = torch.tensor([0, -100, 2, 2, -100, 0])
VOID = torch.full((N, 4, 5), 255).index_fill(1, LABELS[:1], 2)

# Losses with the predictions and targets that they are meant for.
RIGHT: list[tuple[nn.Module, Tensor, Tensor]] = [
    *((loss, p, t) for loss in (nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss()) for p, t in (
        (COLUMN, normal(N, 1)), (normal(N), normal(N)), (normal(N, 4, 5), normal(N, 4, 5)), (normal(1), normal(1)),
    )),
    (nn.MSELoss(), COLUMN, LABELS[:, None]),  # whole numbers as values: torch takes them as such
    (nn.MSELoss(), COLUMN.double(), normal(N, 1)),
    (nn.MSELoss(reduction="sum"), COLUMN, normal(N, 1)),
    (nn.CrossEntropyLoss(), ROWS, LABELS),
    (nn.CrossEntropyLoss(), ROWS, LABELS.to(torch.uint8)),
    (nn.CrossEntropyLoss(), ROWS, PADDED),
    (nn.CrossEntropyLoss(ignore_index=255), ROWS, PADDED.where(PADDED >= 0, 255)),
    (nn.CrossEntropyLoss(ignore_index=255), normal(N, C, 4, 5), VOID),
    (nn.CrossEntropyLoss(), ROWS, ROWS.softmax(1)),
    (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2, 3]), label_smoothing=0.1, reduction="sum"), ROWS, LABELS),
    (nn.CrossEntropyLoss(), normal(N, C, 4), torch.ones(N, 4).long()),
    (nn.CrossEntropyLoss(), normal(C, C), torch.arange(C)),  # as many examples as classes
    (nn.CrossEntropyLoss(), COLUMN, torch.zeros(N).long()),  # a single class
    (nn.CrossEntropyLoss(), LOGS, LABELS),  # log-probabilities are logits too
    (nn.NLLLoss(), LOGS, LABELS),
    (nn.NLLLoss(ignore_index=1), LOGS, LABELS),
    (nn.NLLLoss(), normal(N, C, 4, 5).log_softmax(1), torch.ones(N, 4, 5).long()),
    (nn.MultiMarginLoss(), ROWS, LABELS),
    (nn.BCEWithLogitsLoss(), COLUMN, (SIGNS + 1) / 2),
    (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2, 3])), ROWS, HOT),
    (nn.BCELoss(), share(N, C), share(N, C)),
    (nn.KLDivLoss(), LOGS, HOT),
    (nn.KLDivLoss(reduction="batchmean", log_target=True), LOGS, LOGS.roll(1, 0)),
    (nn.PoissonNLLLoss(), COLUMN, LABELS[:, None]),
    (nn.PoissonNLLLoss(), COLUMN, LABELS[:, None].float()),
    (nn.HingeEmbeddingLoss(), COLUMN, SIGNS),
    (nn.SoftMarginLoss(), COLUMN, SIGNS),
    (nn.MultiLabelSoftMarginLoss(), ROWS, HOT),
    (nn.MultiLabelMarginLoss(), ROWS, torch.tensor([[0, 2, -1]] * N)),
    (HalfSquaredLoss(), COLUMN, normal(N, 1)),
    (LogCoshLoss(), COLUMN, normal(N, 1)),
    (RankOneLoss(), normal(N, 4), normal(N, 4, 5)),
    (RankOneLoss(), normal(2, 1), normal(2, 1, 2)),  # shapes that could be stretched to each other
]  # fmt: skip
THREE_ARGUMENTS = [
    nn.GaussianNLLLoss(), nn.CosineEmbeddingLoss(), nn.MarginRankingLoss(), nn.TripletMarginLoss(),
    nn.TripletMarginWithDistanceLoss(), nn.CTCLoss(),
]  # fmt: skip
WITH_WEIGHTS = {"AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"}  # refused by check_loss


def name_of(value: object) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else ""


@pytest.mark.parametrize(("loss", "predictions", "targets"), RIGHT, ids=name_of)
def test_what_a_loss_is_meant_for_passes_and_is_left_alone(
    loss: nn.Module, predictions: Tensor, targets: Tensor
) -> None:
    before = predictions.clone(), targets.clone()
    check_loss_on(loss, predictions, targets)
    with torch.inference_mode():
        check_loss_on(loss, predictions.clone(), targets.clone())
    assert torch.equal(predictions, before[0])
    assert torch.equal(targets, before[1])
    assert predictions.grad is None


def test_every_loss_of_torch_is_here() -> None:
    here = {name_of(loss) for loss, *_ in RIGHT} | {name_of(loss) for loss in THREE_ARGUMENTS} | WITH_WEIGHTS
    assert here >= {name for name in vars(nn) if name.endswith("Loss")}


@pytest.mark.parametrize("loss", THREE_ARGUMENTS, ids=name_of)
def test_a_loss_of_more_arguments_is_refused(loss: nn.Module) -> None:
    with pytest.raises(
        ValueError, match=rf"loss: {name_of(loss)} cannot be taken of .*; use a loss of predictions and"
    ):
        check_loss_on(loss, ROWS, HOT)


# One entry of ``RIGHT`` for each loss that has one element for each element of its predictions.
ELEMENTWISE = {
    name_of(loss): (loss, p, t)
    for loss, p, t in RIGHT
    if p.shape == t.shape and p.dim() == 2 and t.is_floating_point() and not isinstance(loss, nn.CrossEntropyLoss)
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_targets_of_another_shape_than_the_predictions_are_refused(name: str, reduction: str) -> None:
    loss, predictions, targets = ELEMENTWISE[name]
    if hasattr(loss, "reduction") and not (reduction == "sum" and name == "BCELoss"):
        loss.reduction = reduction  # type: ignore[assignment]  # of torch's losses, not of every module
    column, values = predictions[:, :1], targets[:, :1]
    wrong = [
        (column, values[:, 0]),  # (n, 1) and (n,)
        (column[:, 0], values),  # (n,) and (n, 1)
        (column, values.expand(N, 4)),  # (n, 1) and (n, k)
        (column.expand(N, 4), values),  # (n, k) and (n, 1)
        (column, values[:, :, None]),  # (n, k) and (n, k, 1)
        (column.expand(N, N), values[:, 0]),  # (n, n) and (n,)
        (column * 0 + (column[0] if name != "BCELoss" else 0.5), values[:, 0]),  # a model that predicts one number
    ]
    for p, t in wrong:
        with pytest.raises(ValueError, match=rf"^targets: {name} takes.*; (reshape them to|give targets) [(]"):
            check_loss_on(loss, p, t)


def test_the_refusal_names_both_shapes_and_the_remedy() -> None:
    with pytest.raises(
        ValueError, match=r"MSELoss .* \(6, 1\), got \(6,\), which would pair .* of others; reshape them to \(6, 1\)"
    ):
        check_loss_on(nn.MSELoss(), COLUMN, normal(N))
    assert doctest.testmod(loss_checks).failed == 0


def squares(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions - targets).square().mean()


class Own(nn.Module):
    """A user's own loss."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, predictions: Tensor, targets: Tensor) -> Any:
        return self.function(self, predictions, targets)


def own(function: Any) -> Own:
    return Own(lambda self, p, t: function(p, t))


@pytest.mark.parametrize("zero", [False, True], ids=["any", "zero head"])
def test_a_loss_of_ones_own_that_broadcasts_is_refused(zero: bool) -> None:
    predictions = COLUMN * 0 if zero else COLUMN
    with pytest.raises(ValueError, match=r"Own takes them in the shape of the predictions, \(6, 1\), got \(6,\)"):
        check_loss_on(own(squares), predictions, normal(N))
    with pytest.raises(ValueError, match=r"Own takes them in the shape of the predictions, \(6, 6\), got \(6,\)"):
        check_loss_on(own(squares), predictions.expand(N, N) + normal(N, N), normal(N))


def test_a_loss_of_ones_own_with_targets_of_another_shape_passes() -> None:
    levels = torch.tensor([0.1, 0.5, 0.9])
    quantiles = own(lambda p, t: torch.maximum(levels * (t - p), (levels - 1) * (t - p)).mean())
    check_loss_on(quantiles, ROWS, normal(N, 1))
    check_loss_on(own(lambda p, t: squares(p.flatten(), t.flatten())), COLUMN, normal(N))
    check_loss_on(own(lambda p, t: squares(p[:, 0], t[0])), COLUMN, normal(N))
    check_loss_on(own(lambda p, t: (p[:, 0] - t[:, 0]).square().mean() + t[:, 1].mean()), COLUMN, normal(N, 2))
    check_loss_on(own(lambda p, t: nn.functional.cross_entropy(p, t[:, 0])), ROWS, LABELS[:, None])


def test_a_part_of_the_targets_that_is_not_used_may_have_any_shape() -> None:
    """As what was recorded for another loss of the same tasks."""
    recorded = {"y": normal(N, 1), "unused": normal(N), "unused indices": torch.arange(N)}
    check_loss_on(own(lambda p, t: squares(p, t["y"])), COLUMN, recorded)
    with pytest.raises(ValueError, match=r"targets\['unused'\]: Own takes them in the shape"):
        check_loss_on(own(lambda p, t: squares(p, t["y"]) + squares(p, t["unused"])), COLUMN, recorded)


Pair = namedtuple("Pair", "logits hidden")


@dataclasses.dataclass
class Output:
    logits: Tensor


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((ROWS, ROWS), r"got a tuple of 2 \(such as output\[0\]\)"),
        ([ROWS], "got a list of 1"),
        ({"logits": ROWS, "x": ROWS}, r"got a dict with the keys 'logits', 'x' \(such as output\['logits'\]\)"),
        (OrderedDict(logits=ROWS), "got a OrderedDict with the keys 'logits'"),
        (Pair(ROWS, ROWS), r"got a Pair with the fields logits, hidden \(such as output\.logits\)"),
        (Output(ROWS), "got a Output with the fields logits"),
        (None, "got NoneType"),
        (ROWS.mean(), r"each of 6 examples, \(n, ...\), got the shape \(\)"),
        (ROWS[:4], r"got the shape \(4, 3\); keep the examples in the first dimension"),
        (ROWS.argmax(1), r"returns torch.int64, which has no gradient; return scores"),
    ],
    ids=str,
)
def test_what_is_no_prediction_is_refused(output: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^model: .*{message}"):
        check_loss_on(nn.CrossEntropyLoss(), output, LABELS)


def changes_targets(predictions: Tensor, targets: Tensor) -> Tensor:
    return (predictions - targets.mul_(2)).square().mean()


def changes_predictions(predictions: Tensor, targets: Tensor) -> Tensor:
    return predictions.sub_(targets).square().mean()


def keeps_a_mean(self: Any, predictions: Tensor, targets: Tensor) -> Tensor:
    self.seen.mul_(0.9)
    return squares(predictions, targets)


def keeps_another_mean(self: Any, predictions: Tensor, targets: Tensor) -> Tensor:
    self.seen = 0.9 * self.seen
    return squares(predictions, targets)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.MSELoss(reduction="none"), r"got the shape \(6, 1\); set its reduction to 'mean'"),
        (own(lambda p, t: (p - t).square()), r"got the shape \(6, 1\); let it return the mean"),
        (own(lambda p, t: (p - t).square().mean().item()), r"got float; leave out \.item"),
        (own(lambda p, t: (squares(p, t), {})), "got a tuple of 2"),
        (own(lambda p, t: squares(p, t) * 1j), r"a real number, got torch\.complex"),
        (own(lambda p, t: squares(p.detach(), t)), "cannot be differentiated by the predictions"),
        (own(lambda p, t: squares((p > 0).float(), t)), "cannot be differentiated by the predictions"),
        (own(lambda p, t: squares(torch.zeros((), requires_grad=True), t)), "does not depend on the predictions"),
        (own(changes_targets), r"changes targets in each call.*\(targets\.clone\(\)\)"),
        (own(changes_predictions), "changes predictions in each call"),
        (Own(keeps_a_mean), "changes seen in each call"),
        (Own(keeps_another_mean), "changes seen in each call"),
        (own(lambda p, t: p[:, 3].mean()), r"cannot be taken of predictions \(6, 1\) .* \(index 3 is out of bounds"),
    ],
)
def test_what_is_no_loss_is_refused(loss: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=f"^loss: .*{message}"):
        check_loss_on(loss, COLUMN, normal(N, 1))


LABELS_WRONG: list[tuple[nn.Module, Tensor, Tensor, str]] = [
    (nn.CrossEntropyLoss(), ROWS, LABELS + 3, "ways: the tasks have 6 classes, but the model gives 3 logits"),
    (nn.CrossEntropyLoss(), ROWS, LABELS - 1, "targets: class indices begin at 0, got -1.*ignore_index .-100"),
    (nn.CrossEntropyLoss(ignore_index=255), ROWS, PADDED, "targets: class indices begin at 0, got -100"),
    (nn.NLLLoss(), LOGS, LABELS + 1, "ways: the tasks have 4 classes, but the model gives 3 logits"),
    (nn.MultiMarginLoss(), ROWS, LABELS + 1, "ways: the tasks have 4 classes"),
    (nn.MultiMarginLoss(), ROWS, LABELS.to(torch.uint8), r"targets: .* got torch\.uint8; convert them by \.long"),
    (nn.CrossEntropyLoss(), ROWS, LABELS.int(), r"targets: .* got torch\.int32; convert them by \.long"),
    (nn.CrossEntropyLoss(), ROWS, LABELS == 1, r"got torch\.bool; convert them by \.long"),
    (nn.CrossEntropyLoss(), ROWS, LABELS.float(), r"got torch\.float32; convert them by \.long"),
    (nn.CrossEntropyLoss(), ROWS, LABELS[:, None], r"class indices \(6,\), got \(6, 1\) .*; reshape them to \(6,\)"),
    (nn.CrossEntropyLoss(), ROWS, HOT.long(), r"class indices \(6,\), got \(6, 3\)"),
    (nn.NLLLoss(), LOGS, HOT, r"class indices \(6,\), got \(6, 3\)"),
    (nn.CrossEntropyLoss(), ROWS, 2 * HOT, r"targets: CrossEntropyLoss takes targets of 0 to 1, got 2"),
    (nn.CrossEntropyLoss(), normal(N, 5, C), torch.ones(N, 5).long(), r"got \(6, 5\) .*; move the model's classes"),
    (nn.CrossEntropyLoss(), normal(N, 1, 4, C), LABELS, r"got \(6,\) .*; let the model return \(n, classes\)"),
    (nn.MSELoss(), ROWS, LABELS, r"got \(6,\).*; give targets \(6, 3\), or take CrossEntropyLoss if these are class"),
    (nn.CrossEntropyLoss(), normal(N), share(N), r"model: CrossEntropyLoss takes scores of each class.*shape \(6,\)"),
    (nn.CrossEntropyLoss(weight=torch.ones(5)), ROWS, LABELS, "loss: its weight is for 5 classes, .* gives 3 logits"),
    (nn.NLLLoss(), ROWS, LABELS, r"model: NLLLoss takes outputs of -inf to 0, got .*LogSoftmax.*CrossEntropyLoss"),
    (nn.KLDivLoss(), ROWS.softmax(1), HOT, "model: KLDivLoss takes outputs of -inf to 0"),
    (nn.KLDivLoss(), LOGS, LOGS, "targets: KLDivLoss takes targets of 0 to 1, got -"),
    (nn.KLDivLoss(log_target=True), LOGS, HOT, "targets: KLDivLoss takes targets of -inf to 0, got 1; .*log_target"),
    (nn.BCELoss(), ROWS, HOT, "model: BCELoss takes outputs of 0 to 1, got .*or use BCEWithLogitsLoss"),
    (nn.BCELoss(), share(N, C), 2 * HOT, "targets: BCELoss takes targets of 0 to 1, got 2"),
    (nn.BCEWithLogitsLoss(), ROWS, 2 * HOT - 1, "targets: BCEWithLogitsLoss takes targets of 0 to 1, got -1"),
    (nn.BCEWithLogitsLoss(), ROWS, HOT.long(), r"convert the targets, for example by \.to\(torch\.float32\)"),
    (nn.MultiLabelSoftMarginLoss(), ROWS, 2 * HOT - 1, "MultiLabelSoftMarginLoss takes targets of 0 to 1, got -1"),
    (nn.HingeEmbeddingLoss(), ROWS, HOT, "HingeEmbeddingLoss takes targets of -1 or 1, got 0; give -1 and 1"),
    (nn.SoftMarginLoss(), ROWS, HOT, "SoftMarginLoss takes targets of -1 or 1, got 0"),
    (nn.PoissonNLLLoss(), COLUMN, -1 - LABELS[:, None], "PoissonNLLLoss takes targets of 0 to inf, got -1; give"),
    (nn.HuberLoss(), COLUMN, normal(N, 1).double(), r"convert the targets, for example by \.to\(torch\.float32\)"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "predictions", "targets", "message"), LABELS_WRONG, ids=name_of)
def test_targets_of_the_wrong_kind_are_refused(
    loss: nn.Module, predictions: Tensor, targets: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_loss_on(loss, predictions, targets)


def test_a_second_softmax_is_warned_of() -> None:
    for predictions in (ROWS.softmax(1), ROWS.softmax(1).bfloat16(), normal(N, C, 4).softmax(1)):
        labels = LABELS if predictions.dim() == 2 else torch.ones(N, 4).long()
        with pytest.warns(UserWarning, match="its outputs are probabilities, but CrossEntropyLoss takes logits"):
            check_loss_on(nn.CrossEntropyLoss(), predictions, labels)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_left_to_others(value: float) -> None:
    """on_nonfinite may skip such a task."""
    spoilt = COLUMN.clone()
    spoilt[2] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_loss_on(nn.MSELoss(), spoilt, normal(N, 1))
        check_loss_on(nn.MSELoss(), COLUMN, spoilt)
        check_loss_on(nn.CrossEntropyLoss(), ROWS * value, LABELS)
        check_loss_on(nn.CrossEntropyLoss(), ROWS, torch.full((N,), -100))
