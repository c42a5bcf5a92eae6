"""The mean gradient over the finite tasks of several batches and processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from litmaml import MetaLearner, TaskDataModule
from litmaml.data import Episode, Sinusoid
from litmaml.inner import SGD
from litmaml.learner.finite_tasks import Count, of_all_processes
from litmaml.learner.outer_step import OuterStep
from litmaml.models import MLP
from litmaml.tasks import MetaBatch, Tasks
from quiet_trainer import quiet_trainer

# Lightning 2.6.6 calls what torch 2.13 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")


def trainer_of(folder: Path, devices: int, **options: Any) -> Trainer:
    strategy = "ddp_fork" if devices > 1 else "auto"
    return quiet_trainer(folder, devices=devices, strategy=strategy, max_epochs=1, **options)


class Broken(Sinusoid):
    """Sinusoids, of which the tasks with the given numbers (of any split) are not finite."""

    def __init__(self, bad: list[int], split: str = "train", value: float = float("nan")) -> None:
        super().__init__(Episode(shots=4, queries=4))
        self.bad, self.split, self.value = bad, split, value

    def sample(self, split: Any, numbers: Any, seed: int) -> Tasks:
        tasks = super().sample(split, numbers, seed)
        for place, number in enumerate(numbers):
            if number in self.bad and split == self.split:
                tasks.query.targets[place] = self.value
        return tasks


class Gradients(Callback):
    """Keeps the gradient of every outer step, and leaves it in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[list[float] | None] = []

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self._note(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(pl_module)
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(self.seen[1:]))

    def _note(self, pl_module: LightningModule) -> None:
        grads: list[Tensor | None] = [w.grad for w in pl_module.parameters()]
        whole = [g for g in grads if g is not None]
        self.seen.append(torch.cat([g.flatten() for g in whole]).tolist() if whole else None)


def learner(**options: Any) -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(MLP(hidden=[6]), SGD(lr=0.01), loss=nn.MSELoss(), on_nonfinite="skip", **options)


def gradients(tmp_path: Path, bad: list[int], meta_batch: int, devices: int = 1, **options: Any) -> Any:
    """Those of one epoch of 16 tasks, by which nothing moves."""
    folder = tmp_path / f"{meta_batch}-{devices}-{options}"
    folder.mkdir()
    module = learner()
    module.optimizer = lambda weights: torch.optim.SGD(weights, lr=0.0)
    callbacks = [Gradients(folder)]
    trainer = trainer_of(folder, devices, precision="64-true", limit_val_batches=0, callbacks=callbacks, **options)
    trainer.fit(module, datamodule=TaskDataModule(Broken(bad), meta_batch=meta_batch, train_tasks=16))
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


# Of each eight tasks rank 0 has the first four: one of its four is finite; none is; none at all is.
@pytest.mark.parametrize("bad", [[], [0, 1, 2], [0, 1, 2, 3], [*range(8)]], ids=["all", "1 and 4", "0 and 4", "none"])
def test_two_ranks_weigh_tasks(tmp_path: Path, bad: list[int]) -> None:
    (alone,) = gradients(tmp_path, bad, 8)
    together = gradients(tmp_path, bad, 4, devices=2)
    assert len(together) == 2
    for rank in together:
        for one, other in zip(alone, rank, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-14)
    assert (alone[0] is None) == (len(bad) == 8)


@pytest.mark.parametrize("bad", [[0, 1, 2], [0, 1, 2, 3], [0, 5, 9, 10, 11], [*range(8)]])
def test_accumulated_batches_weigh_tasks(tmp_path: Path, bad: list[int]) -> None:
    (alone,) = gradients(tmp_path, bad, 8)
    (accumulated,) = gradients(tmp_path, bad, 4, accumulate_grad_batches=2)
    for one, other in zip(alone, accumulated, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-14)


def test_batches_that_are_left_over_are_a_mean_too(tmp_path: Path) -> None:
    """Of four batches three make the first step, and one the second."""
    (steps,) = gradients(tmp_path, [], 4, accumulate_grad_batches=3)
    (single,) = gradients(tmp_path, [], 4)
    np.testing.assert_allclose(steps[0], np.mean(single[:3], axis=0), rtol=1e-12)
    np.testing.assert_allclose(steps[1], single[3], rtol=1e-12)


def test_full_batches_are_not_touched() -> None:
    module = learner()
    step = OuterStep(module.inner_loop, module.outer_loss)
    assert [step.share(Count([4, 4], [4, 4], []), rank) for rank in (0, 1, 0)] == [1.0, 1.0, 1.0]
    assert step.correction(3) == 1.0


def fit(tmp_path: Path, bad: list[int], split: str = "train", devices: int = 1, **options: Any) -> MetaLearner:
    module = learner(**options)
    trainer = trainer_of(tmp_path, devices, num_sanity_val_steps=0)
    data = TaskDataModule(Broken(bad, split), meta_batch=2, train_tasks=16, val_tasks=4)
    trainer.fit(module, datamodule=data)
    return module


def test_a_step_without_any_finite_task_moves_nothing_and_logs_nan(tmp_path: Path) -> None:
    before = learner().state_dict()
    module = fit(tmp_path, [*range(16)])
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())
    assert module.trainer.callback_metrics["train/loss"].isnan()
    assert module.skipped_tasks == 16


def test_momentum_does_not_move_a_step_without_tasks_either(tmp_path: Path) -> None:
    whole, short = fit(tmp_path, [*range(8, 16)]), learner()
    short.optimizer = whole.optimizer
    trainer = quiet_trainer(tmp_path, max_steps=4, num_sanity_val_steps=0)
    trainer.fit(short, datamodule=TaskDataModule(Broken([]), meta_batch=2, train_tasks=16, val_tasks=4))
    assert all(torch.equal(weight, short.state_dict()[name]) for name, weight in whole.state_dict().items())


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_too_many_such_steps_in_a_row_end_the_run(tmp_path: Path, devices: int) -> None:
    fit(tmp_path, [*range(2, 14)], devices=devices, max_skipped=7)  # two at a time: six in a row, or two
    with pytest.raises(Exception, match=r"max_skipped: 2 outer steps in a row had no task whose loss"):
        fit(tmp_path, [*range(4, 16)], devices=devices, max_skipped=2)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("bad", [1, 3])
def test_with_raise_every_rank_names_the_task(tmp_path: Path, split: str, bad: int) -> None:
    """Rank 0 has the tasks 0 and 1, rank 1 the tasks 2 and 3."""

    class Noting(MetaLearner):
        def _check_finite(self, *arguments: Any) -> Count:
            try:
                return super()._check_finite(*arguments)
            except FloatingPointError as error:
                (tmp_path / f"{self.global_rank}.txt").write_text(str(error))
                raise

    module = Noting(MLP(hidden=[6]), SGD(lr=0.01), loss=nn.MSELoss())
    trainer = trainer_of(tmp_path, 2, num_sanity_val_steps=0)
    # The number is finite, the loss is not.
    data = TaskDataModule(Broken([bad], split, 3e38), meta_batch=2, train_tasks=16, val_tasks=4)
    with pytest.raises(Exception, match=f"{split} task {bad} is not finite"):
        trainer.fit(module, datamodule=data)
    for rank in (0, 1):
        assert (
            f"the loss or gradient of {split} task {bad} is not finite (1 of 4"
            in (tmp_path / f"{rank}.txt").read_text()
        )


def test_what_processes_send_each_other_is_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor in an object arrives on the sender's GPU, where each process would then take memory."""
    sent: list[str] = []

    class Elsewhere(Tensor):
        """Says that it lies on a GPU."""

        def cpu(self) -> Tensor:  # type: ignore[override]
            sent.append("cpu")
            return self.as_subclass(Tensor)

    def gather(parts: list[Tensor], mine: Tensor) -> None:
        assert type(mine) is Tensor
        parts[:] = [mine, mine + 1]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    values = torch.tensor([1.0, 2.0]).as_subclass(Elsewhere)
    assert of_all_processes(values, 2).tolist() == [1.0, 2.0, 2.0, 3.0]
    assert sent == ["cpu"]


def test_a_trial_that_fails_on_one_rank_ends_all(tmp_path: Path) -> None:
    """The data of rank 1 alone holds nan."""

    class Noting(MetaLearner):
        def _try(self, tasks: MetaBatch) -> None:
            try:
                super()._try(tasks)
            except ValueError as error:
                (tmp_path / f"{self.global_rank}.txt").write_text(str(error))
                raise

    module = Noting(MLP(hidden=[6]), SGD(lr=0.01), loss=nn.MSELoss())
    trainer = trainer_of(tmp_path, 2, num_sanity_val_steps=0)
    with pytest.raises(Exception, match="of task 3 holds nan"):
        trainer.fit(module, datamodule=TaskDataModule(Broken([3]), meta_batch=2, train_tasks=16, val_tasks=4))
    assert "of task 3 holds nan" in (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()
