"""Tasks of any map-style dataset, in memory or read as they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets_told import Column, Pictures, Told
from jsonargparse import ArgumentParser
from torch.utils.data import IterableDataset, Subset, TensorDataset

from litmaml.data import DatasetTasks, Episode, ImageFormat, TaskDataModule, TaskDistribution
from litmaml.tasks import SPLITS, Tasks, stacks_of

FEW = Episode(ways=3, shots=2, queries=3)


def whole(tasks: DatasetTasks, *asked: Any) -> Tasks:
    (stack,) = stacks_of(tasks.sample(*asked))
    return stack


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_task_has_its_classes_and_no_item_twice(known: bool, in_memory: bool) -> None:
    data = Told(known=known)
    tasks = DatasetTasks(data, in_memory=in_memory, train=FEW)
    of_split: dict[str, set[int]] = {}
    for split in SPLITS:
        stack = whole(tasks, split, range(30), 0)
        assert stack.support[0].inputs.shape == (30, 6, 3)
        assert stack.query.inputs.shape == (30, 9, 3)
        for task in range(30):
            names = tasks.names_of(split, task, 0)
            items = []
            for batch in (stack.support[0], stack.query):
                for item, label in zip(batch.inputs[task].tolist(), batch.targets[task].tolist(), strict=True):
                    assert str(10 + int(item[0])) == names[label]
                    items.append((item[0], item[1]))
            assert len({*items}) == 15
            of_split.setdefault(split, set()).update(map(int, names))
    assert [len(of_split[split]) for split in SPLITS] == [12, 4, 4]
    assert len(set.union(*of_split.values())) == 20
    before = data.read
    whole(tasks, "train", range(4), 1)
    assert data.read - before == (0 if in_memory else 4 * 15)


def test_fresh_batches_share_no_item_while_there_are_enough() -> None:
    tasks = DatasetTasks(Told(), train=Episode(ways=2, shots=2, queries=2, support_batches=2, hessian_batches=3))
    stack = whole(tasks, "train", range(10), 0)
    for task in range(10):
        *adapting, query = [  # of each batch
            {tuple(item) for item in batch.inputs[task].tolist()}
            for batch in (*stack.support, *(stack.hessian or ()), stack.query)
        ]
        assert len(set[Any]().union(*adapting[:3])) == 12  # 8 items of each class, 2 for the query
        assert not query & set[Any]().union(*adapting)


def test_random_items_are_the_tasks_own() -> None:
    tasks = DatasetTasks(Told(noise=1.0), in_memory=False, train=FEW)
    stack = whole(tasks, "train", [5, 6], 0)
    noise = torch.cat([stack.support[0].inputs, stack.query.inputs], 1)[..., 2].flatten()
    assert len(noise.unique()) == 30
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert torch.equal(whole(tasks, "train", [6], 0).query.inputs[0], stack.query.inputs[1])
    assert torch.equal(torch.get_rng_state(), before)
    loaded = TaskDataModule(tasks, meta_batch=2, train_tasks=4, val_tasks=1, test_tasks=1, num_workers=2)
    *_, last = loaded.train_dataloader()
    assert torch.equal(last.query.inputs, whole(tasks, "train", [2, 3], 0).query.inputs)  # type: ignore[union-attr]


def test_a_dataset_of_columns_has_its_labels_read_by_themselves() -> None:
    rows = [{"text": [k, kind], "mask": [1, 1], "label": f"kind {kind}"} for kind in range(10) for k in range(5)]
    data = Column(*rows)
    tasks = DatasetTasks(
        lambda: data, inputs=["text", "mask"], target="label", in_memory=False, train=Episode(ways=2, queries=3)
    )
    stack = whole(tasks, "test", range(3), 0)
    assert data.read == 3 * 10 + 3 * 2 * 4  # looked at, and drawn
    assert {*stack.query.inputs} == {"text", "mask"}
    names = tasks.names_of("test", 1, 0)
    for item, label in zip(stack.query.inputs["text"][1].tolist(), stack.query.targets[1].tolist(), strict=True):
        assert names[label] == f"kind {item[1]}"


def test_pictures_become_real_numbers() -> None:
    stack = whole(DatasetTasks(Pictures(), train=Episode(ways=2, queries=2)), "train", range(2), 0)
    assert stack.query.inputs.dtype == torch.uint8
    tasks = DatasetTasks(Pictures(), train=Episode(ways=2, queries=2))
    assert "kind " in tasks.names_of("train", 0, 0)[0]
    made = tasks.render(stack).query.inputs
    assert made.shape == (2, 4, 3, 6, 6)
    assert (float(made.max()), made.dtype) == (1.0, torch.float32)
    with pytest.raises(ValueError, match=r"^dataset: items have to be of one shape, got .*; cut, pad or scale"):
        DatasetTasks(Pictures(uneven=True), train=Episode(ways=2, queries=2)).load("train")
    scaled = DatasetTasks(
        Pictures(uneven=True), image_format=ImageFormat(4, 3, mean=0.5), train=Episode(ways=2, queries=2)
    )
    assert scaled.render(whole(scaled, "train", [0], 0)).query.inputs.shape == (1, 4, 3, 4, 4)


def test_groups_are_tasks_with_their_own_values() -> None:
    rows = [{"x": [k, who], "y": float(who), "who": f"w{who}"} for who in range(10) for k in range(6 + who)]
    tasks = DatasetTasks(lambda: Column(*rows), inputs="x", target="y", group="who", train=Episode(shots=3))
    for split in SPLITS:
        stacks = stacks_of(tasks.sample(split, range(2 if split != "train" else 30), 0))
        assert all(len({*part.tolist()}) == 1 for stack in stacks for part in stack.query.inputs[..., 1])
        assert all(torch.equal(stack.query.inputs[..., 1].float(), stack.query.targets) for stack in stacks)
        sizes = {stack.query.examples for stack in stacks}
        assert sizes <= ({2, 4, 8} if split == "train" else {*range(3, 13)})


def test_groups_need_no_numbers() -> None:
    """Neither in Python, nor in YAML, where what is given goes into what the class has."""
    assert DatasetTasks(Pictures(), group=1).sizes("train") == (0, 5, 0, 1, 0)
    assert DatasetTasks(Pictures()).sizes("train") == (5, 1, 15, 1, 0)
    parser = ArgumentParser()
    parser.add_subclass_arguments(TaskDistribution, "tasks")
    given = {"dataset": {"class_path": "datasets_told.Told", "init_args": {"count": 6}}, "group": 1}
    asked = {"class_path": "litmaml.data.DatasetTasks", "init_args": {**given, "train": {"shots": 3}}}
    made = parser.instantiate_classes(parser.parse_object({"tasks": asked})).tasks
    assert made.sizes("train") == (0, 3, 0, 1, 0)


def test_each_split_may_have_its_own_dataset() -> None:
    tasks = DatasetTasks(Told(6), Told(3, first=6), Told(4, first=9), train=FEW)
    assert [len(tasks._members[split]) for split in SPLITS if not tasks.load(split)] == [6, 3, 4]  # type: ignore[func-returns-value]
    with pytest.raises(
        ValueError, match=r"^class: all items looked at of 6 stand in one of another split too: 13 of train"
    ):
        DatasetTasks(Told(6), Told(3, first=3), Told(4, first=9), train=FEW).load("train")
    with pytest.raises(ValueError, match=r"^val_dataset: shares 9 classes with that of train: kind 0, kind 1"):
        DatasetTasks(Pictures(), Pictures(), Pictures(), train=FEW).load("train")


def test_groups_of_one_number_are_told_of() -> None:
    def users(first: int) -> Column:
        return Column(*({"x": [1000 * first + 10 * u + k], "y": 0.5, "who": u} for u in range(4) for k in range(5)))

    tasks = DatasetTasks(lambda: users(0), lambda: users(1), lambda: users(2), "x", "y", "who", train=Episode(shots=2))
    message = r"_dataset: shares 4 groups with that of (train|val): 0, 1, 2 and 1 more; if they are the same"
    with pytest.warns(UserWarning, match=message) as told:
        tasks.load("train")
    assert len(told) == 3


def test_a_class_under_two_names_is_refused() -> None:
    x = torch.arange(20.0).repeat_interleave(5)[:, None] + torch.arange(5.0).repeat(20)[:, None] / 10
    labels = torch.arange(20).repeat_interleave(5)
    with pytest.raises(ValueError, match=r"^class: all items looked at of \d+ stand in one of another split too"):
        DatasetTasks(TensorDataset(torch.cat([x, x]), torch.cat([labels, labels + 20])), train=FEW).load("train")


def test_a_subset_and_a_split_file(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(
        "".join(f"{10 + k},{'train' if k < 6 else 'val' if k < 9 else 'test'}\n" for k in range(12))
    )
    data = Told()
    tasks = DatasetTasks(Subset(data, range(12 * 8)), split_file=str(tmp_path / "s.csv"), in_memory=False, train=FEW)
    tasks.load("test")
    assert data.read == 3 + 12 * 3, "labels are known without making all items"
    assert [*tasks._members["test"]] == ["19", "20", "21"]


class Labelled(Told):
    """Items whose label says the parity of their number, and which fail, as is asked for."""

    def __init__(self, label: Callable[[int], Any] = lambda k: k % 12, fails: int | None = None, **more: Any) -> None:
        super().__init__(known=False)
        self.label, self.fails = label, fails
        for name, value in more.items():
            setattr(self, name, value)

    def __getitem__(self, k: int) -> Any:
        if k == self.fails:
            raise OSError("disk gone")
        return super().__getitem__(k)[0], self.label(k)


@pytest.mark.parametrize(
    "label",
    [
        lambda k: torch.tensor(k % 12),
        lambda k: torch.tensor([k % 12]),
        lambda k: np.float64(k % 12),
        lambda k: b"%d" % (k % 12),
        lambda k: (k % 12,),
    ],
)
def test_labels_come_in_many_forms(label: Callable[[int], Any]) -> None:
    one, other = (DatasetTasks(Labelled(each), train=FEW, split=(1, 1, 1)) for each in (label, lambda k: k % 12))
    for split in SPLITS:
        assert one.names_of(split, 0, 0) == other.names_of(split, 0, 0)
    columns = DatasetTasks(Labelled(labels=np.arange(160)[:, None] % 12), train=FEW, split=(1, 1, 1))
    columns.load("train")
    assert {name for names in columns._members.values() for name in names} == {str(k) for k in range(12)}


def test_a_list_of_labels_of_another_part_is_not_taken() -> None:
    class Coarse(Labelled):
        def __getitem__(self, k: int) -> Any:
            return *super().__getitem__(k), k // 16

    data = Coarse(targets=[k % 12 for k in range(160)])
    tasks = DatasetTasks(data, target=2, train=FEW, split=(1, 1, 1))
    for split in SPLITS:
        for number in range(4):
            for inputs, label in zip(*whole(tasks, split, [number], 0).query, strict=True):
                kinds = [tasks.names_of(split, number, 0)[int(each)] for each in label]
                assert kinds == [str(int(8 * row[0] + row[1]) // 16) for row in inputs]


def test_two_classes_of_one_name_are_two() -> None:
    data = Labelled(classes=["crane", "crane", *map(str, range(2, 12))])
    tasks = DatasetTasks(data, train=FEW, split=(1, 1, 1))
    tasks.load("train")
    assert {name for names in tasks._members.values() for name in names} >= {"crane (0)", "crane (1)", "2"}


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter([1])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"dataset": Labelled(lambda k: None if k == 7 else k % 12)},
            r"^target: that of item 7 is neither .* got None;",
        ),
        ({"dataset": Labelled(lambda k: float("nan") if k == 7 else k % 12)}, r"^target: that of item 7 .* got nan;"),
        ({"dataset": Labelled(lambda k: "" if k == 7 else "a")}, r"^target: that of item 7 is neither"),
        (
            {"dataset": Labelled(lambda k: torch.eye(12)[k % 12])},
            r"^target: that of item 0 .* got \[1\.0, 0\.0, .*; let",
        ),
        (
            {"dataset": Labelled(lambda k: None), "group": 1, "target": 0, "train": Episode(shots=2)},
            r"^group: that of item",
        ),
        (
            {"dataset": Labelled(fails=13)},
            r"^dataset: item 13 of Labelled cannot be read \(OSError: disk gone\); mend it",
        ),
        (
            {"dataset": Labelled(fails=13, targets=[k % 12 for k in range(160)])},
            r"^dataset: item 13 of Labelled cannot",
        ),
        ({"dataset": lambda: 1 / 0}, r"^dataset: <lambda> makes none \(ZeroDivisionError: division by zero\); mend it"),
        (
            {"dataset": Subset},
            r"^dataset: Subset makes none \(.*\); mend it, or give a class with its arg",
        ),
        (
            {"dataset": Stream()},
            r"^dataset: has to have a length and items by number, got Stream; of a stream make a list",
        ),
        ({"dataset": []}, r"^dataset: has no items, got an empty list; give one with some"),
    ],
)
def test_a_dataset_that_will_not_do_is_told(given: dict[str, Any], message: str) -> None:
    tasks = DatasetTasks(**{"train": FEW, **given})
    with pytest.raises(ValueError, match=message):
        tasks.load("train")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": iter([])}, r"^dataset: has to have a length and items by number, got list_iterator; of a stream"),
        ({"inputs": "x"}, r"^inputs: an item has no part 'x', it is or has a tuple; name another"),
        ({"train": Episode(ways=13, queries=1)}, r"^train\.ways: the split train has 12 classes, got 13; take fewer"),
        (
            {"train": Episode(shots=5, queries=4)},
            r"^shots, queries: a task of the split train takes 9 items",
        ),
        ({"val_dataset": Told()}, r"^val_dataset, test_dataset: only one is given"),
        ({"split": (1.0, -1.0, 1.0)}, r"^split: has to be three positive shares"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DatasetTasks(**{"dataset": Told(), "train": FEW, **given}).load("train")
