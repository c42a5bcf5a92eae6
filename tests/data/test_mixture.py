"""Tasks of several sources, and tasks of any size."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from datasets_told import Told
from numbered_tasks import Numbered
from tables import written
from torch import nn

from litmaml.callbacks import Report
from litmaml.data import AnyWay, DatasetTasks, Episode, FiniteTasks, Mixture, Sinusoid, TableTasks, TaskDataModule
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.randomness import task_streams
from litmaml.tasks import SPLITS, Split, stacks_of
from quiet_trainer import quiet_trainer

FEW = Episode(ways=2, shots=1, queries=2)


def mixed(**more: Any) -> Mixture:
    few = Sinusoid(Episode(shots=3, queries=4))
    return Mixture(**{"sources": {"calm": few, "loud": Sinusoid(Episode(shots=3, queries=4), noise=2.0)}, **more})


def test_a_task_is_its_sources_own_under_its_number() -> None:
    tasks = mixed(weights={"calm": 3, "loud": 1})
    for split in SPLITS:
        for stack in stacks_of(tasks.sample(split, range(40), 0)):
            names = {tasks.source_of(split, number, 0) for number in stack.numbers.tolist()}
            assert len(names) == 1
            (name,) = names
            own = [number if split == "train" else number // 2 for number in stack.numbers.tolist()]
            expected = tasks.sources[name].sample(split, own, 0)
            assert torch.equal(tasks.render(stack).query.targets, tasks.sources[name].render(expected).query.targets)  # type: ignore[arg-type]
            again = tasks.sample(split, [stack.numbers.tolist()[-1]], 0)
            assert torch.equal(tasks.render(stacks_of(again)[0]).query.inputs[0], tasks.render(stack).query.inputs[-1])
    twice = stacks_of(tasks.sample("train", [4, 1, 4], 0))
    assert sorted(number for stack in twice for number in stack.numbers.tolist()) == [1, 4, 4]
    drawn = Counter(tasks.source_of("train", number, 0) for number in range(2000))
    assert abs(drawn["calm"] / 2000 - 0.75) < 0.04
    assert Counter(tasks.source_of("test", number, 0) for number in range(10)) == {"calm": 5, "loud": 5}
    assert tasks.describe("test")["loud.noise"] == 2.0


def test_which_source_is_drawn_says_nothing_of_what_is_drawn_there() -> None:
    own, drawn = (next(task_streams(0, "train", [5], what)).random(8) for what in ("examples", "protocol"))
    assert not {*own.tolist()} & {*drawn.tolist()}


def test_one_may_train_on_one_and_test_on_another(tmp_path: Path) -> None:
    tasks = mixed(weights={"calm": 1}, val_sources=["calm"], test_sources=["loud"])
    found = {split: {tasks.source_of(split, number, 0) for number in range(50)} for split in SPLITS}
    assert found == {"train": {"calm"}, "val": {"calm"}, "test": {"loud"}}


def test_results_stand_by_source(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = MetaLearner(MLP(1, 1, [8]), SGD(lr=0.01), loss=nn.MSELoss())
    trainer = quiet_trainer(tmp_path, max_steps=2, limit_val_batches=1, callbacks=[Report()])
    data = TaskDataModule(mixed(), meta_batch=4, train_tasks=8, val_tasks=4, test_tasks=30)
    trainer.fit(learner, data)
    trainer.test(learner, data)
    of = {name: found["loss"][-1].mean for name, found in learner.source_results.items()}
    assert {*of} == {"calm", "loud"}
    assert of["loud"] > of["calm"] + 1  # a variance of 4
    assert (of["loud"] + of["calm"]) / 2 == pytest.approx(learner.results["loss"][-1].mean, rel=1e-5)
    alone = TaskDataModule(mixed().sources["loud"], meta_batch=4, test_tasks=15)
    written = json.loads((tmp_path / "test_results.json").read_text())["sources"]["loud"]["loss"]
    assert written[1]["mean"] == pytest.approx(of["loud"])
    trainer.test(learner, alone)
    assert learner.results["loss"][-1].mean == pytest.approx(of["loud"], rel=1e-5)
    assert learner.source_results == {}


def test_a_class_of_two_sources_and_splits_is_refused() -> None:
    other = {"one": DatasetTasks(Told(), train=FEW), "two": DatasetTasks(Told(), split_seed=1, train=FEW)}
    with pytest.raises(ValueError, match=r"^sources: \d+ of \d+ examples looked at of one \(train\) stand in two"):
        Mixture(other).load("train")
    Mixture({"one": DatasetTasks(Told(), train=FEW), "two": DatasetTasks(Told(first=50), train=FEW)}).load("train")


def test_sources_for_several_models_are_refused() -> None:
    tasks = Mixture({"waves": Sinusoid(), "images": Numbered(train=Episode(ways=3, queries=2))})
    message = (
        r"^sources: images gives inputs of another kind than waves \(inputs \(1, 4, 4\)\); mix what one model takes$"
    )
    with pytest.raises(ValueError, match=message):
        tasks.load("train")


def test_what_training_took_is_taken_over_by_each_source(tmp_path: Path) -> None:
    def of(name: str, count: int) -> TableTasks:
        return TableTasks(str(written(tmp_path / f"{name}.csv", tasks=count)), ["x*"], ["y"], "who", order="when")

    first = {"one": of("one", 10), "two": of("two", 11)}
    record = Mixture({**first}).record()
    again = Mixture({"one": of("three", 12), "two": of("four", 13)})
    again.adopt(record)
    assert [again.sources[name].record() for name in first] == [first[name].record() for name in first]
    again.adopt(first["two"].record())
    assert [again.sources[name].record() for name in first] == [first["two"].record()] * 2


def test_each_source_has_its_own_units(tmp_path: Path) -> None:
    sources = {
        name: TableTasks(str(written(tmp_path / f"{name}.csv", tasks=count)), ["x*"], ["y"], "who")
        for name, count in (("one", 10), ("two", 11))
    }
    (stack,) = stacks_of(sources["one"].sample("test", [0], 0))
    both = torch.cat([stack.query.targets] * 2)
    found = Mixture({**sources}).in_own_units(both, [0, 1], 0)
    assert torch.equal(found, torch.cat([tasks.format.unscaled(stack.query.targets) for tasks in sources.values()]))
    assert not torch.equal(found[0], found[1])


class Kept(Sinusoid):
    """Notes where it is to be kept, and shares examples."""

    shares_examples: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.on: list[tuple[str, torch.device]] = []

    def keep_on(self, split: Split, device: torch.device) -> None:
        self.on.append((split, device))


def test_what_concerns_sources_is_handed_on_to_them() -> None:
    one, other = Kept(), Kept()
    tasks = Mixture({"one": one, "other": other}, weights={"one": 1}, val_sources=["other"])
    for split in SPLITS:
        tasks.keep_on(split, torch.device("cpu"))
    here = torch.device("cpu")
    assert (one.on, other.on) == ([("train", here), ("test", here)], [("val", here), ("test", here)])
    assert tasks.shares_examples
    assert not mixed().shares_examples


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sources": {}}, r"^sources: is empty; give at least one"),
        ({"weights": {"calm": 1, "none": 1}}, r"^weights: no source is called none; the sources are calm, loud"),
        ({"weights": {"calm": 0}}, r"^weights: have to be at least 0, and one of them positive"),
        ({"weights": {"calm": -1, "loud": 2}}, r"^weights: have to be at least 0"),
        ({"test_sources": ["all"]}, r"^test_sources: no source is called all"),
        ({"val_sources": []}, r"^val_sources: is empty; name a source, or leave it out"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed(**given)


def test_evaluation_tasks_have_any_size() -> None:
    tasks = AnyWay(Numbered(train=Episode(ways=3, shots=1, queries=2)), ways=(2, 7), shots=(1, 5))
    (train,) = stacks_of(tasks.sample("train", range(4), 0))
    assert train.support[0].examples == 3
    found: Counter[tuple[int, int]] = Counter()
    for stack in stacks_of(tasks.sample("test", range(300), 0)):
        ways = len({*stack.query.targets[0].tolist()})
        assert stack.query.examples == 2 * ways
        assert stack.size == 1
        found[ways, stack.support[0].examples // ways] += 1
    assert {*found} == {(ways, shots) for ways in range(2, 8) for shots in range(1, 6)}
    assert max(found.values()) < 30  # of 10 on the average
    one, again = (stacks_of(tasks.sample("test", numbers, 0)) for numbers in ([7], [3, 7]))
    assert torch.equal(one[0].query.inputs, again[-1].query.inputs)
    assert (tasks.describe("test")["ways"], tasks.describe("train")["ways"]) == ("2 to 7", 3)


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild")
@pytest.mark.parametrize("mixed_in", [False, True])
def test_more_classes_than_logits_are_told_before_training(mixed_in: bool, tmp_path: Path) -> None:
    tasks: Any = AnyWay(Numbered(train=Episode(ways=3, shots=1, queries=2)), ways=(2, 7), shots=(1, 5))
    data = TaskDataModule(Mixture({"all": tasks}) if mixed_in else FiniteTasks(tasks, 4), 2, train_tasks=4)
    learner = MetaLearner(nn.Sequential(nn.Flatten(), nn.Linear(16, 6)), SGD(0.1))
    with pytest.raises(
        ValueError, match=r"ways: tasks have up to 7 classes, but the model gives 6 logits; .*head_start"
    ):
        quiet_trainer(tmp_path, max_epochs=1).fit(learner, data)
    assert learner.results == {}


def test_too_many_ways_or_shots_are_found_before_they_are_drawn() -> None:
    episode = Episode(ways=3, shots=1, queries=2)
    with pytest.raises(ValueError, match=r"^test\.ways: the split val has 12 classes, got 13"):
        AnyWay(Numbered(train=episode), ways=(2, 13)).load("val")
    with pytest.raises(ValueError, match=r"^a task of the split val takes shots \+ queries = 9 \+ 2 images"):
        AnyWay(Numbered(train=episode), ways=(2, 5), shots=(1, 9)).load("val")
    with pytest.raises(ValueError, match=r"^tasks: have no classes, got Sinusoid"):
        AnyWay(Sinusoid())
    with pytest.raises(ValueError, match=r"^ways: has to be two numbers, from 2 on and the larger one last, got"):
        AnyWay(Numbered(train=episode), ways=(5, 3))
