"""Results in a table on the screen, with what they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table

from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterGradient
from litmaml.shown import printable
from litmaml.statistics.interval import Interval, cell, in_order
from litmaml.statistics.results import Results
from litmaml.tasks import Split


class Evaluated(Protocol):
    """A learner whose tasks were evaluated."""

    inner_loop: InnerLoop
    outer_gradient: OuterGradient
    inner_steps: int
    skipped_tasks: int
    evaluated_tasks: int
    results: Results
    source_results: dict[str, dict[str, list[Interval]]]
    baseline_results: dict[str, dict[str, Interval]]

    @property
    def normalisation(self) -> str: ...


def describe_protocol(trainer: Trainer, learner: Evaluated, split: Split) -> dict[str, Any]:
    """What a result on a split stands for."""
    data: Any = getattr(trainer, "datamodule", None)
    tasks = getattr(data, "tasks", None)
    protocol: dict[str, Any] = {"data": type(tasks).__name__} if tasks is not None else {}
    if tasks is not None:
        protocol |= tasks.describe(split) | {"seed": data.seed}
    return protocol | {
        "tasks": learner.evaluated_tasks,
        "model": type(learner.inner_loop.model).__name__,
        "normalisation": learner.normalisation,
        "outer_gradient": type(learner.outer_gradient).__name__,
        "trained_inner_steps": learner.inner_steps,
        "skipped_tasks": learner.skipped_tasks,
        "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
    }


def print_results(
    results: Mapping[str, Sequence[Interval]],
    protocol: Mapping[str, Any],
    baselines: Mapping[str, Mapping[str, Interval]] | None = None,
    sources: Mapping[str, Mapping[str, Sequence[Interval]]] | None = None,
) -> None:
    """The table of results after each inner step, with the last of each source and those of the baselines below."""
    names = in_order(results)
    table = Table()
    table.add_column("inner steps", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    steps = len(results[names[0]])
    for step in range(steps):
        cells = [cell(name, results[name][step]) for name in names]
        table.add_row(str(step), *cells, end_section=step + 1 == steps)
    for source, curves in (sources or {}).items():
        table.add_row(printable(source), *[cell(name, curves[name][-1]) for name in names])
    for baseline, found in (baselines or {}).items():
        cells = [cell(name, found[name]) if name in found else "" for name in names]
        table.add_row(baseline.replace("_", " "), *cells)
    console = Console()
    # Not as the table's title, which is broken to the width of the table.
    title = f"{title_of(protocol)}: mean and 95% interval over {protocol.get('tasks', '?')} tasks"
    console.print(printable(title), soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    if again := _drawn_again(protocol):
        console.print(again, soft_wrap=True, highlight=False, markup=False)
    hidden = ("data", "tasks", "checkpoint")
    console.print(
        printable(", ".join(f"{k}: {_shown(v)}" for k, v in protocol.items() if k not in hidden)),
        soft_wrap=True,
        highlight=False,
        markup=False,
    )


def _shown(value: object) -> str:
    """A setting or a scale as a person reads it; the file has all digits."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _drawn_again(protocol: Mapping[str, Any]) -> str:
    """What an interval does not say where the same groups, such as patients, are drawn again and again."""
    tasks, groups = protocol.get("tasks", 0), protocol.get("groups", 0)
    if not 1 < groups < tasks:
        return ""
    return (
        f"The {tasks} tasks are draws of only {groups} groups: the interval is of the mean over these, and too narrow "
        f"for others; data.{protocol.get('split', 'test')}_tasks={groups} takes each once, for an interval over groups."
    )


def title_of(protocol: Mapping[str, Any]) -> str:
    """What was evaluated, in few words."""
    size = f", {protocol['ways']}-way {protocol['shots']}-shot" if "ways" in protocol else ""
    return f"{protocol.get('data', 'test')}{size}"
