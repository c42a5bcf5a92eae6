"""What features are worth without adaptation, beside every test of a classifier: against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from litmaml import MetaLearner
from litmaml.callbacks.report import Report
from litmaml.inner import SGD
from litmaml.statistics.interval import interval
from litmaml.tasks import Batch, MetaBatch, Tasks, select
from quiet_trainer import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model"),
    pytest.mark.filterwarnings("ignore:Trying to infer the `batch_size`"),
]


class Plain(nn.Module):
    """Features that are the inputs, and a head that a test must not depend on."""

    def __init__(self, ways: int = 2, bias: bool = True) -> None:
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.ones(2)), nn.Linear(2, ways, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.scale * x)
        return logits


def task(number: int, support: Sequence[Sequence[float]], query: Sequence[Sequence[float]], labels: list[int]) -> Tasks:
    def batch(points: Sequence[Sequence[float]], of: list[int]) -> Batch:
        return Batch(torch.tensor([points]).float(), torch.tensor([of]))

    return Tasks((batch(support, [0, 1]),), batch(query, labels), torch.tensor([number]))


# From (0, 0) and (4, 0) the query points are nearest to 0, 1, 0; from (0, 0) and (0, 4) to 1, 1, 0.
FIRST = task(0, [[0, 0], [4, 0]], [[1, 0], [3, 0], [1, 5]], [0, 1, 1])
SECOND = task(1, [[0, 0], [0, 4]], [[0, 3], [1, 3], [1, 0]], [1, 1, 0])
BOTH = Tasks(
    (Batch(*map(torch.cat, zip(FIRST.support[0], SECOND.support[0], strict=True))),),
    Batch(*map(torch.cat, zip(FIRST.query, SECOND.query, strict=True))),
    torch.arange(2),
)


def run_test(
    learner: LightningModule, folder: Path, tasks: Sequence[MetaBatch], report: bool = False
) -> dict[str, Any]:
    trainer = quiet_trainer(folder, callbacks=[Report()] if report else [])
    trainer.test(learner, DataLoader([*tasks], batch_size=None, collate_fn=lambda batch: batch), verbose=False)  # type: ignore[arg-type]
    found: dict[str, Any] = json.loads((folder / "test_results.json").read_text()) if report else {}
    return found


@pytest.mark.parametrize("chunk", [None, 1])
def test_baselines_are_what_one_works_out_by_hand(
    tmp_path: Path, chunk: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step of rate 1 from a zero head moves W_1 to the mean of (y - 1/2) x: (1, 0) in the first task, and W_0 to its
    opposite, and leaves the biases."""
    learner = MetaLearner(Plain(), SGD(lr=1.0), tasks_per_chunk=chunk)
    results = run_test(learner, tmp_path, [BOTH], report=True)

    def lost(*margins: float) -> float:
        return sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)

    losses = torch.tensor([lost(-2, 6, 2), lost(6, 6, 0)])
    # In the second task the last point lies on the border, and argmax takes the first.
    found = results["baselines"]
    assert found["nearest_class_mean"] == {"accuracy": pytest.approx(interval(torch.tensor([2 / 3, 1]))._asdict())}
    assert found["fresh_head"] == {
        "accuracy": pytest.approx(interval(torch.tensor([2 / 3, 1]))._asdict()),
        "loss": pytest.approx(interval(losses)._asdict(), rel=1e-5),
    }
    assert {name: found[name]["accuracy"] for name in found} == {
        name: of["accuracy"]._asdict() for name, of in learner.baseline_results.items()
    }
    printed = capsys.readouterr().out
    assert "nearest class mean" in printed
    assert "fresh head" in printed
    assert "83.33" in printed
    assert (tmp_path / "adaptation.png").stat().st_size > 1000


def test_a_fresh_head_leaves_the_body_as_it_is(tmp_path: Path) -> None:
    """With rates so different for the body that an adapted one would show."""
    learner = MetaLearner(Plain(), SGD(lr=1.0, learn="tensor"), inner_steps=3)
    with torch.no_grad():
        learner.inner_loop.learnt["rate.scale"].fill_(50.0)
    run_test(learner, tmp_path, [BOTH])
    head_only = MetaLearner(Plain(), SGD(lr=1.0), fast_weights=["head.*"], inner_steps=3)
    run_test(head_only, tmp_path, [BOTH])
    assert learner.baseline_results == head_only.baseline_results


class Counted(nn.Linear):
    """A body that counts its forward passes."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        Counted.passes += 1
        return super().forward(x)


def test_a_fresh_head_does_not_compute_the_body_in_each_step(tmp_path: Path) -> None:
    def passes(steps: int, baselines: bool) -> int:
        model = nn.Sequential(Counted(2, 3), nn.Tanh(), nn.Linear(3, 2))
        learner = MetaLearner(model, SGD(lr=0.1), test_inner_steps=steps, baselines=baselines, tasks_per_chunk=2)
        Counted.passes = 0
        run_test(learner, tmp_path, [BOTH] * 3)
        return Counted.passes

    more = [passes(steps, True) - passes(steps, False) for steps in (1, 9)]
    assert more[0] == more[1] > 0


def test_the_query_passes_the_body_once_for_the_baselines_and_what_is_before_the_first_step(tmp_path: Path) -> None:
    def passes(batches: int, baselines: bool) -> int:
        model = nn.Sequential(Counted(2, 3), nn.Tanh(), nn.Linear(3, 2))
        learner = MetaLearner(model, SGD(lr=0.1), inner_steps=2, baselines=baselines, tasks_per_chunk=2)
        Counted.passes = 0
        run_test(learner, tmp_path, [BOTH] * batches)
        return Counted.passes

    of_each = {baselines: passes(5, baselines) - passes(4, baselines) for baselines in (False, True)}
    assert of_each == {False: 5, True: 6}, "two steps and three queries; and the support once more"


class Wide(nn.Module):
    """A body of a kind that has to keep its own numbers apart from other tasks', and a head."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(2, 4), *body), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize(
    "made",
    [
        lambda **settings: MetaLearner(Plain(), **settings),
        lambda **settings: MetaLearner(Wide(nn.BatchNorm1d(4), nn.Tanh()), batch_norm="batch", **settings),
        lambda **settings: MetaLearner(
            Wide(nn.BatchNorm1d(4), nn.Tanh()), batch_norm="batch", per_step_weights=["body.1.*"], **settings
        ),
        lambda **settings: MetaLearner(Wide(nn.Tanh()), head_start="prototypes", **settings),
        lambda **settings: MetaLearner(Wide(nn.Tanh()), fast_weights=["head.*"], **settings),
        lambda **settings: MetaLearner(Wide(nn.Tanh()), frozen_weights=["body.*"], **settings),
    ],
    ids=["plain", "batch norm", "norms per step", "prototypes", "head alone", "frozen body"],
)
def test_a_learners_own_results_are_the_same_beside_baselines(made: Any, chunk: int | None, tmp_path: Path) -> None:
    found = []
    doubled = Tasks(
        (BOTH.support[0]._replace(inputs=BOTH.support[0].inputs.double()),),
        BOTH.query._replace(inputs=BOTH.query.inputs.double()),
        BOTH.numbers,
    )
    spoilt = doubled._replace(
        query=doubled.query._replace(inputs=doubled.query.inputs.index_fill(0, torch.tensor([1]), torch.nan))
    )
    for baselines in (True, False):
        torch.manual_seed(0)
        learner = made(
            inner_optimizer=SGD(lr=0.5), inner_steps=2, baselines=baselines, tasks_per_chunk=chunk, on_nonfinite="skip"
        ).double()
        run_test(learner, tmp_path, [doubled, spoilt])
        assert bool(learner.baseline_results) == baselines
        assert learner.evaluated_tasks == 3
        found.append({name: [step.mean for step in curve] for name, curve in learner.results.items()})
    ours, alone = found
    assert ours.keys() == alone.keys() == {"loss", "accuracy"}
    for name, curve in ours.items():
        assert len(curve) == 3
        assert curve == pytest.approx(alone[name], rel=1e-12)


def test_baselines_of_tasks_in_stacks_are_over_all_tasks(tmp_path: Path) -> None:
    longer = BOTH._replace(query=Batch(*(torch.cat([part, part], dim=1) for part in BOTH.query)))
    whole, stacks = MetaLearner(Plain(), SGD(lr=1.0)), MetaLearner(Plain(), SGD(lr=1.0))
    run_test(whole, tmp_path, [BOTH])
    run_test(stacks, tmp_path, [(select(BOTH, [0]), select(longer, [1]))])
    for name, found in whole.baseline_results.items():
        for metric, result in found.items():
            assert tuple(stacks.baseline_results[name][metric]) == pytest.approx(tuple(result), rel=1e-6)


def test_what_has_no_finite_loss_is_in_no_baseline(tmp_path: Path) -> None:
    spoilt = BOTH._replace(
        query=BOTH.query._replace(inputs=BOTH.query.inputs.clone().index_fill_(0, torch.tensor([1]), torch.nan))
    )
    learner = MetaLearner(Plain(), SGD(lr=1.0), on_nonfinite="skip")
    run_test(learner, tmp_path, [BOTH, spoilt])
    assert learner.evaluated_tasks == 3
    accuracy = interval(torch.tensor([2 / 3, 1, 2 / 3]))
    assert tuple(learner.baseline_results["nearest_class_mean"]["accuracy"]) == pytest.approx(tuple(accuracy))


class Summed(Plain):
    """Two layers whose sum is the logits, one of them of another width inside."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.scale * x) + self.more(x).mean(1, keepdim=True)
        return logits


@pytest.mark.parametrize(
    ("learner", "why"),
    [
        (lambda: MetaLearner(Plain(), baselines=False), ""),
        (lambda: MetaLearner(Plain(), metrics={}), None),
        (lambda: MetaLearner(Plain(), fast_weights=["scale"]), "fast_weights: head.weight is not adapted"),
        (lambda: MetaLearner(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))), "its head cannot be told"),
        (lambda: MetaLearner(Summed()), "its logits come from several heads, head and more.2"),
    ],
    ids=["off", "no metric", "still", "no head", "two heads"],
)
def test_they_are_left_out_with_a_line_why(
    learner: Any, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr("litmaml.learner.baselines.rank_zero_info", told.append)
    made = learner()
    results = run_test(made, tmp_path, [BOTH], report=True)
    assert ("baselines" in results) == (why is None)
    if why is None:
        assert results["baselines"].keys() == {"fresh_head"}
        assert results["baselines"]["fresh_head"].keys() == {"loss"}
    else:
        assert len(told) == bool(why), told
        assert all(why in line for line in told), told


def test_regression_has_none_and_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("litmaml.learner.baselines.rank_zero_info", told.append)
    batch = Batch(torch.randn(2, 4, 2), torch.randn(2, 4, 1))
    learner = MetaLearner(nn.Linear(2, 1), loss=nn.MSELoss())
    other = Batch(torch.randn(2, 4, 2), torch.randn(2, 4, 1))
    assert "baselines" not in run_test(learner, tmp_path, [Tasks((batch,), other, torch.arange(2))], report=True)
    assert told == []
