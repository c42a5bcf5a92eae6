"""Metrics: the default accuracy where it is easily wrong, metrics of one's own, and tasks that they must not see."""

from __future__ import annotations

import doctest
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torchmetrics import MeanSquaredError, Metric, MetricCollection
from torchmetrics.classification import BinaryAveragePrecision, MulticlassAccuracy, MulticlassStatScores

from litmaml.callbacks.report import Report
from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.data.task_distribution import TaskDistribution
from litmaml.inner import SGD
from litmaml.learner import metrics
from litmaml.learner.checks import check_labels
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.metrics import Accuracy, check_metrics, default_metrics, value_of
from litmaml.models import MLP
from litmaml.randomness import task_streams
from litmaml.statistics.plots import Fit, plot_fits
from litmaml.tasks import Batch, Split, Tasks, stacks_of
from quiet_trainer import quiet_trainer

SCORES = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]])  # classes 0, 2, 1, 0


@pytest.mark.parametrize(
    ("predictions", "targets", "ignored", "wanted"),
    [
        (SCORES, torch.tensor([0, 2, 0, 1]), None, 0.5),
        (SCORES, torch.tensor([0, 2, -100, -100]), -100, 1.0),
        (SCORES, torch.tensor([0, 2, -100, -100]), None, 0.5),
        (SCORES, torch.tensor([0, 2, 0, 1], dtype=torch.uint8), 255, 0.5),
        (SCORES, nn.functional.one_hot(torch.tensor([0, 2, 0, 1])).float(), -100, 0.5),
        (SCORES, torch.tensor([0, 2, 1, 1]), 0, 2 / 3),  # a class that is predicted rightly and does not count
        (SCORES[:, :1], torch.zeros(4).long(), None, 1.0),
        (SCORES.T[None], torch.tensor([[0, 2, 0, 1]]), None, 0.5),  # (1, C, L)
        (SCORES.T.reshape(1, 3, 2, 2), torch.tensor([[[0, 2], [255, 255]]]), 255, 1.0),  # (1, C, H, W)
        (SCORES, torch.full((4,), -100), -100, math.nan),
    ],
)
def test_accuracy(predictions: Tensor, targets: Tensor, ignored: int | None, wanted: float) -> None:
    assert float(Accuracy(ignored)(predictions, targets)) == pytest.approx(wanted, nan_ok=True)


def test_accuracy_is_torchmetrics_and_accumulates() -> None:
    draw = torch.Generator().manual_seed(0)
    ours, theirs = Accuracy(255), MulticlassAccuracy(5, average="micro", ignore_index=255)
    for shape in ((7,), (7, 4), (7, 4, 6)):
        predictions = torch.randn(7, 5, *shape[1:], generator=draw)
        targets = torch.randint(0, 5, shape, generator=draw)
        targets[torch.rand(shape, generator=draw) < 0.3] = 255
        assert torch.equal(ours(predictions, targets), theirs(predictions, targets))
    assert torch.equal(ours.compute(), theirs.compute())
    assert doctest.testmod(metrics).failed == 0


def test_which_losses_have_an_accuracy() -> None:
    assert default_metrics(nn.CrossEntropyLoss(ignore_index=7))["accuracy"].ignore_index == 7
    assert set(default_metrics(nn.NLLLoss())) == {"accuracy"}
    for loss in (nn.MSELoss(), nn.BCEWithLogitsLoss(), nn.BCELoss(), nn.MultiMarginLoss()):
        assert default_metrics(loss) == {}


class Sequences(TaskDistribution):
    """A class at each of five places, the first one void."""

    def __init__(self, void: int = 255, shots: int = 2, queries: int = 3) -> None:
        super().__init__(Episode(shots=shots, queries=queries))
        self.shots, self.queries = shots, queries
        self.void = void

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        parts: tuple[list[Tensor], ...] = ([], [], [], [])
        for stream in task_streams(seed, split, numbers):
            for k, count in enumerate(self.sizes(split).batches):
                labels = torch.from_numpy(stream.integers(3, size=(count, 5)))
                parts[2 * k].append(torch.from_numpy(stream.normal(size=(count, 5, 4))).float())
                parts[2 * k + 1].append(labels.index_fill(1, torch.tensor([0]), self.void))
        batches = [Batch(torch.stack(parts[k]), torch.stack(parts[k + 1])) for k in (0, 2)]
        return self._arrange(split, batches, numbers)

    def describe(self, split: Split) -> dict[str, Any]:
        return {"tasks": "Sequences"}


class PerPlace(nn.Module):
    """(n, L, 4) to (n, 3, L)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layer(x)
        return scores.movedim(-1, 1)


def trainer(folder: Path, **changes: Any) -> Trainer:
    return quiet_trainer(folder, **{"max_epochs": 1, "log_every_n_steps": 1} | changes)


@pytest.mark.parametrize("void", [255, -100])
def test_a_segmentation_with_void_places_trains_and_is_scored_on_the_others(void: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = MetaLearner(PerPlace(), SGD(lr=0.1), loss=nn.CrossEntropyLoss(ignore_index=void))
    data = TaskDataModule(Sequences(void), meta_batch=2, train_tasks=4, val_tasks=2, test_tasks=3)
    run = trainer(tmp_path)
    run.fit(learner, data)
    assert 0 <= float(run.callback_metrics["train/accuracy_before"]) <= 1
    run.test(learner, data, verbose=False)
    (tasks,) = stacks_of(data.tasks.sample("test", range(3), 0))
    *_, fast = learner.inner_loop.path(tasks, 1)
    with torch.no_grad():
        right = learner.inner_loop.predict(fast, tasks.query.inputs).argmax(2) == tasks.query.targets
    assert learner.results["accuracy"][-1].mean == pytest.approx(float(right[..., 1:].float().mean()))


class Failing(Metric):
    """Is for other shapes."""

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        raise RuntimeError("expected seven dimensions")

    def compute(self) -> Tensor:
        return torch.zeros(())


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            Failing(),
            r"metrics\.mine: Failing cannot be taken of predictions \(4, 3\) .*expected seven dimensions; set it",
        ),
        (MulticlassAccuracy(3, average=None), r"metrics\.mine: .*one number for each task, got the shape \(3,\)"),
        (MulticlassStatScores(3), r"metrics\.mine: .*got the shape \(5,\); set its average"),
        (
            MetricCollection({"a": MulticlassAccuracy(3)}),
            r"metrics\.mine: has to be a Metric of torchmetrics, got Metr",
        ),
        (MulticlassAccuracy(3), None),
        (MulticlassAccuracy(3) + 1, None),
    ],
)
def test_metrics_that_cannot_serve_are_refused_at_the_first_batch(metric: Any, message: str | None) -> None:
    given = {"mine": metric}, nn.CrossEntropyLoss(), SCORES, torch.tensor([[0, 2, 0, 1]])
    if message is None:
        check_metrics(*given)
        return
    with pytest.raises(ValueError, match=message):
        check_metrics(*given)


def test_metrics_that_would_count_padding_are_refused(tmp_path: Path) -> None:
    padded = torch.tensor([[0, 2, 0, 1], [0, 2, -100, 1]])  # in the second task
    with pytest.raises(ValueError, match=r"metrics\.a: MulticlassAccuracy .*its ignore_index None; set it to -100"):
        check_metrics({"a": MulticlassAccuracy(3)}, nn.CrossEntropyLoss(), SCORES, padded)
    check_metrics({"a": MulticlassAccuracy(3, ignore_index=-100)}, nn.CrossEntropyLoss(), SCORES, padded)
    check_metrics({"a": MulticlassAccuracy(3)}, nn.CrossEntropyLoss(), SCORES, padded.clamp(min=0))
    learner = MetaLearner(PerPlace(), metrics={"a": MulticlassAccuracy(3)}, loss=nn.CrossEntropyLoss(ignore_index=255))
    data = TaskDataModule(Sequences(), meta_batch=2, train_tasks=4, val_tasks=2)
    with pytest.raises(ValueError, match=r"metrics\.a: .*set it to 255"):
        trainer(tmp_path, limit_val_batches=0).fit(learner, data)


def test_metrics_of_classes_take_what_binary_cross_entropy_takes() -> None:
    """Of which torchmetrics refuses the average precision, for its targets are real numbers."""
    logits, truth = torch.tensor([[2.0], [0.5], [-1.0], [-3.0]]), torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    metric = BinaryAveragePrecision()
    check_metrics({"ap": metric}, nn.BCEWithLogitsLoss(), logits, truth[None])
    assert value_of(metric, logits, truth).item() == pytest.approx((1 + 2 / 3) / 2)
    with pytest.raises(ValueError, match=r"metrics\.ap: BinaryAveragePrecision cannot be taken .*int or long"):
        check_metrics({"ap": metric}, nn.BCEWithLogitsLoss(), logits, 0.9 * truth[None])
    assert value_of(MeanSquaredError(), logits, truth) == (logits - truth).square().mean()


def test_a_metric_starts_anew_for_each_task() -> None:
    metric = MeanSquaredError()
    metric.update(torch.ones(3), torch.zeros(3))  # of somebody else
    assert value_of(metric, torch.zeros(3), torch.zeros(3)) == 0
    assert value_of(metric, torch.ones(3), torch.zeros(3)) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_metric_follows_the_predictions_to_their_device() -> None:
    metric = MeanSquaredError()
    assert value_of(metric, torch.ones(3, device="cuda"), torch.zeros(3, device="cuda")) == 1
    assert value_of(metric, torch.ones(3), torch.zeros(3)) == 1


class Wary(Metric):
    """Refuses what is not finite, as many metrics do, or is as far off as a task that was lost."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", torch.zeros(()))

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        if not float(predictions.abs().max()) < 1e6:
            raise RuntimeError("the predictions are far off")
        self.seen = self.seen + 1

    def compute(self) -> Tensor:
        return self.seen


class Poisoned(Sinusoid):
    """Every task with a number in ``bad`` has targets whose squares are not finite."""

    def __init__(self, bad: Sequence[int]) -> None:
        super().__init__(Episode(shots=5, queries=5))
        self.bad = list(bad)

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        tasks = super().sample(split, numbers, seed)
        support = tasks.support[0].targets.clone()
        support[[i for i, n in enumerate(numbers) if n in self.bad]] = 1e38
        return tasks._replace(support=(tasks.support[0]._replace(targets=support),))


def test_no_metric_sees_a_task_that_is_not_finite(tmp_path: Path) -> None:
    data = TaskDataModule(Poisoned([1, 2]), meta_batch=4, train_tasks=8, val_tasks=4, test_tasks=4)
    learner = MetaLearner(MLP(hidden=[4]), loss=nn.MSELoss(), metrics={"seen": Wary()}, on_nonfinite="skip")
    run = trainer(tmp_path)
    run.fit(learner, data)
    run.test(learner, data, verbose=False)
    assert learner.evaluated_tasks == 2
    assert learner.results["seen"][-1].mean == 1


def test_evaluation_without_any_finite_task_is_nan_with_a_word(tmp_path: Path) -> None:
    data = TaskDataModule(Poisoned(range(8)), meta_batch=4, train_tasks=8, val_tasks=4, test_tasks=8)
    learner = MetaLearner(
        MLP(hidden=[4]), loss=nn.MSELoss(), metrics={"mse": MeanSquaredError()}, on_nonfinite="skip", test_inner_steps=2
    )
    run = trainer(tmp_path)
    with pytest.warns(UserWarning, match="test: no task has a finite loss, so that its results are not a number"):
        run.test(learner, data, verbose=False)
    assert learner.evaluated_tasks == 0
    assert all(math.isnan(result.mean) for curve in learner.results.values() for result in curve)
    assert [len(curve) for curve in learner.results.values()] == [3, 3]
    with pytest.warns(UserWarning, match="val: no task has a finite loss"):
        run.fit(learner, data)
    assert math.isnan(run.callback_metrics["train/loss"])  # not the zero that is handed on
    assert math.isnan(run.callback_metrics["val/mse"])


def test_the_first_batch_is_looked_at_in_training_and_evaluation(tmp_path: Path) -> None:
    class Flat(Sinusoid):
        def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
            tasks = super().sample(split, numbers, seed)
            return tasks._replace(query=Batch(tasks.query.inputs, tasks.query.targets[..., 0]))

    learner = MetaLearner(MLP(hidden=[4]), loss=nn.MSELoss())
    data = TaskDataModule(Flat(), meta_batch=4, train_tasks=8, val_tasks=4, test_tasks=4)
    with pytest.raises(ValueError, match=r"targets: MSELoss .* \(10, 1\), got \(10,\).*reshape them to \(10, 1\)"):
        trainer(tmp_path, limit_val_batches=0).fit(learner, data)
    with pytest.raises(ValueError, match=r"reshape them to \(10, 1\)"):
        trainer(tmp_path).test(learner, data, verbose=False)


def test_looking_draws_nothing_and_changes_nothing() -> None:
    model = PerPlace()
    model.layer = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))  # type: ignore[assignment]
    learner = MetaLearner(model, metrics={})
    batch = Batch(torch.randn(2, 6, 5, 4), torch.ones(2, 6, 5).long())
    state = torch.get_rng_state()
    check_labels(learner.inner_loop, Tasks((batch,), batch, torch.arange(2)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in learner.parameters())


def test_classes_of_all_tasks_are_looked_at() -> None:
    labels = torch.tensor([[0, 1], [0, 5]])
    batch = Batch(torch.randn(2, 2, 4), labels)
    fine = batch._replace(targets=labels.clamp(max=2))
    learner = MetaLearner(MLP(inputs=4, outputs=3))
    for tasks in (Tasks((fine,), batch, torch.arange(2)), Tasks((batch,), fine, torch.arange(2))):
        with pytest.raises(ValueError, match="ways: the tasks have 6 classes, but the model gives 3 logits"):
            check_labels(learner.inner_loop, tasks)


@pytest.mark.parametrize("bad", [[], range(4)], ids=["one task", "no finite task"])
@pytest.mark.filterwarnings("ignore:test. no task has a finite loss")
def test_results_without_an_interval_are_written_as_json_that_all_can_read(bad: Sequence[int], tmp_path: Path) -> None:
    data = TaskDataModule(Poisoned(bad), meta_batch=1, test_tasks=1)
    learner = MetaLearner(MLP(hidden=[4]), loss=nn.MSELoss(), on_nonfinite="skip")
    trainer(tmp_path, callbacks=[Report()]).test(learner, data, verbose=False)
    found = json.loads((tmp_path / "test_results.json").read_text(), parse_constant=pytest.fail)
    assert found["steps"][1]["loss"]["half_width"] is None
    assert (found["steps"][1]["loss"]["mean"] is None) == bool(bad)


def test_the_picture_of_a_function_has_the_points_of_all_support_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Fit] = []

    def draw(path: Path, fits: Sequence[Fit], title: str) -> None:
        drawn.extend(fits)
        plot_fits(path, fits, title)

    monkeypatch.setattr("litmaml.callbacks.report.plot_fits", draw)
    data = TaskDataModule(Sinusoid(Episode(shots=5, queries=4, support_batches=3)), meta_batch=2, test_tasks=2)
    learner = MetaLearner(MLP(hidden=[4]), loss=nn.MSELoss(), inner_steps=3)
    trainer(tmp_path, callbacks=[Report()]).test(learner, data, verbose=False)
    assert {name: len(x) for name, (x, _) in drawn[0].points.items()} == {"support": 15, "query": 4}
