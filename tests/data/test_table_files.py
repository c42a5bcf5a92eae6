"""A table says the same in whatever form it is written, in one file or in many."""

from __future__ import annotations

import unicodedata
import warnings
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import read, table, written

from litmaml.data import Episode, TableTasks
from litmaml.data.row_order import times
from litmaml.data.table_file import read_columns
from litmaml.tasks import SPLITS, stacks_of

NAMES = ["who", "when", "x1", "x2", "y", "kind"]
FEW = Episode(shots=3, queries=4)


def tasks_on(path: Path, **more: Any) -> TableTasks:
    return TableTasks(**{"path": str(path), "task": "who", "features": ["x*"], "targets": ["y"], "train": FEW, **more})


def all_of(tasks: TableTasks) -> list[torch.Tensor]:
    """What the first tasks of each split are, and of whom."""
    found = []
    for split in SPLITS:
        for stack in stacks_of(tasks.sample(split, range(2), 0)):
            found += [stack.support[0].inputs, stack.query.inputs, stack.query.targets]
    return found


def same(one: TableTasks, other: TableTasks) -> None:
    for left, right in zip(all_of(one), all_of(other), strict=True):
        assert torch.equal(left, right)
    assert all(one.names_of(split, 0, 0) == other.names_of(split, 0, 0) for split in SPLITS)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return written(tmp_path / "plain.csv")


def rewritten(plain: Path, file: Path, names: list[str] = NAMES, **more: Any) -> Path:
    return table(file, names, [[*row.values()] for row in read(plain)], **more)


@pytest.mark.parametrize("name", ['"x1, in mm, at 3, or 4"', '"x1\n(mm)"', '"x1 ""mm"""'])
def test_a_name_in_quotation_marks_says_nothing_of_the_delimiter(plain: Path, tmp_path: Path, name: str) -> None:
    file = rewritten(plain, tmp_path / "t.csv", delimiter=";")
    file.write_text(file.read_text().replace("x1", name, 1))
    same(tasks_on(plain), tasks_on(file))


def test_columns_are_found_in_any_form_of_unicode(plain: Path, tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "gr\u00f6\u00dfe") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    for written_as, typed in (forms, forms[::-1]):
        names = [f"{written_as} {name}" for name in NAMES]
        file = rewritten(plain, tmp_path / "t.csv", names)
        more = {"task": f"{typed} who", "features": [f"{typed} x*"], "order": f"{typed} when"}
        same(tasks_on(plain, order="when"), tasks_on(file, **more, targets=[f"{typed} y"]))
    file = rewritten(plain, tmp_path / "t.csv", ["who", "when", *(f"x {form}" for form in forms), "y", "kind"])
    with pytest.raises(ValueError, match=r"^path: .* has several columns named x gr.*; give each its own name$"):
        tasks_on(file).load("train")


def test_columns_that_are_not_used_may_have_one_name(plain: Path, tmp_path: Path) -> None:
    rows = [[*row.values(), "", ""] for row in read(plain)]
    same(tasks_on(plain), tasks_on(table(tmp_path / "t.csv", [*NAMES, "", ""], rows)))


def test_an_order_may_be_of_dates(plain: Path, tmp_path: Path) -> None:
    rows = read(plain)
    by_number = tasks_on(plain, order="when")
    for k, form in enumerate(("2024-02-{:02}", "2024-02-{:02}T09:30", "2024-02-{:02} 09:30:00+02:00")):
        dated = [[row["who"], form.format(1 + int(row["when"])), *[*row.values()][2:]] for row in rows]
        same(by_number, tasks_on(table(tmp_path / f"{k}.csv", NAMES, dated), order="when"))


def test_dates_of_several_zones_are_put_in_their_order(tmp_path: Path) -> None:
    moments = ["2024-05-01T12:00+02:00", "2024-05-01T11:00+00:00", "2024-05-01T05:00-04:00"]
    file = table(tmp_path / "t.csv", ["when"], [[moment] for moment in moments])
    found = times(read_columns(str(file), [], ["when"]), "when", "order")
    assert (found - found[0]).tolist() == [0, 3600, -3600]


def test_dates_of_a_parquet_file_are_dates(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Parquet is read by the package pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    moments = {"day": [date(2024, 3, 1), date(2024, 2, 1), None], "at": [datetime(2024, 3, 1, h) for h in (9, 8, 10)]}
    names = {"who": [1.0, float("nan"), None]}
    parquet.write_table(arrow.table(moments | names), tmp_path / "t.parquet")
    columns = read_columns(str(tmp_path / "t.parquet"), [], ["day", "at", "who"])
    day, at = (times(columns, name, "order") for name in ("day", "at"))
    assert day[0] - day[1] == 29 * 24 * 3600
    assert day[2] != day[2]
    assert (at - at[0]).tolist() == [0, -3600, 3600]
    assert columns.texts["who"].tolist() == ["1.0", "", ""]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "31.5.2024",
            r"^order: line 3, column 'when': is neither a number nor a date, as others are, got '31\.5\.2024'; w",
        ),
        (
            "2024-05-01T10:00+00:00",
            r"^order: column 'when': some dates have a time zone and others none, got both; write",
        ),
        (
            "7",
            r"^order: line 3, column 'when': is neither a number nor a date, as others are, got '7'; write all as num",
        ),
        ("", r"^order: line 3, column 'when': is empty \(1 such cells in 1 rows\); remove the row$"),
    ],
)
def test_an_order_that_is_none_is_refused(tmp_path: Path, cell: str, message: str) -> None:
    rows = [[who, f"2024-05-{1 + k:02}", k * ord(who), k, k, "a"] for who in "abcde" for k in range(6)]
    rows[1][1] = cell
    with pytest.raises(ValueError, match=message):
        tasks_on(table(tmp_path / "t.csv", NAMES, rows), features=["x1"], order="when").load("train")


def in_folder(plain: Path, folder: Path, place: str = "{name}.csv") -> Path:
    """A file for each task, without its name in it."""
    of_task: dict[str, list[list[str]]] = {}
    for row in read(plain):
        of_task.setdefault(row["who"], []).append([*row.values()][1:])
    for k, (name, rows) in enumerate(of_task.items()):
        file = folder / place.format(name=name, split=("Train", "valid", "test")[min(k // 4, 2)])
        file.parent.mkdir(parents=True, exist_ok=True)
        table(file, NAMES[1:], rows)
    return folder


def test_each_file_of_a_folder_is_a_task(plain: Path, tmp_path: Path) -> None:
    folder = in_folder(plain, tmp_path / "files")
    (folder / ".hidden.csv").write_text("no table")
    (folder / "README.txt").write_text("no table either")
    same(tasks_on(plain), tasks_on(folder, task=None))
    assert tasks_on(folder, task=None).record()["task"] is None


def test_folders_of_splits_share_out_their_files(plain: Path, tmp_path: Path) -> None:
    folder = in_folder(plain, tmp_path / "files", "{split}/site/{name}.csv")
    tasks = tasks_on(folder, task=None)
    names = {split: {tasks.names_of(split, n, 0)[0] for n in range(40 if split == "train" else 4)} for split in SPLITS}
    expected = {"train": range(4), "val": range(4, 8), "test": range(8, 10)}
    assert names == {split: {f"s{k:02}" for k in own} for split, own in expected.items()}
    (folder / "more.csv").write_bytes((folder / "Train" / "site" / "s00.csv").read_bytes())
    with pytest.raises(
        ValueError, match=r"^path: 10 of 11 tables lie in the folder of a split, .*: more\.csv; put all"
    ):
        tasks_on(folder, task=None).load("train")


def test_many_files_may_name_their_tasks_in_a_column(plain: Path, tmp_path: Path) -> None:
    rows = [[*row.values()] for row in read(plain)]
    for name, some in (("one", rows[:50]), ("two", rows[50:])):
        (tmp_path / "days" / name).mkdir(parents=True)
        table(tmp_path / "days" / name / "day.csv", NAMES, some)
    same(tasks_on(plain), tasks_on(tmp_path / "days"))
    with pytest.raises(
        ValueError, match=r"^path: several tables in .* are named day; each is a task: give each its own"
    ):
        tasks_on(tmp_path / "days", task=None).load("train")


def test_what_is_wrong_in_a_folder_names_the_file(plain: Path, tmp_path: Path) -> None:
    folder = in_folder(plain, tmp_path / "files")
    with pytest.raises(ValueError, match=r"^task: has to be the column that names the task of each row, got none for"):
        tasks_on(plain, task=None).load("train")
    wrong = folder / "s03.csv"
    good = wrong.read_text()
    for bad, message in (
        (good.replace("high", "high,more", 1), r"^path: s03\.csv: line \d+ has 6 cells"),
        (good.replace("x2", "z", 1), r"^path: s03\.csv: .* has no column x2"),
        (good + "1,,2,3,low\n", r"^features: line 14 of s03\.csv, column 'x1': is empty"),
    ):
        wrong.write_text(bad)
        with pytest.raises(ValueError, match=message):
            tasks_on(folder, task=None).load("train")
    (tmp_path / "none").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"^path: there is no table in the folder .*; put files there that end in"
    ):
        tasks_on(tmp_path / "none", task=None).load("train")


def test_few_possible_values_are_no_copies(tmp_path: Path) -> None:
    """Rows that are alike by chance are told of; nothing is refused that cannot be helped."""
    coins = torch.Generator().manual_seed(0)
    rows = [[who, k, *torch.randint(2, (3,), generator=coins).tolist(), "a"] for who in "abcdefghij" for k in range(9)]
    file = table(tmp_path / "t.csv", NAMES, rows)
    with pytest.warns(UserWarning, match=r"^task: \d+ rows stand in two splits; if they are of one task, give it one"):
        tasks_on(file).load("train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all_of(tasks_on(file))
