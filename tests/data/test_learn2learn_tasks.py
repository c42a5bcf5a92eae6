"""The tasksets that a user has from learn2learn, made repeatable."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from litmaml.data import DatasetTasks, Episode, Learn2LearnTasks, TaskDataModule
from litmaml.data.interop import import_learn2learn
from litmaml.tasks import numbers_of, stacks_of

CLASSES, IMAGES = 30, 8
PARTS: dict[str, Sequence[int]] = {"train": range(14), "val": range(14, 20), "test": range(20, 30)}


@pytest.fixture(scope="module")
def l2l(learn2learn: ModuleType) -> ModuleType:
    return learn2learn


def dataset(l2l: ModuleType, first: int = 0) -> Any:
    """Examples that tell what they are: (class, image), images numbered from ``first`` on."""
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES)
    examples = torch.stack([labels, first + torch.arange(IMAGES).repeat(CLASSES)], 1).float()
    return l2l.data.MetaDataset(TensorDataset(examples, labels))


def taskset(l2l: ModuleType, source: Any, ways: int = 3, examples: int = 5, remap: bool = True, **options: int) -> Any:
    transforms = l2l.data.transforms
    steps = [
        transforms.NWays(source, ways),
        transforms.KShots(source, examples),
        transforms.LoadData(source),
    ]
    if remap:
        steps.append(transforms.RemapLabels(source))
    return l2l.data.Taskset(source, steps, **options)


def of(tasksets: dict[str, Any], train: Episode) -> Learn2LearnTasks:
    """The tasks of a taskset of each split."""
    return Learn2LearnTasks(**{f"{split}_taskset": taskset for split, taskset in tasksets.items()}, train=train)


@pytest.fixture
def sources(l2l: ModuleType) -> dict[str, Any]:
    whole = dataset(l2l)
    return {name: l2l.data.FilteredMetaDataset(whole, [*part]) for name, part in PARTS.items()}


@pytest.fixture
def tasks(l2l: ModuleType, sources: dict[str, Any]) -> Learn2LearnTasks:
    made = {name: taskset(l2l, source) for name, source in sources.items()}
    return of(made, Episode(ways=3, shots=2, queries=3))


def test_tasks_are_split_by_class_into_support_and_query(tasks: Learn2LearnTasks) -> None:
    for split, part in PARTS.items():
        sampled = tasks.sample(split, range(20), seed=0)  # type: ignore[arg-type]
        support, query = sampled.support[0], sampled.query
        assert support.inputs.shape == (20, 6, 2)
        assert query.inputs.shape == (20, 9, 2)
        for task in range(20):
            kinds: dict[int, int] = {}
            for batch, count in ((support, 2), (query, 3)):
                assert torch.bincount(batch.targets[task]).tolist() == [count] * 3
                for example, label in zip(batch.inputs[task], batch.targets[task], strict=True):
                    assert kinds.setdefault(int(label), int(example[0])) == int(example[0])
            assert len({*kinds.values()}) == 3
            assert {*kinds.values()} <= {*part}
            assert len({*map(tuple, torch.cat([support.inputs[task], query.inputs[task]]).tolist())}) == 15


def test_its_datasets_are_datasets(l2l: ModuleType, sources: dict[str, Any]) -> None:
    """Without a taskset: tasks of the examples that a split's own dataset holds."""
    train, val, test = (sources[split] for split in PARTS)
    tasks = DatasetTasks(train, val, test, train=Episode(ways=3, shots=2, queries=3))
    for split, part in PARTS.items():
        kinds = stacks_of(tasks.sample(split, range(20), seed=0))[0].query.inputs[..., 0]  # type: ignore[arg-type]
        assert {*kinds.int().flatten().tolist()} <= {*part}
    apart = DatasetTasks(dataset(l2l), train=Episode(ways=3, shots=2, queries=3))
    assert stacks_of(apart.sample("test", [0], seed=0))[0].support[0].inputs.shape == (1, 6, 2)


def test_labels_are_given_in_any_order(l2l: ModuleType, sources: dict[str, Any]) -> None:
    made = {name: taskset(l2l, source, remap=False) for name, source in sources.items()}
    tasks = of(made, Episode(ways=3, shots=2, queries=3))
    sampled = tasks.sample("train", range(50), seed=0).query
    kinds = [sampled.inputs[task, sampled.targets[task].argsort(), 0][::3] for task in range(50)]
    rising = sum(bool((kind.diff() > 0).all()) for kind in kinds)
    assert 0 < rising < 30


def test_a_task_is_the_same_in_every_batch_whatever_was_drawn_before(tasks: Learn2LearnTasks) -> None:
    together = tasks.sample("train", range(4), seed=3)
    for number in (2, 0, 3):
        random.seed(number)
        alone = tasks.sample("train", [number], seed=3)
        assert torch.equal(alone.query.inputs[0], together.query.inputs[number])
        assert torch.equal(alone.query.targets[0], together.query.targets[number])
    assert not torch.equal(together.query.inputs[0], together.query.inputs[1])
    assert not torch.equal(tasks.sample("train", [0], seed=4).query.inputs, together.query.inputs[:1])


def test_the_global_generators_are_left_as_they_were(tasks: Learn2LearnTasks) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    tasks.sample("train", range(3), seed=0)
    assert draw() == expected


def test_a_finite_taskset_repeats_its_tasks(l2l: ModuleType, sources: dict[str, Any]) -> None:
    made = {name: taskset(l2l, source, num_tasks=4) for name, source in sources.items()}
    tasks = of(made, Episode(ways=3, shots=2, queries=3))
    query = tasks.sample("train", [6, 2, 3], seed=0).query.inputs
    assert torch.equal(query[0], query[1])
    assert not torch.equal(query[1], query[2])


def test_fresh_batches_are_disjoint(l2l: ModuleType, sources: dict[str, Any]) -> None:
    made = {name: taskset(l2l, source, examples=7) for name, source in sources.items()}
    tasks = of(made, Episode(ways=3, shots=1, queries=3, support_batches=2, hessian_batches=2))
    sampled = tasks.sample("val", [0], seed=0)
    batches = [*sampled.support, *(sampled.hessian or ()), sampled.query]
    assert [batch.inputs.shape[1] for batch in batches] == [3, 3, 3, 3, 9]
    assert len({tuple(row) for batch in batches for row in batch.inputs[0].tolist()}) == 21


def test_tasksets_may_be_made_by_functions(l2l: ModuleType, sources: dict[str, Any]) -> None:
    makers = {name: (lambda source=source: taskset(l2l, source)) for name, source in sources.items()}
    tasks = of(makers, Episode(ways=3, shots=2, queries=3))
    with pytest.warns(UserWarning, match="checkpoints will not rebuild the task data by themselves"):
        module = TaskDataModule(tasks, meta_batch=2, train_tasks=4)
    module.setup("fit")
    assert [numbers_of(batch).tolist() for batch in module.train_dataloader()] == [[0, 1], [2, 3]]


def test_tasksets_that_draw_from_the_whole_set_are_refused(l2l: ModuleType, sources: dict[str, Any]) -> None:
    """The mistake of learn2learn's own Omniglot benchmark: filtered sets, but transforms of the whole one."""
    whole = dataset(l2l)
    leaking = {}
    for name, part in PARTS.items():
        leaking[name] = taskset(l2l, whole)
        leaking[name].dataset = l2l.data.FilteredMetaDataset(whole, [*part])
    tasks = of(leaking, Episode(ways=3, shots=2, queries=3))
    with pytest.raises(ValueError, match="tasksets train and val share at least 30 classes of one data set"):
        tasks.load("train")


def test_equal_labels_of_two_data_sets_are_no_leak(l2l: ModuleType) -> None:
    made = {name: taskset(l2l, dataset(l2l, 100 * k)) for k, name in enumerate(PARTS)}
    of(made, Episode(ways=3, shots=2, queries=3)).load("train")


def test_two_data_sets_of_the_same_content_are_told_of(l2l: ModuleType) -> None:
    firsts = {"train": 0, "val": 100, "test": 0}
    made = {name: taskset(l2l, dataset(l2l, first)) for name, first in firsts.items()}
    with pytest.warns(UserWarning, match=r"train, test: \d+ of \d+ examples looked at stand in both tasksets"):
        of(made, Episode(ways=3, shots=2, queries=3)).load("train")


def test_tasks_of_another_size_are_refused(l2l: ModuleType, sources: dict[str, Any]) -> None:
    made = {name: taskset(l2l, source) for name, source in sources.items()}
    tasks = of(made, Episode(ways=3, shots=2, queries=4))
    with pytest.raises(ValueError, match=r"task 5 of the taskset train has 3 classes of \[5, 5, 5\]"):
        tasks.sample("train", [5], seed=0)


def test_what_is_no_taskset_is_refused(l2l: ModuleType, sources: dict[str, Any]) -> None:
    tasks = Learn2LearnTasks(taskset(l2l, sources["train"]), "my_module.val", lambda: 3)
    with pytest.raises(TypeError, match=r"val_taskset must be a learn2learn Taskset or .* got 'my_module\.val'"):
        tasks.load("train")


def test_a_missing_learn2learn_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "learn2learn", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"learn2learn is not installed\. Install it with: pip install"):
        import_learn2learn()


@pytest.mark.usefixtures("l2l")
def test_it_imports_without_gym_and_torchvision_and_warns_of_nothing() -> None:
    program = """
import sys
sys.modules["gym"] = sys.modules["torchvision"] = None
from litmaml.data.interop import import_learn2learn
first = import_learn2learn()
import learn2learn
assert first is learn2learn and learn2learn.algorithms.MAML and learn2learn.data.Taskset
assert learn2learn.__version__
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=120)
