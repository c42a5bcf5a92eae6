"""What fine-tuning a policy came to: on screen, as a report to read, as a table and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from litmaml.finetuning.report import ADAPTATION, REPORT
from litmaml.rl.policy_tuning import FROM_CHECKPOINT, FROM_RANDOM, PolicyTuned
from litmaml.runs.paths import unlinked
from litmaml.shown import code, markdown, one_line, printable
from litmaml.statistics.plots import plot_adaptation

RETURNS, TRAJECTORIES, FILM = "returns.csv", "trajectories.png", "trajectories.gif"


def write_policy_report(result: PolicyTuned, folder: Path) -> None:
    """Write ``returns.csv``, ``adaptation.png``, ``trajectories.png``, ``report.md``, and the film if there is one."""
    with unlinked(folder / RETURNS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["inner_steps", "start", "return", "half_width"])
        for start, curve in result.curves.items():
            for step, found in enumerate(curve):
                writer.writerow([step, start, f"{found.mean:.6g}", f"{found.half_width:.6g}"])
    title = f"{result.task}, {result.trajectories} trajectories"
    curves = {f"return, {start}": curve for start, curve in result.curves.items()}
    plot_adaptation(folder / ADAPTATION, curves, title)
    result.figure.savefig(unlinked(folder / TRAJECTORIES), dpi=120)
    if result.film is not None:
        unlinked(folder / FILM).write_bytes(result.film)
    unlinked(folder / REPORT).write_text("\n".join(_markdown(result, folder)), encoding="utf-8")


def print_policy_report(result: PolicyTuned, folder: Path) -> None:
    """Show the returns after each step, and what to do next."""
    table = Table("inner steps", *result.curves, title=printable(f"return on {one_line(result.task)}"))
    for step, cells in enumerate(zip(*result.curves.values(), strict=True)):
        table.add_row(str(step), *[f"{found.mean:.4g} ± {found.half_width:.2g}" for found in cells])
    console = Console()
    console.print(table)
    for line in (*_notes(result), f"written to {folder}"):
        console.print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _notes(result: PolicyTuned) -> list[str]:
    known, random = result.curves[FROM_CHECKPOINT], result.curves[FROM_RANDOM]
    notes = [
        f"Means over {result.trajectories} trajectories with their 95% intervals, after each of {len(known) - 1} inner "
        "steps, which take those of the policy before."
    ]
    if known[-1].mean <= known[0].mean:
        notes.append("Adaptation has not helped: give more trajectories, fewer steps (--steps) or another rate (--lr).")
    if known[-1].mean <= random[-1].mean:
        notes.append("The same steps from random weights do as well: the checkpoint knows nothing of this family.")
    return notes


def _markdown(result: PolicyTuned, folder: Path) -> Iterator[str]:
    start, task = code(result.checkpoint.name), markdown(one_line(result.task))
    yield from ("# Fine-tuning", "", f"From the meta-checkpoint {start}, for {task}.", "")
    yield from (*(f"- {markdown(note)}" for note in _notes(result)), "")
    yield "| inner steps |" + "".join(f" {start} |" for start in result.curves)
    yield "| ---: |" + " ---: |" * len(result.curves)
    for step, cells in enumerate(zip(*result.curves.values(), strict=True)):
        yield f"| {step} |" + "".join(f" {found.mean:.4g} ± {found.half_width:.2g} |" for found in cells)
    name = json.dumps(one_line(folder.name), ensure_ascii=False)
    yield from ("", f"![return by inner step]({ADAPTATION})", "", f"![trajectories]({TRAJECTORIES})", "")
    if result.film is not None:
        yield from (f"![before adaptation and after]({FILM})", "")
    yield from ("```python", "import litmaml", f"policy = litmaml.load({name})")
    yield from ("parameters = policy(observations)  # (n, o): means and log standard deviations, or logits", "```", "")
