"""Tasks adapted in validation, test and prediction: their losses and metrics after each inner step, or predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.aggregation import CatMetric

from litmaml.inner.divergence import diverges
from litmaml.learner.metrics import values_of
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.shown import first_line
from litmaml.statistics.interval import Interval, curve
from litmaml.tasks import MetaBatch, Split, Tasks, Tree, chunks, stacks_of
from litmaml.weights import Params

Predictor = Callable[[Params], Tensor]
"""The predictions of each task on its query (T, n, ...) by its weights."""


class Evaluation:
    """Adapts tasks chunk by chunk, and keeps loss and metrics of each after each inner step until it is concluded.

    Args:
        meta_gradient: Has the inner loop, and the streams that tasks draw from.
        metrics: Of predictions and targets, by name.
        tasks_per_chunk: Tasks adapted together; None: see ``InnerLoop.default_chunk``.

    Attributes:
        episodes: The values of every task (tasks, N + 1), by metric; as modules they can move with the learner's
            device, as the metrics do.
    """

    def __init__(
        self, meta_gradient: MetaGradientOf, metrics: Mapping[str, Metric], tasks_per_chunk: int | None
    ) -> None:
        self._meta_gradient, self._tasks_per_chunk = meta_gradient, tasks_per_chunk
        self._metrics = dict(metrics)
        self._numbers = CatMetric(nan_strategy="disable")
        self.episodes = nn.ModuleDict({name: CatMetric(nan_strategy="disable") for name in ("loss", *metrics)})

    def add(self, chunk: Tasks, steps: int, split: Split, before: Predictor | None = None) -> Tensor:
        """Keep loss and metrics of the finite tasks of a chunk; whether each task is (T,).

        ``before``: Gives the predictions on their query before the first step; by default the whole model does.
        """
        try:
            rows = self._rows(chunk, steps, split, before)
        except Exception as error:  # perhaps of a task whose numbers are not finite
            rows = self._rows_alone(chunk, steps, split, error)
        return self._keep(chunk.numbers, rows, rows["loss"])

    def keep(self, numbers: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        """Keep what was measured (T, N + 1) of the tasks with these numbers in the place of losses; whether each is
        finite (T,)."""
        if self.episodes.keys() != rows.keys():
            self.episodes.clear()
            self.episodes.update({name: CatMetric(nan_strategy="disable").to(numbers.device) for name in rows})
        return self._keep(numbers, rows, torch.cat([*rows.values()], dim=1))

    def _keep(self, numbers: Tensor, rows: Mapping[str, Tensor], judged: Tensor) -> Tensor:
        finite = judged.isfinite().all(dim=1)
        episodes = dict(self._all_episodes())
        self._numbers.update(numbers[finite])
        for name, row in rows.items():
            # Flat, since a process without any finite task has to gather the same form as the others.
            episodes[name].update(row[finite].flatten())
        return finite

    def conclude(
        self, steps: int, source_of: Callable[[int], str | None]
    ) -> tuple[dict[str, list[Interval]], dict[str, dict[str, list[Interval]]], int]:
        """Each metric's means with their intervals over the tasks of all processes; then begin afresh.

        Args:
            steps: N.
            source_of: The source of the task of a number; None where there is one alone.

        Returns:
            The means after each step by metric; the same by source and metric, where there are any; and the number of
            tasks.
        """
        numbers = torch.as_tensor(self._numbers.compute()).flatten().long().tolist()
        self._numbers.reset()
        sources = [source_of(number) for number in numbers]
        known = sorted({source for source in sources if source is not None})
        results: dict[str, list[Interval]] = {}
        by_source: dict[str, dict[str, list[Interval]]] = {name: {} for name in known}
        for name, episodes in self._all_episodes():
            values = torch.as_tensor(episodes.compute()).reshape(-1, steps + 1)
            episodes.reset()
            results[name] = curve(values)
            for source, found in by_source.items():
                found[name] = curve(values[[each == source for each in sources]])
        return results, by_source, len(numbers)

    def predicted(self, tasks: Tasks, steps: int) -> dict[str, Tree]:
        """The adapted predictions on the query of each test task (T, n, ...), with its targets and the tasks' numbers.

        Raises:
            FloatingPointError: The model fails on a task, since its numbers are not finite.
        """
        found = []
        for chunk in self.chunks_of(tasks):
            try:
                found.append(self._adapted(chunk, steps, "test"))
            except Exception:  # perhaps of a task whose numbers are not finite: it is named
                for task in chunks(chunk, 1):
                    self._try_alone(task, steps)
                raise
        return {"numbers": tasks.numbers, "predictions": torch.cat(found), "targets": tasks.query.targets}

    def unadapted(self, tasks: MetaBatch) -> tuple[tuple[Tensor, ...], Tensor]:
        """The predictions on training tasks' query before adaptation, of each stack (T, n, ...), and their losses."""
        predictions, losses = [], []
        for stack in stacks_of(tasks):
            predictions.append(torch.cat([self._adapted(chunk, 0, "train") for chunk in self.chunks_of(stack)]))
            losses.append(self._meta_gradient.inner_loop.loss_of(predictions[-1], stack.query.targets))
        return tuple(predictions), torch.cat(losses)

    def _adapted(self, tasks: Tasks, steps: int, split: Split) -> Tensor:
        inner_loop = self._meta_gradient.inner_loop
        with self._meta_gradient.stream_of(tasks, split):
            tasks = inner_loop.constant.evaluated(inner_loop, tasks) if steps else tasks
            *_, fast = inner_loop.path(tasks, steps)
            return self._predict(fast, tasks)

    def _try_alone(self, task: Tasks, steps: int) -> None:
        try:
            self._adapted(task, steps, "test")
        except Exception as error:
            if diverges(self._meta_gradient.inner_loop, task, steps, error):
                raise FloatingPointError(
                    f"the inner loop of predict task {int(task.numbers[0])} is not finite ({first_line(error)}); lower "
                    "the inner rate, or look at the task's data"
                ) from error

    def _rows(self, tasks: Tasks, steps: int, split: Split, before: Predictor | None = None) -> dict[str, Tensor]:
        """Loss and metrics of each task after each inner step, by name (T, N + 1)."""
        inner_loop, targets = self._meta_gradient.inner_loop, tasks.query.targets
        rows: dict[str, list[Tensor]] = {name: [] for name in self.episodes}
        with self._meta_gradient.stream_of(tasks, split):
            tasks = inner_loop.constant.evaluated(inner_loop, tasks)
            for j, fast in enumerate(inner_loop.path(tasks, steps)):
                predictions = before(fast) if before is not None and j == 0 else self._predict(fast, tasks)
                rows["loss"].append(inner_loop.loss_of(predictions, targets).detach())
                seen = torch.stack(rows["loss"]).isfinite().all(dim=0)
                for name, metric in self._metrics.items():
                    rows[name].append(values_of(metric, predictions, targets, seen))
        return {name: torch.stack(row, dim=1) for name, row in rows.items()}

    def _rows_alone(self, tasks: Tasks, steps: int, split: Split, error: Exception) -> dict[str, Tensor]:
        """The rows of each task by itself, where an error was raised on all; NaN for those that diverge."""
        nothing = torch.full((1, steps + 1), torch.nan, device=tasks.query.device)
        parts = []
        for task in chunks(tasks, 1):
            try:
                parts.append(self._rows(task, steps, split))
            except Exception as own:
                if not diverges(self._meta_gradient.inner_loop, task, steps, own):
                    raise
                parts.append(dict.fromkeys(self.episodes, nothing))
        if all(part["loss"] is not nothing for part in parts):
            raise error  # it is several at once that cannot be computed
        return {name: torch.cat([part[name] for part in parts]) for name in self.episodes}

    def _predict(self, fast: Params, tasks: Tasks) -> Tensor:
        with torch.no_grad():
            return self._meta_gradient.inner_loop.predict(fast, tasks.query.inputs)

    def _all_episodes(self) -> Iterator[tuple[str, CatMetric]]:
        return cast(Iterator[tuple[str, CatMetric]], iter(self.episodes.items()))

    def chunks_of(self, tasks: MetaBatch) -> Iterator[Tasks]:
        """The tasks of each stack that are adapted together."""
        inner_loop = self._meta_gradient.inner_loop
        for stack in stacks_of(tasks):
            size = self._tasks_per_chunk or inner_loop.default_chunk(stack)
            yield from chunks(stack, 1 if inner_loop.draws else size)
