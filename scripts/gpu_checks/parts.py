"""What a check is made of: cases, each a number that has to lie below its tolerance, in parts that are written as they
go, so that a run that is cut off, or a case that raises, leaves the rest."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import history


@dataclass(frozen=True)
class Setting:
    """Where to compute, whether in seconds instead of minutes, when to have ended by ``time.monotonic``, and a folder
    with Omniglot."""

    device: torch.device
    small: bool
    until: float
    data: Path | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


@dataclass(frozen=True)
class Case:
    """``measure`` gives an error that has to be at most the tolerance; what it adds to ``notes`` is recorded too."""

    name: str
    tolerance: float
    measure: Callable[[], float]
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Cases that belong together."""

    name: str
    cases: Callable[[Setting], Iterable[Case]]

    def only(self, text: str) -> Part:
        """The same of those cases whose name has the text in it."""
        return Part(self.name, lambda setting: (case for case in self.cases(setting) if text in case.name))


def run_parts(parts: Sequence[Part], setting: Setting, about: dict[str, Any], file: Path) -> dict[str, Any]:
    """Run the parts in turn and return what was found, which the file has after every case."""
    found: dict[str, Any] = {"about": about, "parts": {part.name: {"state": "not begun"} for part in parts}}
    _write(file, found)
    for part in parts:
        began = time.monotonic()
        record: dict[str, Any] = {"state": "cut off", "seconds": 0.0, "cases": []}
        found["parts"][part.name] = record
        for case in part.cases(setting):
            if setting.left <= 0:
                break
            record["cases"].append(_run(case))
            record["seconds"] = round(time.monotonic() - began, 2)
            _write(file, found)
        else:
            rows = record["cases"]
            record["state"] = ("agrees" if all(row["agrees"] for row in rows) else "FAILS") if rows else "left out"
        _write(file, found)
    return found


def _run(case: Case) -> dict[str, Any]:
    began = time.monotonic()
    row: dict[str, Any] = {"case": case.name, "tolerance": case.tolerance, "agrees": False}
    try:
        measured = case.measure()
        # JSON has no infinity.
        row |= {"error": measured if math.isfinite(measured) else str(measured), "agrees": measured <= case.tolerance}
    except Exception:  # whatever a device, its driver or its compiler raises; the other cases go on
        row["traceback"] = traceback.format_exc()
    return row | case.notes | {"seconds": round(time.monotonic() - began, 3)}


def _write(file: Path, found: dict[str, Any]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(f".{file.name}")
    with scratch.open("w", encoding="utf-8") as opened:
        opened.write(json.dumps(found, indent=1) + "\n")
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(scratch, file)


_FIGURES = {
    "ms": "ms",
    "ms_per_step": "ms a step",
    "steps_by_meta_gradients": "meta-gradients a step",
    "tasks_per_s": "tasks/s",
    "launches": "kernels",
    "busy_ms": "ms busy",
    "peak_MB": "MB",
    "chosen": "convolutions",
    "grouped_ms": "ms grouped",
    "patches_ms": "ms by patches",
    "TFLOP_per_s": "TFLOP/s",
    "TB_per_s": "TB/s",
    "forward": "[ms, TFLOP/s] forward",
    "by_input": "by input",
    "by_weight": "by weight",
    "steps": "steps",
    "accuracy_by_step": "accuracy by inner step",
    "interval": "half interval",
}
"""What a case notes that is told in the table, with its unit."""


def table(found: dict[str, Any]) -> str:
    """A line per part, and under it each case that fails."""
    lines = [f"{'part':22} {'state':10} {'cases':>6} {'seconds':>8}  nearest to its tolerance"]
    for name, part in found["parts"].items():
        rows = part.get("cases", [])
        measured = [row for row in rows if isinstance(row.get("error"), float | int)]
        worst = max(measured, key=lambda row: row["error"] / (row["tolerance"] or 1), default=None)
        told = f"{worst['case']}: {worst['error']:.1e} of {worst['tolerance']:.0e}" if worst else ""
        lines.append(f"{name:22} {part['state']:10} {len(rows):6} {part.get('seconds', 0.0):8.1f}  {told}")
        for row in rows:
            figures = [f"{_shown(row[key])} {unit}" for key, unit in _FIGURES.items() if row.get(key) is not None]
            if figures:
                lines.append(f"    {row['case']:34} " + ", ".join(figures))
            if not row["agrees"]:
                *_, why = row.get("traceback", f"{row.get('error')} > {row['tolerance']}").strip().splitlines()
                lines.append(f"    {row['case']}: {why[:200]}")
    return "\n".join(lines)


def add_history(file: Path, found: dict[str, Any]) -> None:
    """Add a line per timed case: device and torch, the case, and its figures."""
    about = {"device": found["about"]["device"], "torch": found["about"]["torch"]}
    timed = (
        row | about | {"part": name, "ms": row.get("ms", row.get("ms_per_step"))}
        for name, part in found["parts"].items()
        for row in part.get("cases", [])
    )
    history.add(file, (row for row in timed if row["ms"] is not None))


def _shown(figure: Any) -> str:
    return str(figure) if isinstance(figure, list | str) else f"{figure:,}"
