"""A diagnosis on screen, as JSON and as a picture."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from litmaml.diagnosis.diagnose import Diagnosis
from litmaml.diagnosis.picture import plot_diagnosis
from litmaml.measure.estimate import Estimate
from litmaml.measure.estimator_errors import EstimatorError
from litmaml.runs.json_text import json_text
from litmaml.runs.paths import unlinked
from litmaml.shown import printable


def print_diagnosis(found: Diagnosis, console: Console | None = None) -> None:
    """The tables, and the recommendations in words."""
    console = console or Console()
    console.print(printable(", ".join(f"{k}: {v}" for k, v in found.setting.items())), highlight=False, markup=False)
    quantities = _quantities(found)
    console.print(_intervals(quantities))
    for note, names in _by_note(quantities).items():
        console.print(f"[dim]{', '.join(names)}: {escape(note)}.[/dim]", highlight=False)
    console.print(_errors(found))
    console.print(_costs(found))
    console.print(_memory(found))
    for row in found.estimators:
        if row.refused:
            console.print(f"{row.name} is refused: {escape(row.refused)}", highlight=False)
    console.print(_rates(found))
    if note := found.advice.meta_step.note:
        console.print(f"[dim]beta: {escape(note)}.[/dim]", highlight=False)
    for remark in found.remarks:
        console.print(f"Note: {escape(remark)}.", highlight=False)
    console.print("\n[bold]Recommended[/bold]")
    for choice in found.advice.choices:
        console.print(f"[bold]{choice.what}: {escape(choice.value)}[/bold]", highlight=False)
        reason = f"{choice.reason[0].upper()}{choice.reason[1:]}."
        console.print(Padding(escape(reason), (0, 0, 0, 4)), highlight=False)


def write_diagnosis(found: Diagnosis, folder: Path) -> list[Path]:
    """Writes ``diagnosis.json`` and ``diagnosis.png`` and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, picture = folder / "diagnosis.json", folder / "diagnosis.png"
    unlinked(data).write_text(json_text(found.as_dict()), encoding="utf-8")
    plot_diagnosis(found, picture)
    return [data, picture]


def _quantities(found: Diagnosis) -> list[tuple[str, Estimate]]:
    noise, advice, curvature = found.noise, found.advice, found.curvature
    means = zip(curvature.points, curvature.by_point, strict=True)
    return [
        ("L, largest curvature of a task", curvature.smoothness),
        *((f"    mean over tasks after {point} steps", mean) for point, mean in means),
        ("rho, Lipschitz constant of the Hessian", curvature.hessian_lipschitz),
        ("norm of task gradients", noise.gradient_norm),
        ("sigma, spread of task gradients", noise.task_spread),
        (f"gradient noise of {noise.samples} support examples", noise.support_noise),
        ("sigma~, noise of one example", noise.sample_noise),
        (f"Hessian noise of {noise.samples} support examples", noise.hessian_noise),
        ("outer bias by the support's size", advice.adaptation_bias),
        ("noise scale of the meta-batch", advice.batches.noise_scale),
    ]


def _intervals(quantities: list[tuple[str, Estimate]]) -> Table:
    table = Table(title="Curvature and noise, with 95% intervals")
    table.add_column("quantity", no_wrap=True)
    table.add_column("estimate", justify="right", no_wrap=True)
    for name, estimate in quantities:
        table.add_row(name, str(estimate))
    return table


def _by_note(quantities: list[tuple[str, Estimate]]) -> dict[str, list[str]]:
    """The quantities' short names by what they rest on."""
    notes: dict[str, list[str]] = {}
    for name, estimate in quantities:
        if estimate.note:
            notes.setdefault(estimate.note, []).append(name.partition(",")[0])
    return notes


def _errors(found: Diagnosis) -> Table:
    table = Table(title="Outer gradients: error against the exact one")
    for column in ("", "error", "worst", "bias", "std", "cosine"):
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column), overflow="fold")
    for row in found.estimators:
        if not row.refused:
            numbers = (_share(row.error), _share(row.worst), _bias(row), _share(row.deviation))
            table.add_row(_shown(row), *numbers, f"{row.cosine:.3f}")
    table.caption = (
        "error: root mean square, of one task; bias: of the mean over tasks; std: of one task, by task and draw, as "
        "a share of that mean"
    )
    return table


def _costs(found: Diagnosis) -> Table:
    table = Table(title="Outer gradients: cost of one task")
    for column in ("", "gradients", "losses", "HVPs", "time", "memory"):
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column), overflow="fold")
    for row in found.estimators:
        if row.cost is not None:
            counts = (row.cost.gradients, row.cost.losses, row.cost.hessian_products)
            table.add_row(_shown(row), *map(str, counts), f"{row.time:.2g}", f"{row.memory:.2g}")
    table.caption = "time and memory: FirstOrder = 1; HVPs: exact Hessian-vector products"
    return table


def _memory(found: Diagnosis) -> Table:
    steps, chunk = found.setting["inner_steps"], found.setting["tasks_per_chunk"]
    table = Table(title="Outer gradients: memory of a chunk of T tasks by N >= 2 steps, MB")
    tasks = "1 task" if chunk == 1 else f"{chunk} tasks"
    for column in ("", "shared", "+ T (task", "+ N step)", f"{tasks}, N = {max(steps, 2)}"):
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column), overflow="fold")
    for row in found.estimators:
        if row.cost is not None:
            held = row.cost.memory
            numbers = (held.shared, held.task, held.step, held.megabytes(chunk, max(steps, 2)))
            table.add_row(_shown(row), *(f"{number:.{2 if number < 10 else 0}f}" for number in numbers))
    table.caption = f"beyond weights and data; {tasks}: what a chunk has by default"
    return table


def _rates(found: Diagnosis) -> Table:
    rates, batches = found.advice.rates, found.advice.batches
    table = Table(title="What the theory says")
    table.add_column("quantity", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("configured", justify="right")
    own = f"{rates.configured:.3g}"
    table.add_row("inner rate: stable below 2/L", f"{rates.stable:.3g}", own)
    table.add_row("inner rate: Fallah et al., 1/L", f"{rates.fallah:.3g}", own)
    table.add_row("inner rate: Ji et al., (2^(1/(2N)) - 1)/L", f"{rates.ji:.3g}", own)
    table.add_row("inner rate: Ji et al., 1/(8NL)", f"{rates.ji_corollary:.3g}", own)
    table.add_row("beta, outer step of plain gradient descent", str(found.advice.meta_step), "")
    table.add_row("meta-batch", str(batches.recommended), str(batches.configured))
    for name, value in (
        ("D_h, examples for a Hessian product", batches.hessian_samples),
        ("B', tasks for beta's own gradients", batches.step_tasks),
        ("D_beta, examples for beta's own gradients", batches.step_samples),
    ):
        table.add_row(name, "cannot be told" if value is None else f"at least {value}", "")
    return table


def _shown(row: EstimatorError) -> str:
    """The name, which a narrow screen may break before its settings."""
    return row.name.removesuffix("()").replace("(", " (")


def _share(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if value >= 10:
        return f"{value:.1e}"
    return f"{100 * value:.2g}%" if 1e-3 < value < 1 else f"{100 * value:.0f}%" if value >= 1 else f"{value:.0e}"


def _bias(row: EstimatorError) -> str:
    """What is not told apart from zero is given as its bound."""
    return _share(row.bias) if row.bias else f"< {_share(row.bias_below)}" if row.bias_below else "0"
