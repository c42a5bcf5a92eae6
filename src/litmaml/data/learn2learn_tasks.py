"""Tasks from the learn2learn tasksets that a user has."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch

from litmaml.data.episode import AS_IN_TRAINING, FEW_SHOT, Episode
from litmaml.data.interop import import_learn2learn
from litmaml.data.leakage import fingerprints
from litmaml.data.task_distribution import TaskDistribution, in_run_precision
from litmaml.randomness import global_generators_seeded, task_stream
from litmaml.tasks import SPLITS, Batch, Split, Tasks, tree_map

_LOOKED_AT = 200
"""Tasks of each split whose classes are compared."""

_COMPARED = 500
"""Examples of each split, at least, whose contents are compared."""


class Learn2LearnTasks(TaskDistribution):
    """The tasks of learn2learn's ``Taskset`` objects, one taskset a split, for what their transforms draw.

    Of its data sets alone ``DatasetTasks`` makes tasks, without learn2learn's own sampling.

    A taskset gives (data, labels) with shots + queries examples of each of ``ways`` classes (its ``KShots``
    has to ask for so many, and for more with fresh batches). Of each class the first are support, the next
    query; labels become 0 .. ways - 1 in an order drawn for each task. learn2learn draws from the global
    random generators: they are seeded for each task and put back after it, so that task i is still a pure
    function of (seed, split, i). A taskset with a finite number of tasks n gives task i mod n.

    Before the first task the splits are compared: where two tasksets load from one data set, 200 tasks of
    each must have no class in common. (learn2learn's own Omniglot tasksets have: their transforms draw from
    the whole set.) Of any tasksets some 500 examples of each split are compared by content: two data sets may
    have been read from the same files.

    Args:
        train_taskset: A taskset, or a function without arguments that makes one; in YAML its import path.
        val_taskset: The same for validation.
        test_taskset: The same for test.
        train: The numbers of classes, examples and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.

    Raises:
        ImportError: if learn2learn is not installed.
        ValueError: if a count is too small.
    """

    def __init__(
        self,
        train_taskset: Callable[[], Any] | Any,
        val_taskset: Callable[[], Any] | Any,
        test_taskset: Callable[[], Any] | Any,
        train: Episode = FEW_SHOT,
        test: Episode = AS_IN_TRAINING,
    ) -> None:
        super().__init__(train.over(FEW_SHOT), test)
        import_learn2learn()
        self.train_taskset = train_taskset
        self.val_taskset = val_taskset
        self.test_taskset = test_taskset
        self._tasksets: dict[Split, Any] = {}

    def load(self, split: Split) -> None:
        """Makes all three tasksets and compares their classes.

        Raises:
            TypeError: if one is no taskset.
            ValueError: if two of them share classes.

        Warns:
            UserWarning: if examples of two of them are the same.
        """
        if self._tasksets:
            return
        learn2learn = import_learn2learn()
        tasksets: dict[Split, Any] = {}
        for name in SPLITS:
            given = getattr(self, f"{name}_taskset")
            taskset = given if isinstance(given, learn2learn.data.Taskset) else given() if callable(given) else None
            if not isinstance(taskset, learn2learn.data.Taskset):
                raise TypeError(
                    f"{name}_taskset must be a learn2learn Taskset or a function that makes one, got {given!r}"
                )
            tasksets[name] = taskset
        with global_generators_seeded(np.random.default_rng(0)):
            seen = {name: _classes(taskset, learn2learn) for name, taskset in tasksets.items()}
            contents = {name: _contents(taskset) for name, taskset in tasksets.items()}
        for one, other in combinations(SPLITS, 2):
            if shared := seen[one] & seen[other]:
                labels = ", ".join(sorted(str(label) for _, label in shared)[:20])
                raise ValueError(
                    f"the tasksets {one} and {other} share at least {len(shared)} classes of one data set: "
                    f"{labels}. Give the transforms of each taskset, not only the taskset, a data set that "
                    f"holds the classes of its split alone (FilteredMetaDataset)"
                )
            if same := contents[one] & contents[other]:
                warnings.warn(
                    f"{one}, {other}: {len(same)} of {len(contents[one])} examples looked at stand in both tasksets: "
                    "results may be too good; do both read the same files?",
                    stacklevel=2,
                )
        self._tasksets = tasksets

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        self.load(split)
        tasks = [self._sample_one(split, number, seed) for number in numbers]
        stacked = [tree_map(lambda *parts: torch.stack(parts), *same) for same in zip(*tasks, strict=True)]
        return self._arrange(split, stacked, numbers)

    def render(self, tasks: Tasks) -> Tasks:
        return in_run_precision(tasks)

    def _sample_one(self, split: Split, number: int, seed: int) -> list[Batch]:
        """The support and Hessian batches and the query of one task."""
        taskset = self._tasksets[split]
        stream = task_stream(seed, split, number if taskset.num_tasks < 0 else number % taskset.num_tasks)
        with global_generators_seeded(stream):
            # Not by index: a finite taskset would keep the description that it drew first.
            data, labels = taskset.get_task(taskset.sample_task_description())
        ways, shots, queries, *_ = sizes = self.sizes(split)
        drawn = sum(sizes.batches[:-1])
        classes, members = torch.unique(torch.as_tensor(labels), return_inverse=True)
        counts = torch.bincount(members)
        if len(classes) != ways or bool((counts != drawn + queries).any()):
            raise ValueError(
                f"task {number} of the taskset {split} has {len(classes)} classes of {counts.tolist()} "
                f"examples; wanted are ways={ways} classes of shots * (support_batches + hessian_batches) + "
                f"queries = {drawn} + {queries} each: set n={ways} in NWays and k={drawn + queries} in KShots"
            )
        order = torch.argsort(members, stable=True).view(ways, -1)
        names = torch.from_numpy(stream.permutation(ways))

        def batch(first: int, last: int) -> Batch:
            return Batch(data[order[:, first:last].flatten()], names.repeat_interleave(last - first))

        return [
            *(batch(first, first + shots) for first in range(0, drawn, shots)),
            batch(drawn, drawn + queries),
        ]


def _classes(taskset: Any, learn2learn: Any) -> set[tuple[int, object]]:
    """(data set, label) of the classes that stand in some tasks; empty where the taskset keeps no such
    books."""
    transforms = taskset.task_transforms if isinstance(taskset.task_transforms, list) else []
    load = next((step for step in transforms if isinstance(step, learn2learn.data.transforms.LoadData)), None)
    labels = getattr(getattr(load, "dataset", None), "indices_to_labels", None)
    if load is None or labels is None:
        return set()
    root = load.dataset
    while isinstance(root, learn2learn.data.MetaDataset) and hasattr(root, "dataset"):
        root = root.dataset
    tasks = (taskset.sample_task_description() for _ in range(_LOOKED_AT))
    return {(id(root), labels[example.index]) for task in tasks for example in task}


def _contents(taskset: Any) -> set[bytes]:
    """Fingerprints of the examples of some tasks."""
    found: set[bytes] = set()
    drawn = 0
    while drawn < _COMPARED:
        data, _ = taskset.get_task(taskset.sample_task_description())
        found |= {*fingerprints(data)}
        drawn += len(data)
    return found
