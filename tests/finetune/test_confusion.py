"""Accuracy with its interval, the table of classes, and what too few images cannot tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.finetuning.held_out import folds, held_out, why_not
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.statistics.confusion import Confusion, wilson


@pytest.mark.parametrize(("right", "total"), [(0, 3), (3, 3), (71, 75), (1, 2), (500, 1000)])
def test_wilson_is_scipys(right: int, total: int) -> None:
    wanted = binomtest(right, total).proportion_ci(method="wilson")
    assert wilson(right, total) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_counts_by_class() -> None:
    score = Confusion(["a", "b", "c"], torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 0, 2]))
    assert score.counts.tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 1]]
    assert (score.right, score.total, score.accuracy) == (3, 6, 0.5)
    assert score.rows() == [("a", 3, 1, "b (2)"), ("b", 2, 1, "a (1)"), ("c", 1, 1, "")]
    assert str(score).startswith("50.0% (3 of 6; 95% interval 18.8% to 81.2%)")


@pytest.mark.parametrize(
    ("right", "total", "caution"),
    [(5, 8, "cannot set the model apart from guessing, which is right in 50.0%"), (45, 50, None), (18, 20, "anywhere")],
)
def test_it_says_when_there_are_too_few_images(right: int, total: int, caution: str | None) -> None:
    targets = torch.arange(total) % 2
    predicted = torch.where(torch.arange(total) < right, targets, 1 - targets)
    found = Confusion(["a", "b"], targets, predicted).caution()
    assert found is None if caution is None else found is not None and caution in found


def test_the_picture_takes_any_names_and_numbers(tmp_path: Path) -> None:
    for size in (2, 70):
        names = [f"鶴 $x$ _{k}\\frac" * (1 + 4 * (k % 2)) for k in range(size)]
        Confusion(names, torch.arange(size), torch.arange(size)).plot(tmp_path / "c.png", "$ title")
        with Image.open(tmp_path / "c.png") as picture:
            assert picture.width > 300


def test_each_image_is_left_out_once_and_each_class_keeps_one() -> None:
    for counts in ([2, 2], [3, 7, 2], [40, 2, 100], [300, 2, 500]):
        targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        found = folds(targets)
        assert torch.cat(found).sort().values.tolist() == list(range(sum(counts)))
        for left_out in found:
            kept = torch.bincount(targets, minlength=len(counts)) - torch.bincount(
                targets[left_out], minlength=len(counts)
            )
            assert int(kept.min()) >= 1
    assert [len(fold) for fold in folds(torch.zeros(1000))] == [200]
    assert why_not(torch.tensor([0, 0, 1]), ["a", "b"]) is not None
    assert why_not(torch.tensor([0, 0, 1, 1]), ["a", "b"]) is None


def test_what_is_left_out_is_not_learnt_from() -> None:
    """Random labels can be learnt by heart, but not foretold."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(40, 64), torch.arange(2).repeat_interleave(20)
    tuner = FineTuner(MetaLearner(MLP(inputs=64, outputs=2), SGD(lr=1.0)), inputs[:2], 2, steps=30)
    *_, last = tuner.path(inputs, targets)
    assert last.accuracy == 1
    right = [bool(logits.argmax(1) == targets[chosen]) for chosen, logits in held_out(tuner, inputs, targets)]
    assert len(right) == 40
    assert sum(right) < 32
