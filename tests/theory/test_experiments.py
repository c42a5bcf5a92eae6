"""Every experiment runs, is judged and drawn: thinned here, at full size in the slow tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import reproduce
from experiments import EXPERIMENTS
from experiments.experiment import Check, Row, below, mean_of, within

# Pass lines that need the full size: their claims begin so.
FULL_SIZE = {
    "quadratics": (),
    "fallah-figure-2": ("A4: 2b, mean", "A4: 2c, mean"),
    "first-order-floor": (),
    "ji-figure-1": ("A5: F, ZO", "A5: |grad F|, FO", "A5'", "A5: F, |GGS"),
    "estimators": ("A10",),
    "precision": (),
    "cost": ("A6: time", "A7: time"),
    "step-size": ("A9: mean |grad F|",),
    "methods": ("B4", "B5", "B6", "B8"),
    "reinforcement-learning": ("R8", "R9"),
    "sinusoid": ("A8: tanh", "A8: ... GGS", "A8: ... MAML over joint", "A8: ... FO"),
}


@cache
def thinned(name: str) -> list[Row]:
    experiment = EXPERIMENTS[name]
    return [row for case in experiment.cases(1, True) for row in experiment.rows_of(case)]


LONG = {
    "cost",
    "estimators",
    "fallah-figure-2",
    "ji-figure-1",
    "methods",
    "precision",
    "quadratics",
    "reinforcement-learning",
    "sinusoid",
    "step-size",
}  # however thin


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in EXPERIMENTS])
def test_thinned(name: str) -> None:
    experiment, rows = EXPERIMENTS[name], thinned(name)
    checks = experiment.judge(rows)
    due = [check for check in checks if not check.claim.startswith(FULL_SIZE[name])]
    assert due
    assert not [check for check in due if not check.passed]
    assert isinstance(experiment.draw(rows), Figure)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_full_size(name: str, tmp_path: Path) -> None:
    assert reproduce.main([name, "--seeds", "3", "--out", str(tmp_path)]) == 0


@pytest.mark.slow
def test_the_command_writes_figure_numbers_and_verdict(tmp_path: Path) -> None:
    out = tmp_path / "new"
    assert reproduce.main(["first-order-floor", "--thin", "--seeds", "1", "--jobs", "1", "--out", str(out)]) == 0
    assert (out / "first-order-floor.png").read_bytes().startswith(b"\x89PNG")
    header, *lines = (out / "first-order-floor.csv").read_text().splitlines()
    assert {"alpha", "spread", "floor", "radius", "seed"} <= set(header.split(","))
    assert len(lines) > 15
    verdict = (out / "first-order-floor.txt").read_text()
    assert "pass  A3b: FO: " in verdict
    assert "FAIL" not in verdict


def test_a_pass_line_that_fails_gives_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = EXPERIMENTS["first-order-floor"]
    rows = [{**row, "floor": 1e-3} if row.get("method") == "MAML" else row for row in thinned(experiment.name)]
    monkeypatch.setattr(reproduce, "run_all", lambda *_: iter([(experiment, [(rows, 1.0)])]))
    assert reproduce.main(["first-order-floor", "--out", str(tmp_path)]) == 1
    assert "FAIL  A3b: MAML: 0.001 < 1e-12" in (tmp_path / "first-order-floor.txt").read_text()
    assert "10 of 11 pass lines hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"), [(["nothing"], "invalid choice"), (["all", "--seeds", "0"], "--seeds")]
)
def test_a_wrong_call_is_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        reproduce.main(arguments)
    assert message in capsys.readouterr().err


def test_checks_take_no_nan_for_a_pass() -> None:
    nan = float("nan")
    assert below("claim", 1, 2) == Check("claim", "1 < 2", True)
    assert not below("claim", nan, 2).passed
    assert not within("claim", nan, 0, 1).passed
    with pytest.raises(ValueError, match="no row has"):
        mean_of([], "x", method="MAML")
