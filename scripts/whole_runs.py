"""Runs and their tests, which several scripts make many of: begun, gone on with, or read where they were done before;
and the tables of what they came to."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litmaml.cli.main import main as litmaml
from litmaml.shown import first_line


def whole_run(place: Path, fit: Sequence[str]) -> tuple[dict[str, Any], float]:
    """Train and test.

    Args:
        place: The run's folder. Where a run was interrupted in it, it goes on.
        fit: What is typed after ``litmaml fit``.

    Returns:
        What ``test_results.json`` holds, and the seconds that this call trained for.
    """
    quiet = [f"--trainer.default_root_dir={place}", "--trainer.enable_progress_bar=false"]
    again = ["--ckpt_path=last"] if (place / "checkpoints" / "last.ckpt").is_file() else []
    began = time.perf_counter()
    litmaml(["fit", *fit, *quiet, *again])
    trained = time.perf_counter() - began
    litmaml(["test", f"--ckpt_path={place}", *quiet])
    return json.loads((place / "test_results.json").read_text(encoding="utf-8")), trained


def tested_row(place: Path, fit: Sequence[str]) -> dict[str, Any]:
    """What a run came to after its last inner step: mean and half width of its metrics, its baselines, its seconds.

    It is kept in ``row.json``, by which a run that is tested is not run again. A run that fails, as of a task that is
    not finite, gives a row with the reason, and nothing is kept.
    """
    kept = place / "row.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    try:
        results, trained = whole_run(place, fit)
    except (ValueError, FloatingPointError) as error:
        return {"failed": first_line(error)}
    last = results["steps"][-1]
    found = {"seconds": round(trained, 1), "test_inner_steps": last["inner_steps"]}
    for metric in ("accuracy", "loss"):
        if metric in last:
            found |= {metric: last[metric]["mean"], f"{metric}_half_width": last[metric]["half_width"]}
    for baseline, values in results.get("baselines", {}).items():
        if "accuracy" in values:
            found[baseline] = values["accuracy"]["mean"]
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def write_csv(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """The rows, with a column for whatever one of them has."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of rows that have the same columns."""
    heads = list(rows[0])
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(_cell(row[head]) for head in heads) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
