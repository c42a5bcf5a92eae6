"""Distributions around another one hand on whatever they do not change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from litmaml.data import AnyWay, Episode, FiniteTasks, Glyphs, OnlineTasks, TaskDistribution
from litmaml.data.tasks_within import TasksWithin
from litmaml.tasks import Batch, Split, Tasks


class Telling(TaskDistribution):
    """Notes what it is asked, and answers so that it shows."""

    shares_examples: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(Episode(ways=2, shots=1, queries=1))
        self.asked: list[Any] = []

    def prepare(self) -> None:
        self.asked.append("prepare")

    def load(self, split: Split) -> None:
        self.asked.append(("load", split))

    def keep_on(self, split: Split, device: torch.device) -> None:
        self.asked.append(("keep_on", split, device))

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        count = len(numbers)
        batches = [Batch(torch.zeros(count, n, 1), torch.zeros(count, n).long()) for n in self.sizes(split).batches]
        return self._arrange(split, batches, numbers)

    def render(self, tasks: Tasks) -> Tasks:
        return tasks._replace(numbers=tasks.numbers + 1000)

    def source_of(self, split: Split, number: int, seed: int) -> str:
        return f"{split} {number}"

    def in_own_units(self, values: Tensor, numbers: Sequence[int], seed: int) -> Tensor:
        return values * 2 + sum(numbers)

    def record(self) -> Mapping[str, Any]:
        return {"scale": 2.0}

    def adopt(self, record: object) -> None:
        self.asked.append(("adopt", record))


WRAPPERS: dict[str, Callable[[TaskDistribution], TasksWithin]] = {
    "as they are": TasksWithin,
    "AnyWay": lambda tasks: AnyWay(tasks, ways=(2, 3), shots=(1, 2)),
    "OnlineTasks": lambda tasks: OnlineTasks(tasks, every=4),
    "FiniteTasks": lambda tasks: FiniteTasks(tasks, pool=4),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_what_is_not_changed_is_handed_on(name: str) -> None:
    inner = Telling()
    outer = WRAPPERS[name](inner)
    outer.prepare()
    outer.load("train")
    outer.keep_on("train", torch.device("cpu"))
    outer.adopt({"scale": 3.0})
    assert inner.asked == [
        "prepare",
        ("load", "train"),
        ("keep_on", "train", torch.device("cpu")),
        ("adopt", {"scale": 3.0}),
    ]
    assert outer.record() == {"scale": 2.0}
    assert outer.source_of("test", 7, 0) == "test 7"
    assert outer.in_own_units(torch.ones(1, 1, 1), [3], 0).item() == 5
    assert outer.shares_examples
    assert outer.sizes("val") == inner.sizes("val")
    tasks = inner.sample("val", [3], 0)
    assert outer.render(tasks).numbers.tolist() == [1003]
    assert outer.resized(Episode(shots=5)).sizes("test").shots == 5
    assert outer.sizes("test").shots == 1


def test_finite_tasks_come_again_with_their_images_and_other_numbers() -> None:
    inner = Glyphs(Episode(ways=2, shots=1, queries=1))
    finite = FiniteTasks(inner, pool=3)
    finite.prepare()
    finite.load("train")
    finite.load("val")

    def sampled(tasks: TaskDistribution, split: Split, numbers: Sequence[int]) -> Tasks:
        found = tasks.sample(split, numbers, 0)
        assert isinstance(found, Tasks)
        return tasks.render(found)

    some, wanted = sampled(finite, "train", [1, 5, 4, 0]), sampled(inner, "train", [1, 2, 1, 0])
    for number, task in ((1, 1), (5, 2), (4, 1), (0, 0)):
        (row,), (true, *_) = (tasks.numbers.eq(n).nonzero() for tasks, n in ((some, number), (wanted, task)))
        for batch, other in zip((*some.support, some.query), (*wanted.support, wanted.query), strict=True):
            assert torch.equal(batch.inputs[row], other.inputs[true])
    beyond, same = (sampled(tasks, "val", [1, 4]) for tasks in (finite, inner))
    assert torch.equal(beyond.query.inputs, same.query.inputs)
    assert not torch.equal(beyond.query.inputs[0], beyond.query.inputs[1])


def test_the_source_of_a_training_draw_is_that_of_the_task_it_picks() -> None:
    online = OnlineTasks(Telling(), every=4)
    assert [online.source_of("train", k, 0) for k in range(9)] == [f"train {online.drawn(k, 0)}" for k in range(9)]
