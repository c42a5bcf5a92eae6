"""What fine-tuning on rows came to: on screen, as a report to read, as a table and a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from litmaml.data.table_format import TableFormat
from litmaml.finetuning.labelled_rows import Rows
from litmaml.finetuning.report import ADAPTATION, PREDICTIONS, REPORT
from litmaml.finetuning.row_tuning import RowsTuned, Score
from litmaml.runs.paths import unlinked
from litmaml.shown import code, markdown, one_line, printable, table_cell
from litmaml.statistics.interval import Interval
from litmaml.statistics.plots import Measured, plot_adaptation


def write_row_report(result: RowsTuned, folder: Path) -> None:
    """Write ``predictions.csv``, ``adaptation.png`` and ``report.md``."""
    write_row_predictions(unlinked(folder / PREDICTIONS), result.rows, result.predictions, result.made)
    curves: dict[str, list[Measured]] = {"loss": [Interval(step.loss, 0.0) for step in result.curve]}
    if result.query_losses:
        curves = {"query loss": [Interval(loss, 0.0) for loss in result.query_losses], **curves}
    plot_adaptation(folder / ADAPTATION, curves, f"{result.support} rows")
    unlinked(folder / REPORT).write_text(_markdown(result, folder), encoding="utf-8")


def write_row_predictions(path: Path, rows: Rows, predictions: Tensor, made: TableFormat) -> None:
    """Write a CSV file of each row's line, what was predicted, and the true value or class where it is known.

    Values are in the table's own units.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(predicted_rows(rows, predictions, made))


def predicted_rows(rows: Rows, predictions: Tensor, made: TableFormat) -> Iterator[Sequence[object]]:
    """The names of the columns, then the cells of each row, as ``write_row_predictions`` has them."""
    known = rows.known.tolist()
    if made.classes is not None:
        best = predictions.softmax(1).max(1)
        yield ["line", "class", "probability", *(["label"] if any(known) else [])]
        for k, line in enumerate(rows.lines.tolist()):
            label = [table_cell(made.classes[int(rows.targets[k])]) if known[k] else ""] if any(known) else []
            yield [line, table_cell(made.classes[int(best.indices[k])]), f"{float(best.values[k]):.6f}", *label]
        return
    said, true = (made.unscaled(part.reshape(len(rows), -1)).tolist() for part in (predictions, rows.targets))
    names = [table_cell(name) for name in made.targets]
    yield ["line", *(f"predicted {name}" for name in names), *(names if any(known) else [])]
    for k, line in enumerate(rows.lines.tolist()):
        truth = [f"{value:.7g}" if known[k] else "" for value in true[k]] if any(known) else []
        yield [line, *(f"{value:.7g}" for value in said[k]), *truth]


def print_row_report(result: RowsTuned, folder: Path) -> None:
    """Show what matters: scores beside those without a model, and what to do next."""
    console = Console()
    if result.scores:
        table = Table("target", "measured", "model", _plain(result.made), title=Text(one_line(result.method)))
        for score in result.scores:
            table.add_row(Text(one_line(score.of)), score.measure, f"{score.value:.4g}", f"{score.plain:.4g}")
        console.print(table)
    for line in _notes(result):
        console.print(printable(line), markup=False, highlight=False)
    next_one = f"written to {folder}; predict further rows: litmaml classify --model {folder} --table FILE"
    console.print(printable(next_one), markup=False, highlight=False, soft_wrap=True)


def _plain(made: TableFormat) -> str:
    return "mean of the support" if made.classes is None else "commonest class of the support"


def _notes(result: RowsTuned) -> list[str]:
    notes = [f"Inner steps: {len(result.curve) - 1}, on {result.support} rows."]
    if not result.scores:
        notes.append(result.method)
    if worse := [score.of for score in result.scores if _is_worse(score)]:
        notes.append(
            f"No better than without a model: {', '.join(worse)}. Give more rows, or other steps (--steps) or another "
            "rate (--lr)."
        )
    return notes


def _is_worse(score: Score) -> bool:
    return score.value <= score.plain if score.measure == "accuracy" else score.value >= score.plain


def _markdown(result: RowsTuned, folder: Path) -> str:
    lines = [
        "# Fine-tuning",
        "",
        f"From the meta-checkpoint {code(result.checkpoint.name)}.",
        "",
        *(f"- {markdown(note)}" for note in _notes(result)),
        "",
    ]
    if result.scores:
        lines += [f"Measured on {markdown(result.method)}:", ""]
        lines += [f"| target | measured | model | {_plain(result.made)} |", "| --- | --- | ---: | ---: |"]
        lines += [f"| {markdown(s.of)} | {s.measure} | {s.value:.4g} | {s.plain:.4g} |" for s in result.scores]
        lines.append("")
    query = bool(result.query_losses)
    lines += ["| inner steps | support loss |" + (" query loss |" if query else "")]
    lines += ["| ---: | ---: |" + (" ---: |" if query else "")]
    for j, step in enumerate(result.curve):
        lines.append(f"| {j} | {step.loss:.4g} |" + (f" {result.query_losses[j]:.4g} |" if query else ""))
    lines += [
        "",
        f"![loss by inner step]({ADAPTATION})",
        "",
        f"`{PREDICTIONS}` has {result.predicted}, by the lines of the file.",
        "",
        "```python",
        "import litmaml",
        f"model = litmaml.load({json.dumps(one_line(folder.name), ensure_ascii=False)})",
        'rows, predictions = model.predict_rows("rows.csv")',
        "```",
        "",
    ]
    return "\n".join(lines)
