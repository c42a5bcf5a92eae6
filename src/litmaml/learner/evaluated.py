"""A learner's validation, test and prediction, as Lightning calls them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from litmaml.data.task_data_module import TaskDataModule
from litmaml.inner.batch_norms import normalisation_policy
from litmaml.learner.baselines import Baselines
from litmaml.learner.checkpointed import CheckpointedLearner
from litmaml.learner.evaluation import Evaluation
from litmaml.learner.experience import Collected, Experience
from litmaml.learner.finite_tasks import Count, count_finite, not_finite
from litmaml.learner.outer_optimizer import step_on_plateau
from litmaml.learner.screen.plain_trainer import show_in
from litmaml.learner.screen.summary import in_a_line
from litmaml.statistics.interval import Interval
from litmaml.statistics.results import Results
from litmaml.tasks import MetaBatch, Split, Tasks, Tree, numbers_of, stacks_of


class EvaluatedLearner(CheckpointedLearner, ABC):
    """A learner whose results are means over the finite tasks of all processes.

    Lightning calls these methods by their names, so they stand in a class of their own below the learner's.

    Attributes:
        results: The means with their intervals after each inner step, by the name of the metric.
        source_results: The same by the source of the tasks and the name, where these are of several.
        baseline_results: Those of a test's baselines, by theirs and the metric's.
        evaluated_tasks: How many tasks are in them.
        skipped_tasks: How many were left out, in training too.
    """

    inner_steps: int
    test_inner_steps: int | None
    on_nonfinite: Literal["raise", "skip"]
    baselines: bool
    experience: Experience | None
    results: Results
    source_results: dict[str, dict[str, list[Interval]]]
    baseline_results: dict[str, dict[str, Interval]]
    skipped_tasks: int
    evaluated_tasks: int
    _evaluation: Evaluation
    _baselines: Baselines

    @property
    def evaluation_steps(self) -> int:
        """The number of inner steps in validation, test and prediction."""
        return self.inner_steps if self.test_inner_steps is None else self.test_inner_steps

    @property
    def normalisation(self) -> str:
        """The normalisation policy, which is named beside every result."""
        return normalisation_policy(self.inner_loop.model)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({in_a_line(self)})"

    def configure_callbacks(self) -> list[Callback]:
        """None; but its own bar, model and results are shown from here on in the place of Lightning's."""
        show_in(self.trainer)
        return []

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The predictions of the model with its initial weights, before it adapts to a task."""
        given = inputs[0] if len(inputs) == 1 and not named else named or inputs
        return self.inner_loop.own_predictions(given)

    def test_dataloader(self) -> Any:
        """Nothing: Lightning asks the learner where ``test`` was given no data, though the trainer has had some.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "data: test was given none; write trainer.test(learner, data), or with the best weights of a fit"
            " trainer.test(datamodule=data, ckpt_path='best')"
        )

    def validation_step(self, tasks: MetaBatch, batch_idx: int) -> None:
        self._evaluate("val", tasks)

    def test_step(self, tasks: MetaBatch, batch_idx: int) -> None:
        self._evaluate("test", tasks)

    def on_validation_epoch_end(self) -> None:
        self._conclude("val")
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            step_on_plateau(self.trainer, self.metrics, self.results)

    def on_test_epoch_end(self) -> None:
        self._conclude("test")

    def predict_step(self, tasks: MetaBatch, batch_idx: int) -> dict[str, Tree] | list[dict[str, Tree]]:
        """The adapted predictions on each task's query (T, n, ...), with its targets and the tasks' numbers.

        Of tasks in stacks a list of such, one of each stack.
        """
        tasks, _ = self._collected(tasks, self.evaluation_steps, "test")
        self._try(tasks)
        found = [self._evaluation.predicted(stack, self.evaluation_steps) for stack in stacks_of(tasks)]
        return found[0] if isinstance(tasks, Tasks) else found

    def _evaluate(self, stage: Split, tasks: MetaBatch) -> None:
        tasks, measured = self._collected(tasks, self.evaluation_steps, stage)
        self._try(tasks)
        if measured:
            finite = self._evaluation.keep(numbers_of(tasks), measured)
        else:
            steps, baselines = self.evaluation_steps, self._baselines if stage == "test" and self.baselines else None
            each = []
            for chunk in self._evaluation.chunks_of(tasks):
                before = baselines.begin(chunk, self.trainer.world_size) if baselines else None
                each.append(self._evaluation.add(chunk, steps, stage, before))
                if baselines:
                    baselines.add(chunk, each[-1], steps)
            finite = torch.cat(each)
        # Once a batch: processes have as many batches, but not as many chunks.
        self._check_finite(numbers_of(tasks), finite, stage)

    def _conclude(self, stage: Split) -> None:
        """Log the means over tasks of all processes; keep them with their intervals in ``results``."""
        data: object = getattr(self.trainer, "datamodule", None)  # set outside its class

        def source_of(number: int) -> str | None:
            return data.tasks.source_of(stage, number, data.seed) if isinstance(data, TaskDataModule) else None

        found, self.source_results, self.evaluated_tasks = self._evaluation.conclude(self.evaluation_steps, source_of)
        self.results |= found
        for source, results in self.source_results.items():
            for name, curve in results.items():
                self.log(f"{stage}/{source}/{name}", curve[-1].mean, sync_dist=True)
        for name, curve in found.items():
            for step, result in enumerate(curve):
                self.log(f"{stage}/{name}_step_{step}", result.mean, sync_dist=True)
            self.log(f"{stage}/{name}", curve[-1].mean, prog_bar=True, sync_dist=True)
        self.baseline_results = self._baselines.conclude() if stage == "test" else {}
        if self.evaluated_tasks == 0:
            rank_zero_warn(
                f"{stage}: no task has a finite loss, so that its results are not a number (nan); lower the inner rate"
            )

    def _collected(self, tasks: MetaBatch, steps: int, split: Split) -> Collected:
        """The tasks with the data of all inner steps, and what was measured while these were made, if they were."""
        tasks = self.inner_loop.by_classes(tasks)
        if self.experience is None:
            return Collected(tasks, {})
        return self.experience.collect(self.inner_loop, tasks, steps, split)

    def _log_measured(self, measured: Mapping[str, Tensor]) -> None:
        """What was measured before and after adaptation in training."""
        for name, values in measured.items():
            for suffix, column in (("_before", values[:, 0]), ("", values[:, -1])):
                self.log(f"train/{name}{suffix}", column.mean(), prog_bar=not suffix, batch_size=len(values))
        if self.experience is not None:
            for name, value in self.experience.counts().items():
                self.log(f"train/{name}", value, batch_size=1)

    @abstractmethod
    def _try(self, tasks: MetaBatch) -> None:
        """Try the first batch before anything is made of it."""

    def _check_finite(self, numbers: Tensor, finite: Tensor, stage: str, whole: bool = False) -> Count:
        """The finite tasks of all processes, every one of which comes here with each batch.

        Raises:
            FloatingPointError: On all of them, where one has a task that is not finite and ``on_nonfinite`` is raise.
        """
        count = count_finite(numbers, finite, self.trainer.world_size, whole)
        if not count.bad:
            return count
        if self.on_nonfinite == "raise":
            raise not_finite(count, stage, self.outer_gradient.remedy if stage == "train" else "")
        self.skipped_tasks += len(count.bad)
        rank_zero_info(
            f"skipped {stage} tasks {count.bad}, whose loss or gradient is not finite: {self.skipped_tasks} by now"
        )
        self.log(f"{stage}/skipped_tasks", float(self.skipped_tasks), batch_size=len(finite))
        return count
