"""The script that draws metrics of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import learning_curve

LINES = ["step,train/steps,val/return", "0,100,", "0,,-3.5", "1,200,", "1,,2.5"]


def test_a_metric_stands_where_it_was_measured(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join(LINES), encoding="utf-8")
    out = tmp_path / "curve.png"
    learning_curve.main([str(tmp_path), "--metrics", "val/return", "--against", "train/steps", "--out", str(out)])
    assert out.stat().st_size > 1000
    rows = [dict(zip(LINES[0].split(","), line.split(","), strict=True)) for line in LINES[1:]]
    assert learning_curve.points(rows, "val/return", "train/steps") == ([100.0, 200.0], [-3.5, 2.5])
    (line,) = learning_curve.draw(rows, ["val/return"], "step").axes[0].get_lines()
    assert np.asarray(line.get_xdata()).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--metrics", "loss"], "no column 'loss'; one of step"), (["--metrics", "val/return", "--against", "t"], "'t'")],
)
def test_a_column_that_is_none_is_named(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs" / "version_0").mkdir(parents=True)
    (tmp_path / "logs" / "version_0" / "metrics.csv").write_text("\n".join(LINES), encoding="utf-8")
    with pytest.raises(SystemExit):
        learning_curve.main([str(tmp_path), *arguments])
    assert message in capsys.readouterr().err
