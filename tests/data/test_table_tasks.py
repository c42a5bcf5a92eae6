"""A table's tasks are its own rows, standardised by the training tasks, and split by task."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tables import read, table, written
from torch import nn

from litmaml.callbacks import Predictions
from litmaml.data import Episode, TableTasks, TaskDataModule
from litmaml.data.table_format import TableFormat
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.tasks import SPLITS, Split, Tasks, stacks_of
from quiet_trainer import quiet_trainer

RAGGED = [9, 12, 30, 17, 24, 40, 11, 13, 21, 33]


def tasks_on(file: Path, **more: Any) -> TableTasks:
    return TableTasks(**{"path": str(file), "task": "who", "features": ["x*"], "targets": ["y"], **more})


def alone(tasks: TableTasks, split: Split, count: int, seed: int = 0) -> dict[int, Tasks]:
    """Each task by its number."""
    found = {}
    for stack in stacks_of(tasks.sample(split, range(count), seed)):
        for k, number in enumerate(stack.numbers.tolist()):
            found[number] = stack._replace(
                support=tuple(batch.rows([k]) for batch in stack.support),
                query=stack.query.rows([k]),
                numbers=stack.numbers[[k]],
            )
    return found


def test_rows_are_the_files_own_and_standardised_by_the_training_tasks(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", rows=RAGGED)
    tasks = tasks_on(file, train=Episode(shots=4))
    names = {split: {tasks.names_of(split, n, 0)[0] for n in range(200 if split == "train" else 2)} for split in SPLITS}
    assert [len(names[split]) for split in SPLITS] == [6, 2, 2]
    assert len(set.union(*names.values())) == 10
    rows = read(file)
    own = np.array([[float(row[name]) for name in ("x1", "x2", "y")] for row in rows if row["who"] in names["train"]])
    for split in SPLITS:
        for number, task in alone(tasks, split, 2).items():
            (who,) = tasks.names_of(split, number, 0)
            theirs = [[float(row[name]) for name in ("x1", "x2", "y")] for row in rows if row["who"] == who]
            expected = (np.array(theirs) - own.mean(0)) / own.std(0)
            drawn = torch.cat([torch.cat([*batch.task(0)], -1) for batch in (*task.support, task.query)]).numpy()
            places = [int(np.abs(expected - row).max(1).argmin()) for row in drawn]
            assert len({*places}) == len(drawn)
            np.testing.assert_allclose(drawn, expected[places], rtol=0, atol=1e-5)
            left = len(theirs) - 4
            assert task.query.examples == (left if split != "train" else 1 << (left.bit_length() - 1))
    assert tasks.format.unscaled(task.query.targets).mean() == pytest.approx(100, abs=20)
    assert tasks.describe("test")["one standard deviation of y"] == pytest.approx(own.std(0)[2])


def test_in_order_the_query_comes_later(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", rows=RAGGED)
    tasks = tasks_on(file, features=["when"], order="when", train=Episode(shots=4))
    for split in SPLITS:
        for number, task in alone(tasks, split, 2 if split != "train" else 50).items():
            (who,) = tasks.names_of(split, number, 0)
            mean, scale = tasks.format.feature_mean[0], tasks.format.feature_scale[0]
            support, query = (
                (batch.inputs[0, :, 0].double() * scale + mean).round().int().tolist()
                for batch in (task.support[0], task.query)
            )
            assert support == [*range(support[0], support[0] + 4)]
            assert query == sorted({*query})
            assert query[0] > support[-1]
            count = sum(row["who"] == who for row in read(file))
            if split == "train":
                assert support[0] <= (count - 4) // 2
            else:
                assert (support[0], query) == (0, [*range(4, count)])
    assert len({tuple(t.support[0].inputs.flatten().tolist()) for t in alone(tasks, "train", 50).values()}) > 8
    with pytest.raises(ValueError, match=r"^data\.test_tasks: the split test has 2 tasks, .* number 2; set it to 2$"):
        tasks.sample("test", [2], 0)


def test_a_number_of_queries_is_cut_where_fewer_rows_are_left(tmp_path: Path) -> None:
    tasks = tasks_on(written(tmp_path / "t.csv", rows=RAGGED), train=Episode(shots=4, queries=10))
    sizes = {task.query.examples for split in SPLITS for task in alone(tasks, split, 40).values()}
    assert sizes == {*(min(10, count - 4) for count in RAGGED)}


def test_unequal_training_tasks_come_in_few_stacks(tmp_path: Path) -> None:
    tasks = tasks_on(written(tmp_path / "t.csv", tasks=40, rows=[*range(101, 141)]), train=Episode(shots=5))
    assert len(stacks_of(tasks.sample("train", range(40), 0))) <= 2
    assert len(stacks_of(tasks.sample("val", range(8), 0))) == 8


def test_classes_are_those_of_the_training_tasks(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", rows=RAGGED)
    tasks = tasks_on(file, targets=["kind"], kind="classification", train=Episode(shots=2))
    assert tasks.format.classes == ("high", "low")
    for split in SPLITS:
        task = alone(tasks, split, 1)[0]
        high = [row for row in read(file) if row["who"] == tasks.names_of(split, 0, 0)[0] and row["kind"] == "high"]
        found = torch.cat([task.support[0].targets, task.query.targets], 1)[0]
        assert found.dtype == torch.int64
        if split != "train":
            assert int((found == 0).sum()) == len(high)


@pytest.mark.parametrize("queries", [0, 3])
def test_each_class_of_a_task_has_its_shots(tmp_path: Path, queries: int) -> None:
    counts = {"a": (30, 4), "b": (8, 9), "c": (20, 20), "d": (7, 12), "e": (11, 6), "f": (5, 14), "g": (40, 40)}
    parts = [(who, kind, own[kind == "q"]) for who, own in counts.items() for kind in "pq"]
    rows = [[who, k, k + 100 * ord(who), kind] for who, kind, count in parts for k in range(count)]
    rows += [["h", k, 7, kind] for k, kind in enumerate("pqqqqqqq")]  # one of a class
    rows += [["i", k, 8, "p"] for k in range(20)]  # a single class
    file = table(tmp_path / "t.csv", ["who", "mark", "x1", "kind"], rows)
    episode = Episode(shots=2, queries=queries)
    tasks = tasks_on(file, targets=["kind"], kind="classification", train=episode, split=(3, 3, 3))
    seen: set[str] = set()
    supports: set[tuple[str, ...]] = set()
    for split in SPLITS:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            tasks.load(split)
        left_out = {"h", "i"} & {name for name, where in tasks._table.splits.items() if where == split}
        assert len(told) == bool(left_out)
        assert all("fewer than 3 rows of one of their classes, or a single class" in str(each.message) for each in told)
        for number, task in alone(tasks, split, 12).items():
            (who,) = tasks.names_of(split, number, 0)
            seen.add(who)
            supports.add((who, *map(str, sorted(task.support[0].inputs[0, :, 0].tolist()))))
            assert sorted(task.support[0].targets[0].tolist()) == [0, 0, 1, 1]
            # Which row a value is, is told by x1; its class by where it stands in the file.
            places = torch.cat([batch.inputs[0, :, 0] for batch in (task.support[0], task.query)])
            labels = torch.cat([batch.targets[0] for batch in (task.support[0], task.query)])
            assert len({*zip(places.tolist(), labels.tolist(), strict=True)}) == len(places)
            left = [count - 2 for count in counts[who]]
            found = [int((task.query.targets == k).sum()) for k in (0, 1)]
            if queries:
                assert found == [min(3, each) for each in left]
            elif split == "train":
                assert sum(found) == 1 << (sum(left).bit_length() - 1)
            else:
                assert found == left
    assert seen == {*counts}
    assert len(supports) > 2 * len(counts), "other rows each time"
    first, second = ([tasks.names_of("train", first + k, 0) for k in range(6)] for first in (0, 6))
    assert first != second, "tasks are drawn"


def test_in_order_the_first_rows_are_support_whatever_their_classes(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", rows=RAGGED)
    tasks = tasks_on(file, targets=["kind"], kind="classification", order="when", train=Episode(shots=4))
    for split in SPLITS:
        for number, task in alone(tasks, split, 2).items():
            (who,) = tasks.names_of(split, number, 0)
            assert task.support[0].examples == 4
            if split != "train":
                rows = sorted((int(row["when"]), row["kind"]) for row in read(file) if row["who"] == who)
                assert task.support[0].targets[0].tolist() == [int(kind == "low") for _, kind in rows[:4]]


def test_a_class_that_training_does_not_have_is_found_before_it(tmp_path: Path) -> None:
    rows = [
        [who, k + ord(who) / 7, "one" if k % 2 else "two" if who != "f" else "three"]
        for who in "abcdef"
        for k in range(8)
    ]
    file = table(tmp_path / "t.csv", ["who", "x1", "kind"], rows)
    (tmp_path / "s.csv").write_text("task,split\n" + "".join(f"{who},train\n" for who in "abcd") + "e,val\nf,test\n")
    more = {"targets": ["kind"], "kind": "classification", "split_file": str(tmp_path / "s.csv")}
    for order in (None, "x1"):
        with pytest.raises(ValueError, match=r"^targets: no training task has the class three, .* one, two; give such"):
            tasks_on(file, **more, order=order, train=Episode(shots=1)).load("train")
    rows = [[who, k + ord(who) / 7, "one"] for who in "abcdef" for k in range(8)]
    with pytest.raises(ValueError, match=r"^targets: all training tasks have the one class 'one'; name another column"):
        tasks_on(table(file, ["who", "x1", "kind"], rows), **more, train=Episode(shots=1)).load("train")


def test_a_column_that_says_nothing_is_refused(tmp_path: Path) -> None:
    for cell, missing, message in (
        ("", "mean", r"^features: no training task has a number in the column x2; leave it out$"),
        ("1e200", "mean", r"^features: line 2, column 'x2': is 1e\+200 \(60 such cells in 60 rows\)"),
    ):
        rows = [[who, k + ord(who), cell, k] for who in "abcdefghij" for k in range(6)]
        file = table(tmp_path / "t.csv", ["who", "x1", "x2", "y"], rows)
        with pytest.raises(ValueError, match=message):
            tasks_on(file, missing=missing).load("train")


@pytest.mark.parametrize("way", ["file", "column"])
def test_tasks_are_shared_out_as_is_said(tmp_path: Path, way: str) -> None:
    names = ["who", "x1", "y", "part"]
    words = {"a": "Train", "b": "validation", "c": "test"}
    rows = [[who, k, 2 * k + ord(who), words[who]] for who in "abc" for k in range(5)]
    file = table(tmp_path / "t.csv", names, rows, delimiter=";")
    (tmp_path / "s.csv").write_text("task,split\na,train\nb,val\nc,test\n")
    more = {"split_file": str(tmp_path / "s.csv")} if way == "file" else {"split_column": "part"}
    tasks = tasks_on(file, train=Episode(shots=2), **more)
    assert [tasks.names_of(split, 0, 0) for split in SPLITS] == [["a"], ["b"], ["c"]]


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    rows = [[who, k + ord(who[0]), k] for who in ("Zoe\u0301", "Zo\u00e9 ", "b", "c") for k in range(6)]
    tasks = tasks_on(table(tmp_path / "t.csv", ["who", "x1", "y"], rows), train=Episode(shots=2), split=(1, 1, 1))
    found = {tasks.names_of(split, 0, 0)[0]: alone(tasks, split, 1)[0].query.examples for split in ("val", "test")}
    found |= {tasks.names_of("train", 0, 0)[0]: 0}
    assert {*found} == {"Zo\u00e9", "b", "c"}


def test_missing_features_are_the_training_mean_if_that_is_asked_for(tmp_path: Path) -> None:
    rows = [[who, "" if k == 1 else k + ord(who), k * k + ord(who)] for who in "abcde" for k in range(6)]
    file = table(tmp_path / "t.csv", ["who", "x1", "y"], rows)
    with pytest.raises(ValueError, match=r"^features: line 3, column 'x1': is empty \(5 such cells in 5 rows\); fill"):
        tasks_on(file, train=Episode(shots=2)).load("train")
    tasks = tasks_on(file, train=Episode(shots=2), missing="mean")
    task = alone(tasks, "test", 1)[0]
    at = torch.cat([batch.targets[0, :, 0] for batch in (task.support[0], task.query)])
    inputs = torch.cat([batch.inputs[0, :, 0] for batch in (task.support[0], task.query)])
    assert torch.isfinite(inputs).all()
    first = 1 + ord(tasks.names_of("test", 0, 0)[0])
    (one,) = inputs[(tasks.format.unscaled(at[:, None])[:, 0] - first).abs() < 1e-4].tolist()
    assert one == 0


@pytest.mark.parametrize(
    ("more", "change", "message"),
    [
        ({"task": "patient"}, None, r"^path: .* has no column patient; the columns are who, when, x1"),
        ({"features": ["z*"]}, None, r"^features: no column is called so, got 'z\*'; name those of this table: who"),
        ({"features": ["y"]}, None, r"^features: 'y' is the task, a target or the split; leave it out"),
        ({"features": "x1"}, None, r"^features: has to be a list of columns or patterns, got 'x1'"),
        ({"kind": "ranking"}, None, r"^kind: has to be regression or classification, got 'ranking'"),
        ({"targets": ["y", "x1"], "kind": "classification"}, None, r"^targets: has to be the one column"),
        ({"split": (1, 0, 1)}, None, r"^split: has to be three positive shares"),
        ({"split_file": "a", "split_column": "b"}, None, r"^split_column: is one way to share out, got 'a'"),
        (
            {"split_column": "kind"},
            None,
            r"^split_column: 'kind' has to say train, val or test, got '(high|low)'",
        ),
        ({"train": Episode(shots=12)}, None, r"^shots: 6 of 6 tasks of the split train have fewer than 13 rows: s0"),
        ({"train": Episode(ways=3)}, None, r"^train\.ways: these tasks have no classes, got 3"),
        ({}, ("s03,", "s03x,,"), r"^path: line \d+ has 7 cells, and the first line names 6 columns"),
        ({}, ("s03,", ","), r"^task: line \d+, column 'who': is empty; name the task"),
        ({"features": ["kind"]}, None, r"^path: line 2, column 'kind': is no number, got '(high|low)'; write numbers"),
        ({}, ("x1,x2", "x1,x1"), r"^path: .* has several columns named x1"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, more: dict[str, Any], change: tuple[str, str] | None, message: str
) -> None:
    file = written(tmp_path / "t.csv")
    if change:
        file.write_text(file.read_text().replace(*change))
    with pytest.raises(ValueError, match=message):
        tasks_on(file, **more).load("train")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^path: there is no file"):
        tasks_on(tmp_path / "none.csv").load("train")
    for content, message in (
        (b"", "has no first line"),
        (b"who,x1,y\n", "has no row below"),
        (b"who,x1,y\n\xff\xfe,1,2\n", "cannot be read as text in UTF-8"),
    ):
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            tasks_on(tmp_path / "t.csv").load("train")


def test_small_tasks_are_left_out_and_said(tmp_path: Path) -> None:
    tasks = tasks_on(written(tmp_path / "t.csv", rows=[*[3] * 10, *[8] * 10]), train=Episode(shots=3))
    with pytest.warns(
        UserWarning, match=r"^shots: (\d+) of 12 tasks .* fewer than 4 rows and are left out: s0\d \(3\)"
    ):
        tasks.load("train")
    assert {tasks.names_of("train", n, 0)[0] for n in range(100)} <= {f"s{k}" for k in range(10, 20)}


def test_one_subject_under_two_names_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv")
    again = [[f"again {row['who']}", *[*row.values()][1:]] for row in read(file)]
    with file.open("a") as opened:
        opened.writelines(",".join(map(str, row)) + "\n" for row in again)
    with pytest.raises(ValueError, match=r"^task: all rows of \d+ stand in one of another split too: (again )?s0"):
        tasks_on(file).load("train")


def test_single_rows_of_two_splits_are_told_of(tmp_path: Path) -> None:
    rows = [[who, k if k else 0.5, k * ord(who) if k else 0] for who in "abcdef" for k in range(6)]
    tasks = tasks_on(table(tmp_path / "t.csv", ["who", "x1", "y"], rows), train=Episode(shots=2))
    with pytest.warns(UserWarning, match=r"^task: 1 rows stand in two splits; if"):
        tasks.load("train")


def test_what_training_took_is_taken_over(tmp_path: Path) -> None:
    first = tasks_on(written(tmp_path / "a.csv", tasks=10))
    other = tasks_on(written(tmp_path / "b.csv", tasks=20))
    before = alone(other, "test", 1)[0].query.inputs
    other.adopt(first.record())
    after = alone(other, "test", 1)[0].query.inputs
    own, theirs = TableFormat.of_plain(first.record(), "x"), tasks_on(tmp_path / "b.csv").format
    raw = before.double() * torch.tensor(theirs.feature_scale) + torch.tensor(theirs.feature_mean)
    expected = (raw - torch.tensor(own.feature_mean)) / torch.tensor(own.feature_scale)
    torch.testing.assert_close(after.double(), expected, rtol=0, atol=1e-4)
    fewer = tasks_on(tmp_path / "b.csv", features=["x1"])
    with pytest.raises(ValueError, match=r"^features: the checkpoint was trained on the columns x1, x2, y, got x1, y;"):
        fewer.adopt(first.record())
    values = {**first.record(), "targets": ["kind"]}
    with pytest.raises(
        ValueError, match=r"^kind: the checkpoint was trained on regression, got classification; set it"
    ):
        tasks_on(tmp_path / "b.csv", targets=["kind"], kind="classification").adopt(values)


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no mapping": lambda record: [*record],
    "more": lambda record: record | {"run": "rm"},
    "less": lambda record: {key: value for key, value in record.items() if key != "task"},
    "numbers as text": lambda record: record | {"feature_mean": ["1", "2"]},
    "too few": lambda record: record | {"feature_mean": [1.0]},
    "not finite": lambda record: record | {"target_mean": [float("nan")]},
    "no spread": lambda record: record | {"feature_scale": [1.0, 0.0]},
    "no names": lambda record: record | {"features": []},
    "a class": lambda record: record | {"task": {"class_path": "os.system"}},
    "unknown": lambda record: record | {"missing": "guess"},
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_strangers_record_is_refused(tmp_path: Path, broken: str) -> None:
    record = tasks_on(written(tmp_path / "t.csv")).record()
    assert TableFormat.of_plain(record, "x").plain() == record
    with pytest.raises(ValueError, match=r"^x: is no format of a table; take another checkpoint$"):
        TableFormat.of_plain(BROKEN[broken](record), "x")


def test_parquet_is_as_csv(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet is read by the package pyarrow")
    csv, parquet = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow.parquet")
    file = written(tmp_path / "t.csv")
    parquet.write_table(csv.read_csv(file), tmp_path / "t.parquet")
    one, other = (alone(tasks_on(tmp_path / name), "test", 2) for name in ("t.csv", "t.parquet"))
    for number in one:
        assert torch.equal(one[number].query.inputs, other[number].query.inputs)
    parquet.write_table(arrow.table({"who": ["a"], "x1": ["one"], "y": [1.0]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"^path: row 1, column 'x1': is no number, got 'one'"):
        tasks_on(tmp_path / "t.parquet").load("train")


def test_parquet_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"^path: Parquet files are read by pyarrow .* install 'litmaml\[parquet\]'"):
        tasks_on(tmp_path / "t.parquet").load("train")


def test_predictions_are_in_the_tables_own_units(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", rows=RAGGED)
    tasks = tasks_on(file, train=Episode(shots=4))
    learner = MetaLearner(MLP(2, 1, [4]), SGD(lr=0.1), loss=nn.MSELoss())
    trainer = quiet_trainer(tmp_path, callbacks=[Predictions()])
    plain: Any = trainer.predict(learner, TaskDataModule(tasks, test_tasks=2))
    lines = read(tmp_path / "predictions.csv")
    assert {(line["task"], line["group"]) for line in lines} == {
        (str(number), tasks.names_of("test", number, 0)[0]) for number in range(2)
    }
    own = {float(row["y"]) for row in read(file)}
    assert lines
    for line in lines:
        assert min(abs(float(line["target"]) - y) for y in own) < 1e-4
        assert 50 < float(line["prediction"]) < 150
    kept = load_file(tmp_path / "predictions.safetensors")
    for k, stack in enumerate(stack for batch in plain for stack in batch):
        expected = tasks.format.unscaled(stack["predictions"])
        torch.testing.assert_close(kept[f"predictions.{k}"], expected, rtol=1e-5, atol=0)


def test_predictions_that_are_of_no_column_stay_as_they_are(tmp_path: Path) -> None:
    tasks = tasks_on(written(tmp_path / "t.csv"))
    two = torch.randn(1, 5, 2)
    assert tasks.in_own_units(two, [0], 0) is two
    classes = tasks_on(tmp_path / "t.csv", targets=["kind"], kind="classification")
    assert classes.in_own_units(two[..., 0], [0], 0).equal(two[..., 0])


@pytest.mark.parametrize(("count", "again"), [(4, True), (2, False)])
def test_an_interval_over_repeated_draws_of_few_groups_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, again: bool
) -> None:
    tasks = tasks_on(written(tmp_path / "t.csv"), train=Episode(shots=4))
    learner = MetaLearner(MLP(2, 1, [4]), SGD(lr=0.1), loss=nn.MSELoss())
    quiet_trainer(tmp_path).test(learner, TaskDataModule(tasks, test_tasks=count))
    shown = capsys.readouterr().out
    said = "The 4 tasks are draws of only 2 groups" in shown and "data.test_tasks=2 takes each once" in shown
    assert said is again
    assert ("draws of only" in shown) is again
    scale = f"one standard deviation of y: {tasks.format.target_scale[0]:g}, "
    assert scale in shown
