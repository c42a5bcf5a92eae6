"""Steps that are looked at late, as on a GPU, forced here on the CPU: a run is the same, and so is the way it ends."""

from __future__ import annotations

import copy
import csv
import functools
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, SequentialLR, StepLR
from torchmetrics import MeanSquaredError, Metric

from litmaml import MetaLearner, TaskDataModule
from litmaml.callbacks.derivative_order import DerivativeOrderAnnealing
from litmaml.callbacks.last_checkpoint import LastCheckpoint
from litmaml.cli.main import main
from litmaml.data import Episode, FiniteTasks, Glyphs, Sinusoid
from litmaml.inner import SGD
from litmaml.learner.late import before_step, check, when
from litmaml.learner.late.before_step import BeforeStep
from litmaml.learner.screen.run_progress import RunProgress
from litmaml.models import MLP, Conv4
from litmaml.outer import GaussianSmoothing, HypergradientSGD, OuterLoss, WorstCaseLoss
from litmaml.outer.chunk_gradient import ChunkGradient
from litmaml.rl import GaussianPolicy, Navigation, PolicySurrogate, Rollouts
from litmaml.tasks import Tasks, tree_map
from quiet_trainer import quiet_trainer

MOMENTUM = functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
HUGE = 1e200
"""Finite, so that of the first batch's data nothing is said, and its square is not."""


class Broken(Sinusoid):
    """Sinusoids, of which the training tasks with these numbers have a loss that is not finite."""

    def __init__(self, bad: Sequence[int] = ()) -> None:
        super().__init__(Episode(shots=3, queries=3))
        self.bad = bad

    def sample(self, split: Any, numbers: Any, seed: int) -> Tasks:
        tasks = tree_map(
            lambda part: part.double() if part.is_floating_point() else part, super().sample(split, numbers, seed)
        )
        for place in [k for k, number in enumerate(numbers) if split == "train" and number in self.bad]:
            tasks.query.targets[place] = math.nan if numbers[place] else HUGE
        return tasks


class Notes(Callback):
    """Notes how late the steps of a run are, and what a checkpoint would be where it ends by an error."""

    looks_at_weights = False

    def __init__(self) -> None:
        self.late: list[bool] = []
        self.open: list[int] = []
        self.steps = 0
        self.end: dict[str, Any] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, MetaLearner)
        self.late.append(pl_module.late)
        self.open.append(len(pl_module._late._steps))
        self.steps = trainer.global_step

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, FloatingPointError):
            self.end = copy.deepcopy(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))


class Run:
    """Of one task and one batch in each step: what was raised, and all that a checkpoint has in the end."""

    def __init__(
        self,
        folder: Path,
        late: bool,
        bad: Sequence[int] = (),
        optimizer: Callable[..., Any] = torch.optim.Adam,
        schedule: Callable[..., Any] | None = None,
        steps: int = 10,
        callbacks: Sequence[Callback] = (),
        resumed: Path | None = None,
        outer_loss: OuterLoss | None = None,
        metrics: dict[str, Metric] | None = None,
        loss: nn.Module | None = None,
        **options: Any,
    ) -> None:
        torch.manual_seed(0)
        self.learner = MetaLearner(
            MLP(hidden=[4]),
            SGD(0.01),
            loss=loss or nn.MSELoss(),
            optimizer=optimizer,
            lr_scheduler=schedule,
            outer_loss=outer_loss,
            metrics=metrics,
        )
        self.notes, self.error = Notes(), ""
        usual: dict[str, Any] = {"limit_val_batches": 0, "log_every_n_steps": 100, "precision": "64-true"}
        self.trainer = quiet_trainer(
            folder, **usual | {"max_steps": steps, "max_epochs": -1, "callbacks": [*callbacks, self.notes]} | options
        )
        data = TaskDataModule(Broken(bad), meta_batch=1, train_tasks=5, val_tasks=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(when, "works_behind", lambda device: late)
            try:
                self.trainer.fit(self.learner, data, ckpt_path=resumed, weights_only=False)
            except FloatingPointError as error:
                self.error = str(error)
        assert {*self.notes.late} <= {late}
        self.end = self.notes.end or self.trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal to the last bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in one if not same(one[name], other[name])]


def warmed_up(optimizer: torch.optim.Optimizer) -> SequentialLR:
    parts = [LambdaLR(optimizer, lambda step: (step + 1) / 3), CosineAnnealingLR(optimizer, 7)]
    return SequentialLR(optimizer, parts, [3])


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        (torch.optim.Adam, None),
        (MOMENTUM, None),
        (torch.optim.AdamW, functools.partial(StepLR, step_size=2)),
        (MOMENTUM, warmed_up),
    ],
    ids=["Adam", "momentum", "AdamW", "schedules"],
)
def test_a_run_is_the_same_to_the_last_bit(optimizer: Any, schedule: Any, tmp_path: Path) -> None:
    late, waited = (Run(tmp_path, late, (), optimizer, schedule) for late in (True, False))
    assert differences(late.end, waited.end) == []
    assert late.notes.open == [1, 2, 2, 2, 2] * 2, "two are open, and at the end of an epoch they are looked at"
    assert waited.notes.open == [0] * 10
    assert late.learner._late._slots == [], "the memory is let go"


@pytest.mark.parametrize(
    ("bad", "options", "steps"),
    [
        (2, {}, 4),
        (0, {}, 2),
        (3, {}, 5),
        (4, {}, 5),
        (9, {}, 10),
        (8, {"max_epochs": 2, "max_steps": -1}, 10),
        (6, {"max_steps": 7}, 7),
        (1, {"val_check_interval": 2, "limit_val_batches": 1}, 2),
        (2, {"log_every_n_steps": 4}, 3),
        (3, {"log_every_n_steps": 4}, 3),
    ],
    ids=[
        *("in the middle", "the first of all", "the last but one of an epoch", "the last of an epoch"),
        *("the last of the run", "the last but one of the run", "the last of a run in mid-epoch"),
        *("before a validation", "before a line of the logs", "with a line of the logs"),
    ],
)
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, MOMENTUM], ids=["Adam", "momentum"])
def test_a_step_that_is_not_finite_ends_the_run_as_ever(
    optimizer: Any, bad: int, options: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    late, waited = (Run(tmp_path, late, [bad], optimizer, warmed_up, **options) for late in (True, False))
    assert f"of train task {bad} is not finite (1 of 1 tasks" in waited.error
    assert late.error == waited.error
    assert differences(late.end, waited.end) == []
    assert late.end["global_step"] == bad
    assert (waited.notes.steps, late.notes.steps) == (bad, steps), "at most two steps later"


def finite(tree: Any) -> bool:
    if isinstance(tree, Tensor):
        return bool(tree.isfinite().all())
    if isinstance(tree, dict):
        return all(map(finite, tree.values()))
    return all(map(finite, tree)) if isinstance(tree, list | tuple) else True


def files(folder: Path) -> dict[str, Any]:
    return {file.name: torch.load(file, weights_only=False) for file in sorted(folder.rglob("*.ckpt"))}


@pytest.mark.parametrize("every", [0, 1, 2])
def test_checkpoints_hold_nothing_of_a_step_that_is_not_finite(every: int, tmp_path: Path) -> None:
    def kept(name: str, late: bool) -> dict[str, Any]:
        folder = tmp_path / name
        savers: list[Callback] = [LastCheckpoint()]
        if every:
            savers.insert(0, ModelCheckpoint(folder / "all", "{step}", save_top_k=-1, every_n_train_steps=every))
        run = Run(folder, late, [3], callbacks=savers, enable_checkpointing=True)
        assert "train task 3 is not finite" in run.error
        return files(folder)

    late, waited = kept("late", True), kept("waited", False)
    assert [*late] == [*waited]
    assert all(finite([file["state_dict"], file["optimizer_states"]]) for file in late.values())
    assert late["last.ckpt"]["global_step"] == 3
    for name, file in late.items():
        assert set(differences(file, waited[name])) <= {"callbacks"}, "which has the folders' names"


def test_a_run_that_is_broken_off_is_taken_back(tmp_path: Path) -> None:
    """By something else, while a step that is not finite has not been looked at."""

    class Breaks(Callback):
        looks_at_weights = False

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.global_step == 4:
                raise KeyError("the disk is gone")

    def last(name: str, late: bool, bad: Sequence[int], broken: Sequence[Callback]) -> Any:
        folder = tmp_path / name
        if broken:
            with pytest.raises(KeyError, match="the disk is gone"):
                Run(folder, late, bad, callbacks=[*broken, LastCheckpoint()], enable_checkpointing=True)
        else:
            Run(folder, late, bad, callbacks=[LastCheckpoint()], enable_checkpointing=True)
        return files(folder)["last.ckpt"]

    broken, waited = last("broken", True, [3], [Breaks()]), last("waited", False, [3], [])
    assert set(differences(broken, waited)) <= {"callbacks"}
    assert broken["global_step"] == 3
    assert last("whole", True, [], [Breaks()])["global_step"] == 4


class Save(Callback):
    """Saves the run after its third step."""

    looks_at_weights = False

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path, weights_only=False)


def test_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    """One that was stopped, and one that ended by a step that was not finite, of data that have been mended since."""
    saved, last = tmp_path / "saved.ckpt", LastCheckpoint()
    whole = Run(tmp_path, True, (), MOMENTUM, warmed_up, callbacks=[Save(saved)])
    Run(tmp_path, True, [6], MOMENTUM, warmed_up, callbacks=[last], enable_checkpointing=True)
    for file in (saved, tmp_path / "checkpoints" / "last.ckpt"):
        late, waited = (Run(tmp_path, late, (), MOMENTUM, warmed_up, resumed=file) for late in (True, False))
        assert differences(late.end, waited.end) == []
        assert set(differences(late.end, whole.end)) <= {"loops"}, "in which Lightning counts a resumed run otherwise"
        assert max(late.notes.open) == 2


class PickyError(MeanSquaredError):
    def __init__(self) -> None:
        super().__init__()

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        if bool(predictions.isnan().any() | targets.isnan().any()):
            raise ValueError("no number")
        super().update(predictions, targets)


@pytest.mark.parametrize(("place", "steps"), [("chunk", 3), ("task_weights", 3), ("metric", 2)])
def test_what_fails_since_a_step_is_not_finite_names_that_step(place: str, steps: int, tmp_path: Path) -> None:
    """A model that looks at its weights, for example, breaks down in the step after the one that was not finite."""
    computed, seen = ChunkGradient.__call__, list[Tensor]()

    class Picky(OuterLoss):
        def task_weights(self, numbers: Tensor) -> None:
            if place == "task_weights" and seen and bool(seen[-1].isnan().any()):
                raise ValueError("no number")

    def picky(self: ChunkGradient, weights: Any, tasks: Tasks) -> Any:
        seen[:] = weights.values()
        if place == "chunk" and bool(seen[-1].isnan().any()):
            raise ValueError("no number")
        return computed(self, weights, tasks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ChunkGradient, "__call__", picky)
        run = Run(tmp_path, True, [2], outer_loss=Picky(), metrics={"mse": PickyError()} if place == "metric" else {})
    assert "train task 2 is not finite (1 of 1 tasks" in run.error
    assert (run.end["global_step"], run.notes.steps) == (2, steps)


def test_what_is_finite_when_it_is_computed_again_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check._Flag, "read", lambda flag: False)
    run = Run(tmp_path, True)
    assert "1 train tasks from task 0 on was not finite, and is, computed again" in run.error
    assert run.end["global_step"] == 0


def test_an_epoch_that_something_else_ends_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MetaLearner, "on_train_batch_end", lambda *_: None)
    late, waited = (Run(tmp_path, late, [4]) for late in (True, False))
    assert late.error == waited.error != ""
    assert differences(late.end, waited.end) in ([], ["loops"]), "whose count of epochs has gone on"


def test_a_run_that_stops_early_is_looked_at_before_its_end(tmp_path: Path) -> None:
    class Stops(Callback):
        looks_at_weights = False
        ended = False

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 3

        def on_train_epoch_end(self, *_: Any) -> None:
            self.ended = True

    for bad in ([], [2]):
        run = Run(tmp_path, True, bad, callbacks=[stops := Stops()])
        assert (run.notes.steps, bool(run.error), stops.ended) == (3, bool(bad), not bad)


def test_tensors_that_take_others_places_are_copied_too(tmp_path: Path) -> None:
    """As by an optimizer that makes its state anew in each step, and one that forgets it."""
    (optimizer,) = (trainer := Run(tmp_path, False, steps=2).trainer).optimizers
    before, (weight, kept) = BeforeStep(trainer), next(iter(optimizer.state.items()))
    old = kept["exp_avg"].clone()
    assert before.take()
    kept["exp_avg"] = torch.full_like(old, 7.0)
    assert before.take()
    kept["exp_avg"].zero_()
    del kept["exp_avg_sq"]
    before.put_back()
    assert optimizer.state[weight].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert {*optimizer.state[weight]["exp_avg"].flatten().tolist()} == {7.0}


def test_the_logs_are_the_same(tmp_path: Path) -> None:
    """With lines of steps that are waited for, between others that are not."""
    rows = []
    for late in (True, False):
        folder = tmp_path / str(late)
        Run(folder, late, log_every_n_steps=3, max_epochs=2, logger=CSVLogger(folder, "", ""))
        with (folder / "metrics.csv").open() as file:
            rows.append([row | {"train/meta_gradient_seconds": ""} for row in csv.DictReader(file)])
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == ["2", "5", "8"]


def test_a_copy_has_no_steps_of_the_run() -> None:
    learner = MetaLearner(MLP(hidden=[4]), SGD(0.01), loss=nn.MSELoss())
    vars(learner._late).update(_steps=[torch.cuda.Event], _slots=[torch.cuda.Event], used=True)
    copied = copy.deepcopy(learner._late)
    assert (copied._steps, copied._slots, copied.used) == ([], [], True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_goes_late_with_all_that_it_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callbacks look at no weights in a step."""
    asked: list[bool] = []

    def may_be_late(learner: Any, trainer: Trainer) -> bool:
        asked.append(when.may_be_late(learner, trainer))
        return asked[-1]

    monkeypatch.setattr(when, "works_behind", lambda device: True)
    monkeypatch.setattr(check, "may_be_late", may_be_late)
    small = ["--data.meta_batch=2", "--data.train_tasks=8", "--data.val_tasks=2", "--trainer.max_epochs=1"]
    where = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    configuration = Path(__file__).parents[2] / "configs" / "sinusoid.yaml"
    main(["fit", "-c", str(configuration), *small, *where])
    assert asked == [True]
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


class Noting(nn.Module):
    """A squared error that notes whether it is computed in bfloat16."""

    seen: ClassVar[list[bool]] = []

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        self.seen.append(torch.is_autocast_enabled("cpu"))
        return (predictions - targets).square().mean()


@pytest.mark.filterwarnings("ignore:precision. under bf16-mixed")
def test_a_step_is_computed_again_in_its_own_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Lightning is no longer in the step, as at the end of an epoch."""
    monkeypatch.setattr(Noting, "seen", seen := list[bool]())
    run = Run(tmp_path, True, [4], loss=Noting(), precision="bf16-mixed")
    assert "train task 4 is not finite" in run.error
    assert all(seen[-3:])


def test_a_step_is_timed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what is still to come of the steps before it."""
    read = check._Flag.read

    def slow(flag: check._Flag) -> bool:
        time.sleep(0.2)
        return read(flag)

    monkeypatch.setattr(check._Flag, "read", slow)
    run = Run(tmp_path, True, steps=4, log_every_n_steps=4)
    assert 0 < run.trainer.callback_metrics["train/meta_gradient_seconds"] < 0.2


# Where each step is waited for


class Own(torch.optim.Adam):
    """Somebody's optimizer, which may keep anything anywhere."""


class Clipping(MetaLearner):
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)


class Averages(Callback):
    def on_train_batch_end(self, *_: Any) -> None: ...


class OwnBar(TQDMProgressBar):
    """Which shows what Lightning reads of each step."""


class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(1, 1), nn.Dropout()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.linear(inputs))


class Marked(ModelCheckpoint):
    """A class that adds nothing to a step."""


def late_steps(
    folder: Path, made: Callable[..., MetaLearner] = MetaLearner, changes: dict[str, Any] | None = None, **options: Any
) -> set[bool]:
    """Whether the steps of a run with such a learner and trainer are looked at late."""
    given: dict[str, Any] = {"model": MLP(hidden=[4]), "inner_optimizer": SGD(0.01), "loss": nn.MSELoss()}
    changes = {"tasks": Sinusoid(Episode(shots=3, queries=3)), **(changes or {})}
    data = TaskDataModule(changes.pop("tasks"), meta_batch=2, train_tasks=4, val_tasks=2)
    callbacks = [*options.pop("callbacks", []), notes := Notes()]
    trainer = quiet_trainer(
        folder, **{"max_epochs": 1, "limit_val_batches": 0, "log_every_n_steps": 100, "callbacks": callbacks} | options
    )
    trainer.fit(made(**given | changes), data)
    assert len(notes.late) == 2
    assert any(notes.open) <= any(notes.late)
    return {*notes.late}


GLYPHS = {"tasks": Glyphs(Episode(ways=3, shots=1, queries=1)), "loss": nn.CrossEntropyLoss()}


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(when, "works_behind", lambda device: True)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"optimizer": MOMENTUM, "lr_scheduler": functools.partial(StepLR, step_size=1)}, {}),
        ({}, {"callbacks": [LastCheckpoint(), LearningRateMonitor(), DerivativeOrderAnnealing(1), RunProgress()]}),
        ({}, {"gradient_clip_val": 1.0, "enable_checkpointing": True, "callbacks": [Marked(every_n_train_steps=1)]}),
    ],
    ids=["plain", "schedule", "callbacks", "clipping"],
)
def test_steps_are_looked_at_late(changes: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    if "callbacks" in options:
        seen = {"enable_checkpointing": True, "enable_progress_bar": True, "enable_model_summary": True}
        options = seen | {"logger": CSVLogger(tmp_path)} | options
    assert late_steps(tmp_path, changes=changes, **options) == {True}


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({"on_nonfinite": "skip"}, {}),
        ({"optimizer": torch.optim.LBFGS}, {}),
        ({"optimizer": Own}, {}),
        ({"optimizer": functools.partial(HypergradientSGD, lr=0.01)}, {}),
        ({"outer_loss": WorstCaseLoss(4, 0.1), "tasks": FiniteTasks(Sinusoid(Episode(shots=3, queries=3)), 4)}, {}),
        ({"outer_gradient": GaussianSmoothing(2)}, {}),
        ({"model": Drops()}, {}),
        (GLYPHS | {"model": Conv4(3, filters=2), "head_start": "zero"}, {}),
        (
            {
                "model": GaussianPolicy(2, 2, [4]),
                "loss": PolicySurrogate(),
                "experience": Rollouts(),
                "tasks": Navigation(horizon=2, trajectories=2),
            },
            {},
        ),
        ({}, {"accumulate_grad_batches": 2}),
        ({}, {"detect_anomaly": True}),
        ({}, {"callbacks": [Averages()]}),
        ({}, {"callbacks": [LambdaCallback(on_train_batch_end=lambda *_: None)]}),
        ({}, {"callbacks": [EMAWeightAveraging()]}),
        ({}, {"callbacks": [OwnBar()], "enable_progress_bar": True}),
    ],
    ids=[
        *("skip", "LBFGS", "own optimizer", "hypergradient", "update", "sampled", "draws", "head", "experience"),
        *("accumulated", "anomaly", "callback", "lambdas", "averages", "bar"),
    ],
)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_each_step_is_waited_for(changes: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    assert late_steps(tmp_path, changes=changes, **options) == {False}


@pytest.mark.usefixtures("on_gpu")
def test_a_learner_with_code_in_its_steps_is_waited_for(tmp_path: Path) -> None:
    assert late_steps(tmp_path, Clipping) == {False}
    Clipping.looks_at_weights = False
    assert late_steps(tmp_path, Clipping) == {True}


@pytest.mark.parametrize("on_nonfinite", ["raise", "skip"])
def test_the_bar_shows_the_same(on_nonfinite: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which takes loss and metrics from the logs, where Lightning would read them from the device in each step."""
    shown = []
    for on_gpu in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(when, "works_behind", lambda device, on_gpu=on_gpu: on_gpu)
            torch.manual_seed(0)
            changes = GLYPHS | {"model": Conv4(3, filters=2), "on_nonfinite": on_nonfinite}
            late_steps(tmp_path, changes=changes, enable_progress_bar=True)
        shown.append([line for line in capsys.readouterr().err.splitlines() if "batch 2/2" in line])
    assert shown[0] == shown[1]
    assert re.search(r"loss \d\.\d{3}  accuracy \d\.\d{3}$", shown[0][-1])


def test_a_cpu_is_waited_for(tmp_path: Path) -> None:
    assert late_steps(tmp_path) == {False}
    assert [when.works_behind(torch.device(kind)) for kind in ("cuda", "cpu")] == [True, False]


@pytest.mark.usefixtures("on_gpu")
def test_steps_of_several_processes_are_waited_for(tmp_path: Path) -> None:
    found = []

    class Asks(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, MetaLearner)
            found.append(when.may_be_late(pl_module, trainer))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(trainer.strategy, "world_size", 2, raising=False)
                found.append(when.may_be_late(pl_module, trainer))

    late_steps(tmp_path, callbacks=[Asks()])
    assert found == [True, False]


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("module", [before_step, check], ids=["weights", "tasks"])
def test_steps_with_too_much_to_copy_are_waited_for(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 40)
    run = Run(tmp_path, True)
    assert run.notes.open == [0] * 10
    assert differences(run.end, Run(tmp_path, False).end) == []


@pytest.mark.usefixtures("on_gpu")
def test_what_is_set_in_a_run_counts_from_then_on(tmp_path: Path) -> None:
    class Sets(Callback):
        looks_at_weights = False

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.global_step == 2:
                assert isinstance(pl_module, MetaLearner)
                pl_module.on_nonfinite = "skip"

    run = Run(tmp_path, True, [1, 3], callbacks=[Sets()], max_epochs=1)
    assert "train task 1 is not finite" in run.error
    run = Run(tmp_path, True, [3], callbacks=[Sets()], max_epochs=1)
    assert (run.error, run.learner.skipped_tasks, run.notes.open) == ("", 1, [1, 2, 0, 0, 0])
