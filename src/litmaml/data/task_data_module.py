"""Batches of tasks for Lightning: distinct on every rank, the same with any workers, resumable anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from litmaml.data.task_distribution import TaskDistribution, check_at_least
from litmaml.data.task_loader import Sampled, TaskLoader
from litmaml.data.training_place import Batches, Place, batches_left, read_place
from litmaml.runs.recipe import describe
from litmaml.runs.training_form import cannot_go_on
from litmaml.shown import spelled
from litmaml.tasks import Split, Tasks, stacks_of

_SPLITS: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
"""Those that a stage needs; of others the test split."""


class TaskDataModule(LightningDataModule):
    """Serves the tasks of a distribution to train, validate, test and predict with.

    Training has epochs of ``train_tasks`` tasks: with W processes, batch b of epoch e on rank r holds the
    tasks numbered e * train_tasks + (b * W + r) * meta_batch + [0, meta_batch). So the ranks' tasks differ,
    together they are those that one process would see, and a run that is resumed in the middle of an epoch
    goes on with the next task, also with another batch, epoch or number of processes. Validation and test
    always take the tasks 0, 1, ... of their split, shared out among the processes without repetition, in
    batches of at most ``meta_batch`` that differ in size by at most one task.

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
        keep_on_gpu: Whether images are kept on a GPU that has room for them, and batches made there: the tasks are the
            same. A quarter of its free memory is the most that a split takes.

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
        keep_on_gpu: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(tasks, TaskDistribution):
            raise ValueError(
                f"tasks: takes a distribution of tasks, got {type(tasks).__name__}; give such as "
                "DatasetTasks(TensorDataset(inputs, targets))"
            )
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
        self.keep_on_gpu = keep_on_gpu
        self._resumed = Place()
        self._epoch: int | None = None  # that the last training batches were of
        try:
            self.save_hyperparameters(describe(self)["init_args"])
        except TypeError as reason:
            rank_zero_warn(
                f"checkpoints will not rebuild the task data by themselves: {reason}. In Python, give the trainer this "
                "module again; on the command line -c RUN/config.yaml"
            )

    def __repr__(self) -> str:
        return spelled(self)

    __str__ = __repr__

    def remember(self, recipe: Mapping[str, Any]) -> None:
        """Put the arguments that rebuild this module into every checkpoint; the command line logs them itself."""
        self.save_hyperparameters(dict(recipe), logger=False)

    def prepare_data(self) -> None:
        self.tasks.prepare()

    def setup(self, stage: str) -> None:
        """Loads and checks the splits that a stage needs."""
        for split in _SPLITS.get(stage, ("test",)):
            self.tasks.load(split)

    def one_task(self, stage: str) -> Tasks:
        """A task as the learner gets it in a stage, before there are batches of them."""
        split, *_ = _SPLITS.get(stage, ("test",))
        first, *_ = stacks_of(self.on_after_batch_transfer(self.tasks.sample(split, [0], self.seed), 0))
        return first

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

        def numbers(epoch: int, batch: int) -> list[range]:
            if self._runs:
                self._epoch = epoch
            first, seen = self._first(epoch), self._seen(epoch, batch)
            left = batches_left(self.train_tasks, together, ranks, seen).left
            return [_part(range(first + part.start, first + part.stop), rank, ranks) for part in left]

        return self._loader("train", numbers, self._position, self.train_tasks // together)

    def val_dataloader(self) -> TaskLoader:
        return self._evaluation("val", self.val_tasks, "val_tasks")

    def test_dataloader(self) -> TaskLoader:
        return self._evaluation("test", self.test_tasks, "test_tasks")

    def predict_dataloader(self) -> TaskLoader:
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Makes pictures of bytes on the device where the learner wants them."""
        stacks = stacks_of(batch) if isinstance(batch, tuple | list) else ()
        if not stacks or not all(isinstance(stack, Tasks) for stack in stacks):
            return batch
        # Lightning does not itself set the precision of the run in this hook.
        with nullcontext() if self.trainer is None else self.trainer.precision_plugin.tensor_init_context():
            rendered = tuple(self.tasks.render(stack) for stack in stacks)
        return rendered[0] if isinstance(batch, Tasks) else rendered

    def _evaluation(self, split: Split, total: int, argument: str) -> TaskLoader:
        rank, ranks = self._rank()
        if total < ranks:
            raise ValueError(f"{argument}={total} is less than the {ranks} processes: each needs a task")
        # As many batches on every rank, since a collective operation in a step would otherwise wait for ever.
        most = math.ceil(total / ranks)
        batches = min(total // ranks, math.ceil(most / self.meta_batch))
        mine = _part(range(total), rank, ranks)
        numbers = [_part(mine, b, batches) for b in range(batches)]
        return self._loader(split, lambda epoch, batch: numbers, lambda: (0, 0), batches)

    def _loader(
        self,
        split: Split,
        numbers: Callable[[int, int], list[range]],
        position: Callable[[], tuple[int, int]],
        length: int,
    ) -> TaskLoader:
        self.tasks.load(split)
        if self.keep_on_gpu and self.trainer is not None and self._on_cuda():
            self.tasks.keep_on(split, self.trainer.strategy.root_device)
        dataset = Sampled(self.tasks, split, self.seed)
        return TaskLoader(dataset, numbers, position, length, self.num_workers, pin_memory=self._on_cuda())

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _on_cuda(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _position(self) -> tuple[int, int]:
        """The epoch and the batch in it that training has come to."""
        if self.trainer is None or not self._runs:
            return 0, 0
        epoch = 0 if self._overfits else self.trainer.current_epoch
        return epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    @property
    def _runs(self) -> bool:
        """Whether a trainer is at work, and nobody looks at the batches before or after."""
        return self.trainer is None or self.trainer.state.status == TrainerStatus.RUNNING

    @property
    def _overfits(self) -> bool:
        return self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]  # set outside its class

    def _left(self, seen: int) -> Batches:
        ranks = self._rank()[1]
        return batches_left(self.train_tasks, self.meta_batch * ranks, ranks, seen)

    def _first(self, epoch: int) -> int:
        """The number of an epoch's first task."""
        return self._resumed.first + (epoch - self._resumed.epoch) * self.train_tasks

    def _seen(self, epoch: int, batch: int) -> int:
        """How many of an epoch's tasks come before one of its batches."""
        if epoch == self._resumed.epoch and batch == self._left(self._resumed.seen).done:
            return self._resumed.seen
        return batch * self.meta_batch * self._rank()[1]

    def state_dict(self) -> dict[str, Any]:
        """The place that training has come to, in tasks, and what these took from the training split."""
        record = self.tasks.record()
        return self._place() | ({} if record is None else {"tasks": dict(record)})

    def _place(self) -> dict[str, Any]:
        trainer = self.trainer
        if trainer is None or trainer.state.fn != TrainerFn.FITTING or self._overfits:
            return {}
        place, whole = self._resumed, False
        if self._epoch is not None:
            batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current  # typed without half of what it counts
            done = batches.processed
            whole = 0 < done >= trainer.num_training_batches
            # No checkpoint holds the gradients of batches that are to make an outer step with later ones.
            kept = done if whole else done - done % trainer.accumulate_grad_batches
            seen = self._seen(self._epoch, kept)
            if self._epoch == self._resumed.epoch:
                seen = max(seen, self._resumed.seen)
            place = Place(self._epoch, self._first(self._epoch), seen)
        return {
            "place": [*place],
            "whole": whole,
            "train_tasks": self.train_tasks,
            "together": self.meta_batch * self._rank()[1],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the tasks that were seen, in batches of the size that is set by now, made as they were."""
        if "tasks" in state_dict:
            self.tasks.adopt(state_dict["tasks"])
        fits = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        # An earlier trainer may read its checkpoint while a later one, which has ended, still owns this module.
        if self.trainer is None or not fits or not self._runs or self._overfits:
            return
        checkpoint: Any = self.trainer._checkpoint_connector._loaded_checkpoint
        if not checkpoint.get("loops"):
            raise cannot_go_on("loops", "has none")
        loops, recorded = checkpoint["loops"]["fit_loop"], checkpoint.get("datamodule_hyper_parameters", {})
        batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
        saved = read_place(state_dict, epochs["current"]["ready"], recorded.get("train_tasks"), self.train_tasks)
        epoch, first, seen = saved.place
        together = self.meta_batch * self._rank()[1]
        same = (saved.train_tasks, saved.together) == (self.train_tasks, together)
        if not same:
            rank_zero_info(
                f"going on after {seen} tasks of epoch {epoch} with batches of {together} and epochs of "
                f"{self.train_tasks} tasks (before: {saved.together} and {saved.train_tasks})"
            )
        # Lightning counts batches and epochs. It takes its counts from the checkpoint after this.
        counted = batches["current"]
        limit = self.trainer.limit_train_batches
        batches_of_epoch = self.train_tasks // together
        most = limit if isinstance(limit, int) else int(limit * batches_of_epoch)  # as Lightning takes it
        if whole := saved.whole or self._left(seen).done >= min(most, batches_of_epoch):
            self._resumed = Place(epoch + 1, first + (saved.train_tasks if saved.whole else seen))
            done = counted["processed"]
        else:
            self._resumed = Place(epoch, first, seen)
            done = self._left(seen).done
        # Saved in the validation that follows an epoch's last batch, the end of the epoch is still to come.
        validated = same and counted["completed"] == counted["processed"] and epochs["current"]["processed"] == epoch
        if ended := whole and not validated:
            # As before the next epoch. As after this one, Lightning would count it twice under ``max_steps``, and end
            # the run an epoch too early; after its last batch alone, it would not count the next one's beginning.
            done, batches["is_last_batch"] = 0, False
            for counts in (batches["current"], batches["total"]):
                counts["completed"] = counts["processed"]
        for counts in (epochs["current"], epochs["total"]):
            counts["ready"] = counts["started"] = epoch + 1
            counts["processed"] = counts["completed"] = epoch + ended
        shift = done - counted["processed"]
        for counts in (batches["current"], batches["total"]):
            for name in counts:
                counts[name] += shift


def _part(numbers: range, k: int, parts: int) -> range:
    """The k-th of nearly equal parts."""
    return numbers[k * len(numbers) // parts : (k + 1) * len(numbers) // parts]
