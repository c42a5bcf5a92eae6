"""``litmaml finetune`` and ``litmaml classify`` on the rows of a table."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

import litmaml
from litmaml.cli.main import main
from litmaml.data import Episode, TableTasks, TaskDataModule
from litmaml.data.table_format import TableFormat
from litmaml.finetuning.labelled_rows import read_rows
from litmaml.finetuning.meta_checkpoint import open_checkpoint
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from quiet_trainer import quiet_trainer

SLOPES = {"a": (1.0, 2.0), "b": (-2.0, 0.5), "c": (0.5, -1.0), "d": (1.5, 1.0), "e": (-1.0, -1.0), "new": (2.0, -1.5)}


def lines(who: str, count: int) -> list[list[object]]:
    """Rows of a task: y = 50 + slopes * x, and whether that is high."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(ord(who[0])))
    y = 50 + x @ torch.tensor(SLOPES[who])
    return [
        [who, k, *row, float(z), "high" if z > 50 else "low"]
        for k, (row, z) in enumerate(zip(x.tolist(), y, strict=True))
    ]


def write(file: Path, rows: list[list[object]], names: str = "who,when,x1,x2,y,kind") -> Path:
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([names.split(","), *rows])
    return file


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.fixture(scope="session", params=["regression", "classification"])
def table_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table that is gone by now."""
    folder = tmp_path_factory.mktemp(request.param)
    values = request.param == "regression"
    file = write(folder / "t.csv", [row for who in "abcde" for row in lines(who, 40)])
    tasks = TableTasks(
        str(file), ["x*"], ["y" if values else "kind"], "who", request.param, "when", train=Episode(shots=10)
    )
    torch.manual_seed(0)
    loss = nn.MSELoss() if values else nn.CrossEntropyLoss()
    learner = MetaLearner(MLP(2, 1 if values else 2, [8]), SGD(lr=0.3), loss=loss, inner_steps=5)
    trainer = quiet_trainer(folder, max_steps=4, limit_val_batches=0)
    trainer.fit(learner, TaskDataModule(tasks, meta_batch=4, train_tasks=16, val_tasks=1))
    for name in ("best", "last"):
        trainer.save_checkpoint(folder / "checkpoints" / f"{name}.ckpt")
    file.unlink()
    return folder


def finetune(run: Path, data: Path, output: Path, *more: str) -> list[dict[str, str]]:
    main(["finetune", "--checkpoint", str(run), "--data", str(data), "--output", str(output), *more])
    return read(output / "predictions.csv")


def test_from_a_few_rows_to_later_ones(table_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By rows of a query, by rows without a target, by the model that was kept: the same predictions."""
    rows, values = lines("new", 60), "regression" in table_run.name
    support = write(tmp_path / "support.csv", rows[:40])
    query = write(tmp_path / "query.csv", rows[40:])
    found = finetune(table_run, support, tmp_path / "out", "--query", str(query), "--steps", "30")
    shown = capsys.readouterr().out
    assert [row["line"] for row in found] == [str(k) for k in range(2, 22)]
    true = [row[4] if values else row[5] for row in rows[40:]]
    if values:
        said = torch.tensor([float(row["predicted y"]) for row in found])
        wanted = torch.tensor(true)
        assert torch.allclose(torch.tensor([float(row["y"]) for row in found]), wanted, atol=1e-4)
        error, plain = (
            (said - wanted).abs().mean(),
            (torch.tensor([row[4] for row in rows[:40]]).mean() - wanted).abs().mean(),
        )
        assert error < plain / 2
        assert f"{error:.3g}"[:4] in shown
        assert f"{plain:.3g}"[:4] in shown
    else:
        right = sum(row["class"] == label == row["label"] for row, label in zip(found, true, strict=True))
        assert right >= 16
        assert f"{right / 20:.4g}" in shown
    report = (tmp_path / "out" / "report.md").read_text()
    assert "query loss" in report
    assert "20 rows of the query" in report

    blank = [[*row[:4], "", ""] if k >= 40 else row for k, row in enumerate(rows)]
    again = finetune(table_run, write(tmp_path / "both.csv", blank), tmp_path / "both", "--steps", "30")
    name = "predicted y" if values else "class"
    assert [row[name] for row in again] == [row[name] for row in found]
    assert [row["line"] for row in again] == [str(k) for k in range(42, 62)]
    assert {*again[0]} == {"line", name, *([] if values else ["probability"])}

    only = write(tmp_path / "only.csv", [row[2:4] for row in rows[40:]], "x1,x2")
    main(["classify", "--model", str(tmp_path / "out"), "--table", str(only), "--output", str(tmp_path / "p.csv")])
    assert [row[name] for row in read(tmp_path / "p.csv")] == [row[name] for row in found]
    model = litmaml.load(tmp_path / "out")
    assert model.table == open_checkpoint(table_run).table
    assert len(model.predict_rows(only)[1]) == 20


def test_without_a_query_the_last_rows_are_left_out(table_run: Path, tmp_path: Path) -> None:
    finetune(table_run, write(tmp_path / "t.csv", lines("new", 20)), tmp_path / "out")
    assert "4 of 20 rows of the support, left out as the last by when" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("names", "query", "message"),
    [
        ("who,when,x1,x3,y,kind", False, "data: .* has no column x2; the columns are who, when, x1, x3"),
        (
            "who,when,x1,x2,z,sort",
            False,
            "data: no row has a value in the column (y|kind), got",
        ),
        ("who,when,x1,x2,y,kind", True, r"query: 5 of 5 rows stand in --data too \(line 2, 3, 4 and 2 more\)"),
    ],
)
def test_what_is_wrong_is_named(table_run: Path, tmp_path: Path, names: str, query: bool, message: str) -> None:
    data = write(tmp_path / "t.csv", lines("new", 12), names)
    more = ["--query", str(write(tmp_path / "q.csv", lines("new", 12)[:5]))] if query else []
    with pytest.raises(SystemExit, match=f"^litmaml finetune: {message}"):
        finetune(table_run, data, tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_rows_of_two_tasks_are_refused(table_run: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", [*lines("new", 3), *lines("a", 3)])
    with pytest.raises(SystemExit, match=r"data: has rows of 2 tasks by the column 'who' \(a, new\); give"):
        finetune(table_run, data, tmp_path / "out")


def test_a_folder_is_no_table(table_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"data: the checkpoint was trained on a table, got .*; give a CSV, TSV or Parq"
    ):
        finetune(table_run, tmp_path, tmp_path / "out")


def test_a_checkpoint_of_other_tasks_takes_no_rows(sinusoid_run: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "t.csv", lines("new", 3))
    with pytest.raises(SystemExit, match=r"not trained on TableTasks, and takes no rows, got .*; give a folder"):
        finetune(sinusoid_run, data, tmp_path / "out")


def test_a_test_on_another_table_is_standardised_as_in_training(table_run: Path, tmp_path: Path) -> None:
    """Of two tables that say the same in other rows, the losses of the same test task are the same."""
    values = "regression" in table_run.name
    losses = []
    for others in ("abcd", "ab"):
        rows = [[*row, "train" if row[0] != "e" else "test"] for who in (*others, "e") for row in lines(who, 40)]
        file = write(tmp_path / f"{others}.csv", rows, "who,when,x1,x2,y,kind,split")
        torch.manual_seed(0)
        tasks = TableTasks(
            str(file), ["x*"], ["y" if values else "kind"], "who",
            "regression" if values else "classification", "when", split_column="split", train=Episode(shots=10),
        )  # fmt: skip
        learner = MetaLearner(
            MLP(2, 1 if values else 2, [8]), SGD(lr=0.3), loss=nn.MSELoss() if values else nn.CrossEntropyLoss()
        )
        trainer = quiet_trainer(tmp_path)
        data = TaskDataModule(tasks, test_tasks=1)
        trainer.test(learner, data, ckpt_path=str(table_run / "checkpoints" / "best.ckpt"), weights_only=True)
        losses.append(learner.results["loss"][-1].mean)
    assert losses[0] == losses[1]


def test_rows_are_put_in_the_order_of_their_dates(tmp_path: Path) -> None:
    made = TableFormat(("x",), (0.0,), (1.0,), ("y",), (0.0,), (1.0,), None, None, "when")
    days = ["2024-03-01", "2023-12-31", "2024-02-29T12:00"]
    file = write(tmp_path / "t.csv", [[day, k, 10 * k if k else ""] for k, day in enumerate(days)], "when,x,y")
    rows = read_rows(str(file), made, "data")
    assert rows.inputs[:, 0].tolist() == [1, 2, 0]
    assert rows.lines.tolist() == [3, 4, 2]
    assert rows.known.tolist() == [True, True, False]
    assert rows.labelled().targets[:, 0].tolist() == [10, 20]
    write(file, [["2024-03-01", 1, 2], ["soon", 2, 3]], "when,x,y")
    with pytest.raises(ValueError, match=r"^data: line 3, column 'when': is neither a number nor a date"):
        read_rows(str(file), made, "data")
