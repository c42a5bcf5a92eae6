"""An iterable of batches of tasks that begins where a run has come to."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from litmaml.data.task_checks import UNEQUAL
from litmaml.data.task_distribution import TaskDistribution
from litmaml.tasks import MetaBatch, Split


class TaskLoader:
    """An iterable of batches of tasks that begins where the run has come to.

    Lightning restores its own count of epochs and batches from a checkpoint, but asks for the iterator before
    it has put that count right. So the position is read when the first batch is asked for. Since it is no
    DataLoader (it holds one), Lightning neither gives it a sampler nor copies it.

    Args:
        dataset: Gives the tasks with the numbers that it is indexed with.
        numbers: The task numbers of each batch on this rank, from a batch of an epoch on.
        position: The epoch and the first batch in it.
        length: Batches of a whole epoch.
        num_workers: Processes that make batches ahead.
        pin_memory: Whether batches are put in memory that a GPU can fetch from by itself.
    """

    def __init__(
        self,
        dataset: Dataset[MetaBatch],
        numbers: Callable[[int, int], list[range]],
        position: Callable[[], tuple[int, int]],
        length: int,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        self._dataset = dataset
        self._numbers = numbers
        self._position = position
        self._length = length
        self._num_workers = num_workers
        self._pin_memory = pin_memory

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self._length

    def __iter__(self) -> Iterator[MetaBatch]:
        # A generator: this runs when the first batch is asked for.
        epoch, batch = self._position()
        numbers = self._numbers(epoch, batch)
        yield from DataLoader(
            self._dataset,
            batch_size=None,
            sampler=numbers,
            num_workers=self._num_workers,
            worker_init_fn=_leave_stopping_to_training,
            pin_memory=self._pin_memory,
            collate_fn=_unchanged,
        )

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the position is Lightning's own. This method tells Lightning that the loader resumes."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See ``state_dict``."""


class Sampled(Dataset[MetaBatch]):
    """The tasks of a split, indexed by many numbers at a time."""

    def __init__(self, tasks: TaskDistribution, split: Split, seed: int) -> None:
        self.tasks = tasks
        self.split = split
        self.seed = seed

    def __getitem__(self, numbers: Sequence[int]) -> MetaBatch:
        try:
            return self.tasks.sample(self.split, numbers, self.seed)
        except RuntimeError as error:
            if "stack expects each tensor to be equal size" not in str(error):
                raise
            raise ValueError(f"tasks: {type(self.tasks).__name__} cannot stack them ({error}); {UNEQUAL}") from error


def _leave_stopping_to_training(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # from the terminal, to all processes
        signal.signal(number, signal.SIG_IGN)


def _unchanged(tasks: Any) -> Any:
    return tasks
