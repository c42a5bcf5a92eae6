"""What a classifier's features are worth without adaptation: two baselines that a test is to be read beside."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.aggregation import CatMetric

from litmaml.inner.class_losses import ignored_index, takes_class_indices
from litmaml.inner.constant_parts import ConstantParts
from litmaml.inner.head import find_heads, head_parts
from litmaml.inner.loop import InnerLoop
from litmaml.inner.task_head import class_means
from litmaml.learner.evaluation import Predictor
from litmaml.learner.finite_tasks import of_all_processes
from litmaml.learner.metrics import values_of
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.randomness import seeded
from litmaml.shown import first_line
from litmaml.statistics.interval import Interval, interval
from litmaml.tasks import Tasks, ordinary, select
from litmaml.weights import Params

NEAREST, FRESH = "nearest_class_mean", "fresh_head"
BASELINES = (NEAREST, FRESH)


class Baselines:
    """Scores each task by two classifiers on the features, what goes into the head at the meta-learnt weights.

    nearest_class_mean: The class whose support features have the nearest mean, by the Euclidean distance.
    fresh_head: A head from zero, adapted alone by the inner optimizer in as many steps, with its learnt rates.

    Args:
        meta_gradient: Has the inner loop, and the streams that tasks draw from.
        metrics: Of predictions and targets, by name.
        head: The name of the layer that gives the logits; by default it is looked for.

    Attributes:
        episodes: The values of every task (tasks,), by baseline and metric; as modules they can move with the
            learner's device.
    """

    def __init__(self, meta_gradient: MetaGradientOf, metrics: Mapping[str, Metric], head: str | None) -> None:
        self._meta_gradient, self._metrics, self._named = meta_gradient, dict(metrics), head
        self._kept = {NEAREST: [*metrics], FRESH: [*metrics, "loss"]}
        self.episodes = nn.ModuleDict(
            {
                name: nn.ModuleDict({metric: CatMetric(nan_strategy="disable") for metric in measured})
                for name, measured in self._kept.items()
            }
        )
        self.look_anew()

    def look_anew(self) -> None:
        """Look for the head in the next chunk."""
        self._head: str | None = None
        self._alone: InnerLoop | None = None
        self._looked = False
        self._begun: Tasks | None = None

    def begin(self, tasks: Tasks, processes: int = 1) -> Predictor | None:
        """Compute what goes into the head for a chunk; what the learnt weights predict from it, if this is known.

        Args:
            tasks: T, those of one size.
            processes: How many come here with each first chunk, all of which score or none.
        """
        if not self._looked:
            self._look(tasks, processes)
        self._begun = None
        if self._head is None or self._meta_gradient.inner_loop.draws:
            return None
        alone, tasks = self._head_alone(self._head), ordinary(tasks)
        begun = alone.constant.evaluated(alone, tasks)
        if begun is tasks:
            return None
        self._begun = begun
        return lambda weights: alone.predict(weights, begun.query.inputs)

    def add(self, tasks: Tasks, finite: Tensor, steps: int) -> None:
        """Keep the scores of the finite tasks of the chunk that was begun; of no classifier nothing.

        Args:
            tasks: The same.
            finite: (T,) whether a task counts.
            steps: The inner steps of a fresh head.
        """
        if self._head is None:
            return
        if not bool(finite.any()):
            nothing = torch.zeros(0, device=finite.device)  # so that a process without any task gathers as the others
            self._keep({name: dict.fromkeys(metrics, nothing) for name, metrics in self._kept.items()})
            return
        with torch.inference_mode(False), torch.no_grad(), self._meta_gradient.stream_of(tasks, "test"):
            some = self._begun or ordinary(tasks) if bool(finite.all()) else ordinary(select(tasks, finite))
            self._keep(self._rows(some, self._head, steps))

    def _keep(self, rows: dict[str, dict[str, Tensor]]) -> None:
        for name, row in rows.items():
            for metric, values in row.items():
                cast(CatMetric, cast(nn.ModuleDict, self.episodes[name])[metric]).update(values)

    def conclude(self) -> dict[str, dict[str, Interval]]:
        """Each baseline's means with their intervals over the tasks of all processes; then begin afresh."""
        if self._head is None:
            return {}
        found: dict[str, dict[str, Interval]] = {}
        for name, metrics in self.episodes.items():
            for metric, episodes in cast(nn.ModuleDict, metrics).items():
                values = torch.as_tensor(cast(CatMetric, episodes).compute()).flatten()
                cast(CatMetric, episodes).reset()
                found.setdefault(name, {})[metric] = interval(values)
        return found

    def _look(self, tasks: Tasks, processes: int) -> None:
        loop, device = self._meta_gradient.inner_loop, tasks.query.device
        self._looked = True
        targets = tasks.query.targets
        if not takes_class_indices(loop.loss) or not isinstance(targets, Tensor) or targets.is_floating_point():
            return
        found, why = None, ""
        with torch.inference_mode(False), torch.no_grad(), seeded(0, device):
            try:
                found = self._found(loop, ordinary(select(tasks, [0])))
            except Exception as error:  # whatever somebody's model raises when its head is looked for
                why = first_line(error)
        everywhere = of_all_processes(torch.tensor([found is not None], device=device), processes)
        if not bool(everywhere.all()):
            rank_zero_info(f"baselines: left out ({why or 'another process finds no head'})")
            return
        self._head = found

    def _found(self, loop: InnerLoop, task: Tasks) -> str:
        """The head.

        Raises:
            ValueError: There is none whose inputs could be compared, or that could be adapted alone.
        """
        inputs = task.support[0].inputs
        if self._named is not None:
            heads = [self._named]
        elif loop.head is not None:
            heads = [loop.head.name]
        else:
            heads = find_heads(loop.model, select(task.support[0].task(0).inputs, slice(4)), loop.output)
        if len(heads) > 1:
            raise ValueError(f"model: its logits come from several heads, {' and '.join(heads)}")
        (head,) = heads
        if task.query.targets.dim() != 2:
            raise ValueError("targets: not one class per example")
        features = loop.features(head, {}, inputs, loop.at_step(_held(loop, ()), 0))
        if features.dim() != 3:
            raise ValueError(f"head: its inputs are not flat, got {tuple(features.shape[2:])} per example")
        if still := [part for part in head_parts(loop.model, head) if part not in loop.fast_names]:
            raise ValueError(f"fast_weights: {still[0]} is not adapted")
        return head

    def _head_alone(self, head: str) -> InnerLoop:
        """The inner loop as one that adapts the head alone, whose features are computed once for all steps."""
        if self._alone is None:
            loop = self._meta_gradient.inner_loop
            parts = head_parts(loop.model, head)
            self._alone = copy.copy(loop)
            self._alone.fast_names = [*parts]
            self._alone.slow_names = [name for name in (*loop.fast_names, *loop.slow_names) if name not in parts]
            self._alone.constant = ConstantParts()
        return self._alone

    def _rows(self, tasks: Tasks, head: str, steps: int) -> dict[str, dict[str, Tensor]]:
        """The values of each task (T,), by baseline and metric."""
        loop, targets = self._head_alone(head), tasks.query.targets
        parts, tasks = tuple(loop.fast_names), loop.constant.evaluated(loop, tasks)
        held = _held(loop, parts)
        own = {part: loop.model.get_parameter(part) for part in parts}
        classes = tasks.classes or len(own[parts[0]])
        distances = nearest_distances(
            loop, head, {part: own[part].detach() for part in parts}, held, tasks, classes, ignored_index(loop.loss)
        )
        start = {part: weight.new_zeros(tasks.size, classes, *weight.shape[1:]) for part, weight in own.items()}
        *_, fast = loop.steps(start, held, tasks, steps)
        predictions = loop.predict(fast, tasks.query.inputs, loop.at_query(held, steps))
        losses = loop.loss_of(predictions, targets)
        rows: dict[str, dict[str, Tensor]] = {NEAREST: {}, FRESH: {"loss": losses}}
        for name, scores in ((NEAREST, -distances), (FRESH, predictions)):
            seen = scores.isnan().flatten(1).any(1).logical_not()
            for metric, measure in self._metrics.items():
                rows[name][metric] = values_of(measure, scores, targets, seen)
        return rows


def nearest_distances(
    loop: InnerLoop, head: str, own: Params, held: Params, tasks: Tasks, classes: int, ignored: int | None
) -> Tensor:
    """Squared distances (T, n, classes) of the query's features from the class means of the support's.

    Those from a class without a support example are infinite.

    Args:
        loop: Has the model.
        head: The layer whose inputs are compared.
        own: Its weights, which do not matter.
        held: All others, by name.
        tasks: T.
        classes: Their number of classes.
        ignored: The index at examples without a class.
    """

    def features(inputs: object) -> Tensor:
        return loop.features(head, {}, inputs, loop.at_step({**held, **own}, 0)).double()

    labels = [batch.targets for batch in tasks.support]
    counted = labels if ignored is None else [part.masked_fill(part == ignored, -1) for part in labels]
    means, members = class_means([features(batch.inputs) for batch in tasks.support], counted, classes)
    query = features(tasks.query.inputs)
    distances = (query.unsqueeze(2) - means.unsqueeze(1)).square().sum(3)
    return distances.masked_fill((members == 0).unsqueeze(1), torch.inf).to(next(iter(own.values())).dtype)


def _held(loop: InnerLoop, without: tuple[str, ...]) -> Params:
    """All weights as they are learnt, those per step with all rows, as constants."""
    weights: Params = {name: weight.detach() for name, weight in loop.model.named_parameters() if name not in without}
    return weights | {name: loop.learnt["weights." + name].detach() for name in loop.rows}
