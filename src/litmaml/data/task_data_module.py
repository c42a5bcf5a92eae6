"""Batches of tasks for Lightning: distinct on every rank, the same with any workers, resumable anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from litmaml.data.task_distribution import TaskDistribution, check_at_least
from litmaml.recipe import describe
from litmaml.types import Split, Tasks


class TaskDataModule(LightningDataModule):
    """Serves the tasks of a distribution to train, validate, test and predict with.

    Training has epochs of ``train_tasks`` tasks: with W processes, batch b of epoch e on rank r holds the
    tasks numbered e * train_tasks + (b * W + r) * meta_batch + [0, meta_batch). So the ranks' tasks differ,
    together they are those that one process would see, and a run that is resumed in the middle of an epoch
    goes on with the next task. Validation and test always take the tasks 0, 1, ... of their split, shared out
    among the processes without repetition, in batches of at most ``meta_batch`` that differ in size by at
    most one task.

    Args:
        tasks: The distribution of tasks.
        meta_batch: Tasks of one training batch on each process. One outer step takes meta_batch tasks times
            the processes times ``accumulate_grad_batches``.
        train_tasks: Tasks of one training epoch, over all processes; a multiple of meta_batch times the
            processes.
        val_tasks: Tasks of one validation, over all processes.
        test_tasks: Tasks of one test, over all processes. ``predict`` takes these tasks too.
        seed: Of all tasks: task i of a split is a pure function of (seed, split, i).
        num_workers: Processes that make batches ahead on each rank; 0 makes them in the training process.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        tasks: TaskDistribution,
        meta_batch: int = 16,
        train_tasks: int = 1600,
        val_tasks: int = 160,
        test_tasks: int = 600,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_at_least(1, meta_batch=meta_batch)
        check_at_least(1, train_tasks=train_tasks, val_tasks=val_tasks, test_tasks=test_tasks)
        check_at_least(0, seed=seed, num_workers=num_workers)
        self.tasks = tasks
        self.meta_batch = meta_batch
        self.train_tasks = train_tasks
        self.val_tasks = val_tasks
        self.test_tasks = test_tasks
        self.seed = seed
        self.num_workers = num_workers
        try:
            self.save_hyperparameters(describe(self)["init_args"])
        except TypeError as reason:
            rank_zero_warn(f"checkpoints will not rebuild the task data by themselves: {reason}")

    def remember(self, recipe: Mapping[str, Any]) -> None:
        """Put the arguments that rebuild this module into every checkpoint; the command line logs them itself."""
        self.save_hyperparameters(dict(recipe), logger=False)

    def prepare_data(self) -> None:
        self.tasks.prepare()

    def setup(self, stage: str) -> None:
        """Loads and checks the splits that a stage needs."""
        splits: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for split in splits.get(stage, ("test",)):
            self.tasks.load(split)

    def train_dataloader(self) -> TaskLoader:
        """The training batches of this rank.

        Raises:
            ValueError: if ``train_tasks`` cannot be shared out evenly.
        """
        rank, ranks = self._rank()
        together = self.meta_batch * ranks
        if self.train_tasks % together:
            nearest = max(1, round(self.train_tasks / together)) * together
            raise ValueError(
                f"train_tasks={self.train_tasks} must be a multiple of meta_batch times the number of "
                f"processes, {self.meta_batch} x {ranks} = {together}: the nearest is {nearest}"
            )

        def numbers(epoch: int) -> list[range]:
            first = epoch * self.train_tasks + rank * self.meta_batch
            starts = range(first, first + self.train_tasks, together)
            return [range(start, start + self.meta_batch) for start in starts]

        return self._loader("train", numbers, self._position)

    def val_dataloader(self) -> TaskLoader:
        return self._evaluation("val", self.val_tasks, "val_tasks")

    def test_dataloader(self) -> TaskLoader:
        return self._evaluation("test", self.test_tasks, "test_tasks")

    def predict_dataloader(self) -> TaskLoader:
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Makes pictures of bytes on the device where the learner wants them."""
        if not isinstance(batch, Tasks):
            return batch
        # Lightning does not itself set the precision of the run in this hook.
        with nullcontext() if self.trainer is None else self.trainer.precision_plugin.tensor_init_context():
            return self.tasks.render(batch)

    def _evaluation(self, split: Split, total: int, argument: str) -> TaskLoader:
        rank, ranks = self._rank()
        if total < ranks:
            raise ValueError(f"{argument}={total} is less than the {ranks} processes: each needs a task")
        # As many batches on every rank, since a collective operation in a step would otherwise wait for ever.
        most = math.ceil(total / ranks)
        batches = min(total // ranks, math.ceil(most / self.meta_batch))
        mine = _part(range(total), rank, ranks)
        numbers = [_part(mine, b, batches) for b in range(batches)]
        return self._loader(split, lambda epoch: numbers, lambda: (0, 0))

    def _loader(
        self, split: Split, numbers: Callable[[int], list[range]], position: Callable[[], tuple[int, int]]
    ) -> TaskLoader:
        self.tasks.load(split)
        dataset = _Sampled(self.tasks, split, self.seed)
        return TaskLoader(dataset, numbers, position, self.num_workers, pin_memory=self._on_cuda())

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _on_cuda(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _position(self) -> tuple[int, int]:
        """The epoch and the batch in it that training has come to."""
        if self.trainer is None:
            return 0, 0
        overfit = self.trainer.overfit_batches  # type: ignore[attr-defined]  # set outside its class
        epoch = 0 if overfit else self.trainer.current_epoch
        return epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready


class TaskLoader:
    """An iterable of batches of tasks that begins where the run has come to.

    Lightning restores its own count of epochs and batches from a checkpoint, but asks for the iterator before
    it has put that count right. So the position is read when the first batch is asked for. Since it is no
    DataLoader (it holds one), Lightning neither gives it a sampler nor copies it.

    Args:
        dataset: Gives the tasks with the numbers that it is indexed with.
        numbers: The task numbers of each batch of an epoch on this rank.
        position: The epoch and the first batch in it.
        num_workers: Processes that make batches ahead.
        pin_memory: Whether batches are put in memory that a GPU can fetch from by itself.
    """

    def __init__(
        self,
        dataset: Dataset[Tasks],
        numbers: Callable[[int], list[range]],
        position: Callable[[], tuple[int, int]],
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        self._dataset = dataset
        self._numbers = numbers
        self._position = position
        self._num_workers = num_workers
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._numbers(0))

    def __iter__(self) -> Iterator[Tasks]:
        # A generator: this runs when the first batch is asked for.
        epoch, batch = self._position()
        yield from DataLoader(
            self._dataset,
            batch_size=None,
            sampler=self._numbers(epoch)[batch:],
            num_workers=self._num_workers,
            pin_memory=self._pin_memory,
            collate_fn=_unchanged,
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position is Lightning's own. This method tells Lightning that the loader resumes."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See ``state_dict``."""


class _Sampled(Dataset[Tasks]):
    """The tasks of a split, indexed by many numbers at a time."""

    def __init__(self, tasks: TaskDistribution, split: Split, seed: int) -> None:
        self.tasks = tasks
        self.split = split
        self.seed = seed

    def __getitem__(self, numbers: Sequence[int]) -> Tasks:
        return self.tasks.sample(self.split, numbers, self.seed)


def _unchanged(tasks: Any) -> Any:
    return tasks


def _part(numbers: range, k: int, parts: int) -> range:
    """The k-th of nearly equal parts."""
    return numbers[k * len(numbers) // parts : (k + 1) * len(numbers) // parts]
