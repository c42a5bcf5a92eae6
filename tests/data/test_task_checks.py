"""What is refused or told of from the data of tasks alone, and what passes without a word."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numbered_tasks import Numbered
from torch import Tensor

from litmaml.data import Episode, Glyphs, Omniglot, Sinusoid, TaskDistribution
from litmaml.data.task_checks import check_class_numbers, check_classes, check_data, check_overlap, check_splits
from litmaml.problems import LinearRegression, RankOne
from litmaml.tasks import SPLITS, Batch, Tasks, stacks_of, tree_map


def classified(shots: int = 2, queries: int = 3, batches: int = 1, hessian: int = 0) -> Tasks:
    """Four tasks of three classes, all inputs different, numbered from 10 on."""
    stream = torch.Generator().manual_seed(0)

    def batch(each: int) -> Batch:
        labels = torch.arange(3).repeat_interleave(each).expand(4, -1).clone()
        return Batch(torch.randn(4, 3 * each, 5, generator=stream), labels)

    return Tasks(
        support=tuple(batch(shots) for _ in range(batches)),
        query=batch(queries),
        numbers=torch.arange(10, 14),
        hessian=tuple(batch(shots) for _ in range(hessian)) or None,
    )


def real_tasks(name: str, cache_dir: Path, omniglot: Path | None) -> TaskDistribution:
    if name == "omniglot" and omniglot is None:
        pytest.skip("the real Omniglot is needed: set LITMAML_DATA to the folder that holds omniglot/")
    made: dict[str, Callable[[], TaskDistribution]] = {
        "sinusoid": lambda: Sinusoid(Episode(support_batches=2, hessian_batches=2)),
        "glyphs": lambda: Glyphs(cache_dir=str(cache_dir)),
        "glyphs, unchanged": lambda: Glyphs(Episode(queries=3), affine=0.0, cache_dir=str(cache_dir)),
        "images": lambda: Numbered(train=Episode(support_batches=3, hessian_batches=2, queries=4)),
        "omniglot": lambda: Omniglot(str(omniglot), cache_dir=str(cache_dir)),
        "regression": lambda: LinearRegression(),
        "drawn regression": lambda: LinearRegression(train=Episode(shots=3, queries=4)),
        "rank one": lambda: RankOne(),
    }
    return made[name]()


NAMES = ("sinusoid", "glyphs", "glyphs, unchanged", "images", "omniglot", "regression", "drawn regression", "rank one")


@pytest.mark.parametrize("name", NAMES)
def test_all_tasks_of_this_package_pass_without_a_word(name: str, cache_dir: Path, omniglot: Path | None) -> None:
    distribution = real_tasks(name, cache_dir, omniglot)
    for split in SPLITS:
        (sampled,) = stacks_of(distribution.sample(split, range(8), 0))
        tasks = distribution.render(sampled)
        check_data(tasks, torch.float32)
        check_classes(tasks)
        if not distribution.shares_examples:
            check_overlap(tasks)


def test_where_examples_are_shared_on_purpose_it_is_said() -> None:
    for distribution in (LinearRegression(), RankOne()):
        assert distribution.shares_examples
        with pytest.raises(ValueError, match=r"set shares_examples = True in the task distribution if this is meant"):
            check_overlap(distribution.sample("train", range(4), 0))
    assert not Sinusoid.shares_examples


def spoilt(tasks: Tasks, batch: str, part: str, value: float) -> Tasks:
    """The tasks with one number changed: of task 12, example 4."""
    chosen = tasks.query if batch == "query" else (tasks.hessian if batch == "hessian" else tasks.support)[1]  # type: ignore[index]
    changed: Tensor = getattr(chosen, part).clone()
    changed[2, 4] = value
    new = chosen._replace(**{part: changed})
    if batch == "query":
        return tasks._replace(query=new)
    batches: dict[str, Any] = {batch: (getattr(tasks, batch)[0], new)}
    return tasks._replace(**batches)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("batch", "name"), [("query", "query"), ("support", "support 1"), ("hessian", "Hessian batch 1")]
)
def test_what_is_no_number_is_found_in_every_batch(batch: str, name: str, value: float) -> None:
    tasks = spoilt(classified(batches=2, hessian=2), batch, "inputs", value)
    message = rf"inputs: example 4 \(class \d\) of the {name} of task 12 holds {value}, one of 1 such examples; take it"
    with pytest.raises(ValueError, match=message):
        check_data(tasks)


def test_targets_that_are_no_numbers_are_refused() -> None:
    tasks = Sinusoid().sample("train", range(3), 0)
    tasks.query.targets[1, 7] = float("nan")
    tasks.query.targets[2, :2] = float("inf")
    with pytest.raises(ValueError, match="targets: example 7 of the query of task 1 holds nan, one of 3 such examples"):
        check_data(tasks)
    flat = tasks._replace(query=Batch(tasks.query.inputs, tasks.query.targets[..., 0]))
    with pytest.raises(ValueError, match="targets: example 7 of the query of task 1 holds nan, one of 3 such examples"):
        check_data(flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t._replace(query=Batch(t.query.inputs[:, :0], t.query.targets[:, :0])),
            "the query is empty",
        ),
        (lambda t: t._replace(support=(Batch(t.query.inputs[:, :0], t.query.targets[:, :0]),)), "the support is empty"),
        (
            lambda t: t._replace(query=Batch(t.query.inputs, t.query.targets[:, 1:])),
            "targets: the query has 9 inputs per task and 8 targets; give one target for each input",
        ),
        (
            lambda t: t._replace(query=Batch(t.query.inputs[0], t.query.targets[0])),
            r"inputs: the query has the shape \(9, 5\), but of 4 tasks it has to be \(4, examples, \.\.\.\); stack",
        ),
        (
            lambda t: t._replace(query=Batch(t.query.inputs, t.query.targets[:, 0])),
            r"targets: the query has the shape \(4,\), but of 4 tasks",
        ),
        (
            lambda t: t._replace(query=Batch(t.query.inputs.double(), t.query.targets)),
            r"inputs: the query is of torch\.float64 and the model's weights are of torch\.float32; convert the inputs",
        ),
    ],
)
def test_tasks_that_cannot_be_learnt_from_are_refused(change: Callable[[Tasks], Tasks], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_data(change(classified()), torch.float32)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool, torch.float64, torch.complex64])
def test_inputs_of_other_kinds_are_no_fault_of_the_data(dtype: torch.dtype) -> None:
    tasks = classified()
    check_data(tasks._replace(query=Batch(tasks.query.inputs.to(dtype), tasks.query.targets)))
    whole = Batch(torch.ones(4, 2).to(dtype), torch.zeros(4, 2))  # inputs (T, n), such as the places of an embedding
    check_data(tasks._replace(support=(whole,)))
    check_overlap(tasks._replace(support=(whole,)))


@pytest.mark.parametrize("hidden", ["support", "hessian"])
def test_query_examples_that_were_adapted_to_are_counted(hidden: str) -> None:
    tasks = classified(batches=2, hessian=2)
    leaking = getattr(tasks, hidden)[1]
    leaking.inputs[1, :2] = tasks.query.inputs[1, 7:]
    leaking.targets[1, :2] = tasks.query.targets[1, 7:]
    with pytest.warns(UserWarning, match=r"query: 2 of 36 examples .* \(the first is query example 7 of task 11\)"):
        check_overlap(tasks)


def test_an_example_of_another_task_or_of_another_target_is_no_leak() -> None:
    tasks = classified()
    tasks.support[0].inputs[1, 0] = tasks.query.inputs[2, 0]  # of another task
    tasks.support[0].inputs[3, 0] = tasks.query.inputs[3, 8]  # of another class
    check_overlap(tasks)
    rows = Sinusoid(Episode(shots=5, queries=5), noise=0.1).sample("train", range(3), 0)
    rows.query.inputs[:] = rows.support[0].inputs  # measured twice at the same places
    check_overlap(rows)


def test_a_query_that_is_the_support_is_refused() -> None:
    tasks = classified(shots=3)
    with pytest.raises(ValueError, match=r"query: 36 of 36 examples .* so that learning by heart looks like learning"):
        check_overlap(tasks._replace(support=(tasks.query,)))
    rows = Sinusoid().sample("train", range(3), 0)
    with pytest.raises(ValueError, match="query: 30 of 30 examples"):
        check_overlap(rows._replace(query=rows.support[0]))


def relabelled(tasks: Tasks, names: list[int]) -> Tasks:
    """The classes 0, 1, 2 under other numbers."""

    def changed(batch: Batch) -> Batch:
        return Batch(batch.inputs, torch.tensor(names)[batch.targets])

    return tasks._replace(support=tuple(map(changed, tasks.support)), query=changed(tasks.query))


@pytest.mark.parametrize("names", [[1, 2, 3], [0, 2, 3], [-1, 0, 1], [100, 200, 300]])
def test_classes_with_gaps_are_told_of(names: list[int]) -> None:
    listed = ", ".join(map(str, names))
    with pytest.warns(UserWarning, match=rf"the classes of each task are {listed}; number them from 0 on without gaps"):
        check_class_numbers([relabelled(classified(), names)])


@pytest.mark.parametrize("names", [[0, 1, 2], [2, 0, 1], [0, 1, -100]])
def test_classes_without_gaps_pass(names: list[int]) -> None:
    check_class_numbers([relabelled(classified(), names)])
    check_class_numbers([relabelled(classified(), [0, 1, -7])], ignored=-7)


def test_classes_that_differ_from_task_to_task_may_have_gaps() -> None:
    tasks = classified()
    check_class_numbers(
        [
            Tasks(
                support=(Batch(tasks.support[0].inputs, tasks.support[0].targets + 10 * torch.arange(4)[:, None]),),
                query=Batch(tasks.query.inputs, tasks.query.targets + 10 * torch.arange(4)[:, None]),
                numbers=tasks.numbers,
            )
        ]
    )


def test_a_stack_of_tasks_that_lack_a_class_is_no_gap() -> None:
    lacking, whole = relabelled(classified(), [0, 2, 3]), relabelled(classified(), [0, 1, 2])
    check_class_numbers([lacking, whole])
    with pytest.warns(UserWarning, match="the classes of each task are 0, 2, 3"):
        check_class_numbers([lacking, lacking])


def test_classes_of_the_query_alone_are_told_of() -> None:
    tasks = classified()
    tasks.query.targets[3, 0] = 4
    tasks.query.targets[3, 1] = 3
    with pytest.warns(UserWarning, match=r"targets: in 1 of 4 tasks the query has classes .* \(task 13: 3, 4\)"):
        check_classes(tasks)


def test_one_input_in_two_classes_is_told_of() -> None:
    tasks = classified()
    tasks.support[0].inputs[2, 0] = tasks.query.inputs[2, 8]
    with pytest.warns(UserWarning, match=r"targets: 1 inputs .* in two classes of their task \(the first in task 12\)"):
        check_classes(tasks)


def test_images_that_are_all_the_same_are_refused() -> None:
    tasks = classified()
    for batch in (*tasks.support, tasks.query):
        batch.inputs[1] = 0
    with pytest.raises(ValueError, match="inputs: all examples of task 11 are the same, whatever their class; look at"):
        check_classes(tasks)


@pytest.mark.parametrize("targets", [torch.float32, torch.int64])
def test_what_is_no_class_per_example_passes(targets: torch.dtype) -> None:
    tasks = classified()
    places = Batch(tasks.query.inputs, torch.randint(5, 9, (4, 9, 5)).to(targets))  # as in segmentation
    check_classes(tasks._replace(query=places))


def test_the_checks_cost_a_fraction_of_a_second() -> None:
    tasks = Tasks((Batch(torch.rand(8, 25, 3, 84, 84), torch.arange(5).repeat(8, 5)),), None, torch.arange(8))  # type: ignore[arg-type]
    tasks = tasks._replace(query=Batch(torch.rand(8, 75, 3, 84, 84), torch.arange(5).repeat(8, 15)))
    start = time.perf_counter()
    check_data(tasks)
    check_classes(tasks)
    check_overlap(tasks)
    assert time.perf_counter() - start < 5


def test_the_same_tasks_in_two_splits() -> None:
    tasks = Sinusoid()
    train, val = (tasks.sample(split, range(4), 0) for split in ("train", "val"))
    check_splits(train, val)
    check_splits(train, tasks.sample("train", range(4, 8), 0))
    for first, second in ((train, tasks.sample("train", range(2), 0)), (tasks.sample("train", range(2), 0), train)):
        with pytest.warns(UserWarning, match="tasks: 2 of the first in training and in evaluation are the same"):
            check_splits(first, second)


def of_trees(**changes: Any) -> Tasks:
    """Two tasks of a dict of inputs and a tuple of targets."""

    def batch(n: int) -> Batch:
        inputs = {"x": torch.randn(2, n, 3), "pair": (torch.randn(2, n), torch.randn(2, n, 2))}
        return Batch(inputs, (torch.randn(2, n, 1), torch.ones(2, n)))

    return Tasks((batch(3),), batch(4), torch.tensor([7, 8]))._replace(**changes)


def test_trees_are_looked_at_part_by_part() -> None:
    check_data(of_trees())
    check_overlap(of_trees())
    tasks = of_trees()
    tasks.query.inputs["pair"][1][1, 2, 0] = torch.nan
    with pytest.raises(ValueError, match=r"inputs\['pair'\]\[1\]: example 2 of the query of task 8 holds nan"):
        check_data(tasks)
    tasks.support[0].inputs["x"] = torch.randn(2, 5, 3)
    with pytest.raises(
        ValueError, match=r"inputs\['pair'\]\[0\]: the support has 3 of them per task, and 5 of the first"
    ):
        check_data(tasks)
    with pytest.raises(ValueError, match=r"inputs\['x'\]: the support has the shape \(3,\), but of 2 tasks"):
        check_data(of_trees(support=(Batch({"x": torch.zeros(3)}, torch.zeros(2, 3)),)))


@pytest.mark.parametrize("inputs", [[torch.zeros(2, 3)], {"x": torch.zeros(2, 3), "mask": None}, {"x": 3}, {}])
def test_trees_of_something_else_than_tensors_are_refused(inputs: Any) -> None:
    with pytest.raises(ValueError, match=r"inputs: the support has (to be a tensor, or a dict or tuple|no tensor)"):
        check_data(of_trees(support=(Batch(inputs, torch.zeros(2, 3)),)))


def test_an_example_of_a_tree_is_seen_only_where_all_its_parts_were() -> None:
    tasks = of_trees()
    seen = tree_map(lambda part: part[:, :2].clone(), tasks.support[0])
    with pytest.raises(ValueError, match="query: 4 of 4 examples of the first batch stand in the support"):
        check_overlap(tasks._replace(query=seen))
    seen.targets[0].add_(1)
    check_overlap(tasks._replace(query=seen))


def test_graphs_of_a_package_are_refused_with_what_to_do() -> None:
    library = type("Batch", (), {"__module__": "torch_geometric.data.batch"})
    joined = type("DataBatch", (library,), {"__module__": "abc"})()  # as it is made there
    for graphs, named in (({"graph": joined}, "DataBatch"), ([joined, joined], "list")):
        batch = Batch(graphs, torch.zeros(2, 3))
        with pytest.raises(ValueError, match=rf"inputs: .* got a {named} there; pad the graphs .* give a dict"):
            check_data(Tasks((batch,), batch, torch.arange(2)))


def test_unequal_tasks_are_refused_with_what_to_do() -> None:
    ragged = [torch.zeros(2, 3), torch.zeros(4, 3)]
    nested = torch.nested.nested_tensor(ragged, layout=torch.jagged)
    for inputs, named in ((ragged, "list"), (nested, "nested tensor")):
        batch = Batch(inputs, torch.zeros(2, 3))
        with pytest.raises(ValueError, match=rf"inputs: .* got a {named} there; give tasks of unequal .*in_stacks"):
            check_data(Tasks((batch,), batch, torch.arange(2)))
