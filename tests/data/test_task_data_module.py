"""The tasks that a run sees: which, in what order, on which rank, and after an interruption."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.data.training_place import batches_left
from litmaml.tasks import Batch, Split, Tasks, numbers_of

# Lightning 2.6.6 calls what torch 2.13 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")

EPOCHS, BATCHES, META_BATCH = 3, 4, 2


class Recorder(LightningModule):
    """Writes down the numbers of the tasks that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_numbers: list[list[int]] = []
        self.val_numbers: list[list[int]] = []
        self.test_numbers: list[list[int]] = []
        self.batches: list[Tasks] = []

    def training_step(self, tasks: Tasks, index: int) -> torch.Tensor:
        self.train_numbers.append(tasks.numbers.tolist())
        self.batches.append(tasks)
        return (self.weight - tasks.query.targets).square().mean()

    def validation_step(self, tasks: Tasks, index: int) -> None:
        self.val_numbers.append(tasks.numbers.tolist())

    def test_step(self, tasks: Tasks, index: int) -> None:
        self.test_numbers.append(tasks.numbers.tolist())

    def predict_step(self, tasks: Tasks, index: int) -> torch.Tensor:
        return tasks.numbers

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveIn(Callback):
    """Saves a checkpoint each time that one hook is called, and notes how many batches were seen by then."""

    def __init__(self, hook: str, folder: Path) -> None:
        self.saved: list[tuple[Path, int]] = []
        setattr(self, hook, self._save)
        self._folder = folder

    def _save(self, trainer: Trainer, module: Recorder, *unused: Any) -> None:
        if not trainer.sanity_checking:
            path = self._folder / f"{len(self.saved)}.ckpt"
            trainer.save_checkpoint(path)
            self.saved.append((path, len(module.train_numbers)))


def data_module(**changes: Any) -> TaskDataModule:
    settings: dict[str, Any] = {
        "meta_batch": META_BATCH,
        "train_tasks": BATCHES * META_BATCH,
        "val_tasks": 5,
        "test_tasks": 7,
    }
    return TaskDataModule(Sinusoid(Episode(shots=2, queries=2)), **(settings | changes))


def trainer(folder: Path, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": EPOCHS,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
    }
    return Trainer(**(settings | changes))


def batches(first: int, count: int, size: int = META_BATCH) -> list[list[int]]:
    return [[*range(first + b * size, first + (b + 1) * size)] for b in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_take_the_next_tasks_and_validation_always_the_same(tmp_path: Path, workers: int) -> None:
    module = Recorder()
    trainer(tmp_path, num_sanity_val_steps=0).fit(module, datamodule=data_module(num_workers=workers))
    assert module.train_numbers == batches(0, EPOCHS * BATCHES)
    assert module.val_numbers == [[0], [1, 2], [3, 4]] * EPOCHS


def test_test_and_predict_take_the_test_tasks(tmp_path: Path) -> None:
    module, runner = Recorder(), trainer(tmp_path)
    runner.test(module, datamodule=data_module(), verbose=False)
    assert module.test_numbers == [[0], [1, 2], [3, 4], [5, 6]]
    predicted: Any = runner.predict(module, datamodule=data_module())
    assert [numbers.tolist() for numbers in predicted] == module.test_numbers


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fewer batches": {"limit_train_batches": 3},
    "validation within the epoch": {"val_check_interval": 2},
    "validation over epochs": {"check_val_every_n_epoch": None, "val_check_interval": 3},
    "accumulation": {"accumulate_grad_batches": 2},
    "no validation": {"limit_val_batches": 0},
}


@pytest.mark.parametrize(
    ("hook", "options"),
    [
        (hook, options)
        for hook in ("on_train_batch_end", "on_validation_end", "on_train_epoch_end")
        for options in OPTIONS
        if (hook, options) != ("on_validation_end", "no validation")
    ],
)
def test_a_run_resumed_from_any_checkpoint_sees_the_tasks_that_were_left(
    tmp_path: Path, hook: str, options: str
) -> None:
    saver, whole = SaveIn(hook, tmp_path), Recorder()
    trainer(tmp_path, callbacks=[saver], **OPTIONS[options]).fit(whole, datamodule=data_module())
    assert saver.saved
    for path, seen in saver.saved:
        # Batches whose gradients wait for a later one's are taken again: no checkpoint holds gradients.
        seen -= seen % OPTIONS[options].get("accumulate_grad_batches", 1)
        rest = Recorder()
        trainer(tmp_path, **OPTIONS[options]).fit(rest, datamodule=data_module(), ckpt_path=path)
        assert rest.train_numbers == whole.train_numbers[seen:], f"{path.name}, {seen} batches seen"


CHANGES: dict[str, dict[str, Any]] = {
    "doubled": {"meta_batch": 4},
    "halved": {"meta_batch": 1},
    "the whole epoch": {"meta_batch": 8},
    "accumulated": {"accumulate_grad_batches": 2},
    "doubled and accumulated": {"meta_batch": 4, "accumulate_grad_batches": 2},
    "longer epochs": {"train_tasks": 12},
    "shorter epochs": {"train_tasks": 4},
    "iterations": {"max_epochs": -1, "max_steps": 14},
}


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_epoch_end"])
@pytest.mark.parametrize("change", [*CHANGES, pytest.param("workers", marks=pytest.mark.slow)])
def test_no_task_is_repeated_or_left_out_whatever_changes(tmp_path: Path, change: str, hook: str) -> None:
    """Resumed after every batch, and there saved and resumed once more with the batches as they were."""
    saver, whole = SaveIn(hook, tmp_path), Recorder()
    trainer(tmp_path, callbacks=[saver]).fit(whole, datamodule=data_module())
    for path, seen in saver.saved:
        changes = CHANGES.get(change, {"num_workers": 2})
        data = {k: v for k, v in changes.items() if k in ("meta_batch", "train_tasks", "num_workers")}
        more = {k: v for k, v in changes.items() if k not in data}
        further, rest = SaveIn("on_train_batch_end", tmp_path / f"{seen}"), Recorder()
        trainer(tmp_path, callbacks=[further], **more).fit(rest, datamodule=data_module(**data), ckpt_path=path)
        numbers = [n for batch in whole.train_numbers[:seen] + rest.train_numbers for n in batch]
        assert numbers == [*range(len(numbers))], f"{path.name}, {seen} batches seen"
        assert change == "shorter epochs" or len(numbers) >= META_BATCH * seen + (seen < EPOCHS * BATCHES)
        if more or not further.saved or "workers" in change:
            continue
        back, again = further.saved[0][0], Recorder()
        trainer(tmp_path).fit(again, datamodule=data_module(), ckpt_path=back)
        served = whole.train_numbers[:seen] + rest.train_numbers[:1] + again.train_numbers
        assert [n for batch in served for n in batch] == [*range(sum(map(len, served)))], f"{path.name}, back"


@pytest.mark.parametrize("seen", range(25))
@pytest.mark.parametrize(("together", "ranks"), [(1, 1), (2, 1), (4, 2), (6, 3), (8, 4), (12, 2), (24, 4)])
def test_batches_that_are_left(seen: int, together: int, ranks: int) -> None:
    if 0 < 24 - seen < ranks:
        with pytest.raises(ValueError, match=rf"trainer\.devices: {24 - seen} of the epoch's 24 tasks are left"):
            batches_left(24, together, ranks, seen)
        return
    done, left = batches_left(24, together, ranks, seen)
    assert [n for part in left for n in part] == [*range(seen, 24)]
    assert done + len(left) == 24 // together, "Lightning counts to the epoch's end"
    assert all(len(part) >= ranks for part in left), "a process without a task"
    assert all(part.stop % together == 0 for part in left)


@pytest.mark.parametrize("seen", [2, 4, 5])
def test_a_run_with_workers_resumes_too(tmp_path: Path, seen: int) -> None:
    saver, whole, rest = SaveIn("on_train_batch_end", tmp_path), Recorder(), Recorder()
    trainer(tmp_path, callbacks=[saver]).fit(whole, datamodule=data_module())
    path = next(path for path, count in saver.saved if count == seen)
    trainer(tmp_path).fit(rest, datamodule=data_module(num_workers=2), ckpt_path=path)
    assert rest.train_numbers == whole.train_numbers[seen:]


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", range(EPOCHS * BATCHES))
def test_a_step_that_was_broken_off_is_done_again(tmp_path: Path, step: int) -> None:
    class Interrupted(Recorder):
        def training_step(self, tasks: Tasks, index: int) -> torch.Tensor:
            if len(self.train_numbers) == step:
                raise Killed
            return super().training_step(tasks, index)

    class SaveOnException(Callback):
        def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
            trainer.save_checkpoint(tmp_path / "broken.ckpt")

    first, rest = Interrupted(), Recorder()
    with pytest.raises(Killed):
        trainer(tmp_path, callbacks=[SaveOnException()]).fit(first, datamodule=data_module())
    trainer(tmp_path).fit(rest, datamodule=data_module(), ckpt_path=tmp_path / "broken.ckpt")
    assert first.train_numbers + rest.train_numbers == batches(0, EPOCHS * BATCHES)


def test_overfitting_takes_the_same_batches_in_every_epoch(tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, overfit_batches=2).fit(module, datamodule=data_module())
    assert module.train_numbers == batches(0, 2) * EPOCHS


def test_a_batch_is_rendered_where_the_learner_gets_it(tmp_path: Path) -> None:
    module = Recorder()
    trainer(tmp_path, precision="64-true", max_epochs=1).fit(module, datamodule=data_module())
    assert isinstance(module.batches[0], Tasks)
    assert module.batches[0].query.inputs.dtype == torch.float64
    assert module.batches[0].numbers.dtype == torch.int64
    assert module.batches[0].hessian is None


def test_without_a_trainer_the_first_epoch_comes() -> None:
    module = data_module()
    assert [numbers_of(tasks).tolist() for tasks in module.train_dataloader()] == batches(0, BATCHES)
    tasks = next(iter(module.val_dataloader()))
    assert module.on_after_batch_transfer(tasks, 0).query.inputs.dtype == torch.float32


class Ranked(Recorder):
    """Leaves what each process saw in a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_fit_end(self) -> None:
        seen = {"train": self.train_numbers, "val": self.val_numbers}
        (self.folder / f"fit{self.global_rank}.json").write_text(json.dumps(seen))

    def on_test_end(self) -> None:
        (self.folder / f"test{self.global_rank}.json").write_text(json.dumps(self.test_numbers))


def test_two_processes_see_together_what_one_sees(tmp_path: Path) -> None:
    options = {"devices": 2, "strategy": "ddp_fork", "max_epochs": 2, "num_sanity_val_steps": 0}
    trainer(tmp_path, **options).fit(Ranked(tmp_path), datamodule=data_module())
    trainer(tmp_path, **options).test(Ranked(tmp_path), datamodule=data_module(), verbose=False)
    first, second = (json.loads((tmp_path / f"fit{rank}.json").read_text()) for rank in (0, 1))
    assert first["train"] == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert second["train"] == [[2, 3], [6, 7], [10, 11], [14, 15]]
    assert first["val"] == [[0], [1]] * 2
    assert second["val"] == [[2], [3, 4]] * 2
    tests = [json.loads((tmp_path / f"test{rank}.json").read_text()) for rank in (0, 1)]
    assert tests == [[[0], [1, 2]], [[3, 4], [5, 6]]]


@pytest.mark.parametrize("total", range(3, 40))
@pytest.mark.parametrize(("ranks", "meta_batch"), [(1, 1), (1, 4), (2, 1), (2, 3), (3, 4)])
def test_evaluation_shares_tasks_out_in_equally_many_batches(
    monkeypatch: pytest.MonkeyPatch, total: int, ranks: int, meta_batch: int
) -> None:
    module, shares = data_module(val_tasks=total, meta_batch=meta_batch), []
    for rank in range(ranks):
        monkeypatch.setattr(module, "_rank", lambda rank=rank: (rank, ranks))
        shares.append([numbers_of(tasks).tolist() for tasks in module.val_dataloader()])
    assert sorted(number for share in shares for batch in share for number in batch) == [*range(total)]
    assert len({len(share) for share in shares}) == 1, "a rank with fewer batches would be waited for"
    sizes = {len(batch) for share in shares for batch in share}
    assert min(sizes) > 0
    assert max(sizes) <= max(meta_batch, 2 if meta_batch == 1 else 0)


def test_tasks_that_cannot_be_shared_out_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = data_module(train_tasks=21, val_tasks=1)
    monkeypatch.setattr(module, "_rank", lambda: (0, 2))
    message = "train_tasks=21 must be a multiple of meta_batch times .* 2 x 2 = 4: the nearest is 20"
    with pytest.raises(ValueError, match=message):
        module.train_dataloader()
    with pytest.raises(ValueError, match="val_tasks=1 is less than the 2 processes"):
        module.val_dataloader()


@pytest.mark.parametrize("argument", ["meta_batch", "train_tasks", "val_tasks", "test_tasks"])
def test_wrong_counts_are_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be at least 1, got 0"):
        data_module(**{argument: 0})
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        data_module(seed=-1)


class Stacked(Sinusoid):
    """Tasks of one's own, each with another number of examples."""

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        x = torch.stack([torch.zeros(number + 1, 1) for number in numbers])
        return Tasks((Batch(x, x),), Batch(x, x), torch.tensor(numbers))


def test_a_stack_of_unequal_tasks_is_told_what_to_do() -> None:
    data = TaskDataModule(Stacked(), meta_batch=2, train_tasks=4)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"^tasks: Stacked cannot stack them \(stack expects.*; give .*in_stacks"):
        next(iter(data.train_dataloader()))
