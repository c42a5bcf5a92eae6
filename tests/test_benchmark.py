"""What the benchmark says of disturbed runs, and what it keeps."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from benchmarks import history, report, suite


def times(spread: float, litmaml: float = 0.5) -> dict[str, Any]:
    """Of a plain loop of a second, twice of litmaml, and of a peer."""
    loop = {"median": 1.0, "low": 1 - spread / 2, "high": 1 + spread / 2, "rounds": [1.0, 1.0], "first": 2.0}
    return {
        "PyTorch loop": loop,
        "litmaml": loop | {"median": litmaml, "rounds": [litmaml, litmaml]},
        "higher": loop | {"median": 1.5, "rounds": [1.5, 1.5]},
    }


@pytest.mark.parametrize(("spreads", "kept"), [([0.05], 0.05), ([0.3, 0.02], 0.02), ([0.3, 0.2, 0.25], 0.2)])
def test_a_disturbed_workload_is_measured_again_at_most_twice(
    spreads: list[float], kept: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to_come = iter(spreads)
    monkeypatch.setattr(suite, "_in_turns", lambda *_: times(next(to_come)))
    found = suite._undisturbed({}, "cpu", 1.0)
    assert report.unrest(found) == pytest.approx(kept)
    assert [*to_come] == []
    assert capsys.readouterr().out.count("measured again") == len(spreads) - 1


def test_a_line_per_contender_is_kept(tmp_path: Path) -> None:
    machine = {"device": "a processor", "cores": 2, "versions": {"torch": "2.13.0"}}
    workload = {"tasks": 4, "agreement": {"litmaml": 1e-16}, "seconds": times(0.04)}
    results = {"machine": machine, "workloads": {"sinusoid-1": workload}}
    file = tmp_path / "history.csv"
    for _ in range(2):
        history.add(file, report.rows(results))
    with file.open(encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    assert tuple(rows[0]) == history.COLUMNS
    assert [row["case"] for row in rows] == 2 * ["PyTorch loop", "litmaml", "higher"]
    ours = rows[1]
    assert (ours["device"], ours["torch"], ours["part"]) == ("a processor, 2 cores", "2.13.0", "sinusoid-1")
    assert (ours["ms"], ours["tasks_per_s"], ours["ratio"], ours["beside"]) == ("500", "8", "3", "higher")
    assert (ours["spread"], ours["error"]) == ("0.04", "1e-16")
    assert rows[0]["error"] == ""
    file.write_text("day,ms\n")
    with pytest.raises(ValueError, match=r"history: .*history\.csv has other columns, got day, ms; name a new file"):
        history.add(file, [])


def test_what_was_kept_has_the_columns_of_today() -> None:
    kept = Path(history.__file__).with_name("history.csv")
    with kept.open(encoding="utf-8") as opened:
        assert tuple(next(csv.reader(opened))) == history.COLUMNS
