"""What fine-tuning came to: on screen, as a report to read, and as pictures."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from litmaml.finetuning.adapted_model import Prediction
from litmaml.finetuning.fine_tuning import FineTuned
from litmaml.runs.nameable import python_path, users_modules
from litmaml.runs.paths import unlinked
from litmaml.shown import code, markdown, one_line, printable, table_cell
from litmaml.statistics.interval import Interval
from litmaml.statistics.plots import Measured, plot_adaptation

PREDICTIONS, REPORT, ADAPTATION, CONFUSION = "predictions.csv", "report.md", "adaptation.png", "confusion.png"


class _Share(NamedTuple):
    """An accuracy with the ends of its interval, which lie unevenly around it."""

    mean: float
    low: float
    high: float


def write_report(result: FineTuned, folder: Path) -> None:
    """Write ``predictions.csv``, ``adaptation.png``, ``confusion.png`` (where there is a score) and ``report.md``."""
    write_predictions(unlinked(folder / PREDICTIONS), result.predictions, result.labels)
    curves: dict[str, list[Measured]] = {
        "support accuracy": [Interval(step.accuracy or 0.0, 0.0) for step in result.curve],
        "loss": [Interval(step.loss, 0.0) for step in result.curve],
    }
    if result.query_curve:
        curves = {"query accuracy": [_Share(score.accuracy, *score.bounds) for score in result.query_curve], **curves}
    plot_adaptation(folder / ADAPTATION, curves, f"{len(result.classes)} classes, {sum(result.support)} images")
    if result.score is not None:
        result.score.plot(folder / CONFUSION, f"{result.method}: {result.score.accuracy:.1%}")
    unlinked(folder / REPORT).write_text(_markdown(result, folder), encoding="utf-8")


def write_predictions(path: Path, predictions: list[Prediction], labels: list[str] | None = None) -> None:
    """Write a CSV file of file, class and probability, and the true class where it is known."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "probability", *(["label"] if labels else [])])
        for k, found in enumerate(predictions):
            names = [found.file, found.label, *([labels[k]] if labels else [])]
            file_name, label, *others = map(table_cell, names)
            writer.writerow([file_name, label, f"{found.probability:.6f}", *others])


def print_report(result: FineTuned, folder: Path) -> None:
    """Show what matters: accuracy, classes, what was done to head and normalisation, and what to do next."""
    console = Console()
    if result.score is not None:
        console.print(printable(f"{result.method}: {result.score}"), markup=False, highlight=False, soft_wrap=True)
        table = Table()
        for title in ("class", "images", "right", "most others taken for"):
            table.add_column(title, justify="right" if title in ("images", "right") else "left")
        for name, images, right, most in result.score.rows():
            table.add_row(Text(one_line(name)), str(images), str(right), Text(one_line(most)))
        console.print(table)
    for line in _notes(result):
        console.print(printable(line), markup=False, highlight=False)
    recorded = None if result.model.recipe is None else result.model.recipe.model
    modules = users_modules(recorded)
    own = "".join(f" --imports {name}" for name in modules)
    again = own if recorded is not None else " -c RUN/config.yaml"
    path = python_path(modules or [type(result.model.network).__module__])
    classify = f"{path}litmaml classify --model {shlex.quote(str(folder))} --images FOLDER{again}"
    console.print(
        printable(f"written to {folder}; classify further images: {classify}"),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _notes(result: FineTuned) -> list[str]:
    taken, own = len(result.curve) - 1, result.tuner.steps
    further = "" if taken == own else f", {own} as in the checkpoint's tests and further to learn the support set"
    notes = [
        f"Inner steps: {taken}{further}.",
        f"Head: {_head(result)}.",
        f"Normalisation: {_normalisation(result)}.",
    ]
    if not result.curve[-1].learnt:
        notes.append(
            f"The support set is not learnt well: {result.curve[-1].accuracy or 0:.0%} of it are right, at a loss of "
            f"{result.curve[-1].loss:.2g}. Try more steps (--steps) or another rate (--lr)."
        )
    if result.score is None:
        return [*notes, result.method]
    caution = result.score.caution()
    return notes if caution is None else [*notes, caution]


def _head(result: FineTuned) -> str:
    """What became of the head, in words."""
    begun, heads = result.tuner.inner_loop.head, result.tuner.replaced_heads
    if begun is None and not heads:
        return f"kept, meta-learnt for {result.tuner.trained_outputs} classes"
    names = " and ".join(code(name) for name in heads or [begun.name if begun else ""])
    start = "from the class means of the support set" if begun and begun.start == "prototypes" else "at zero"
    what = f"{names} replaced by one that starts {start}" if heads else f"{names} starts {start}"
    return f"{what}: {len(result.classes)} classes, {result.tuner.trained_outputs} in meta-training"


def _normalisation(result: FineTuned) -> str:
    """How the deployed model normalises, and what that costs, in words."""
    if not result.tuner.frozen_layers:
        return "the checkpoint's own; each image by itself"
    text = "batch norm frozen to the statistics of the support set"
    if result.with_batch_statistics is not None and result.score is not None:
        lost = 100 * (result.with_batch_statistics.accuracy - result.score.accuracy)
        text += (
            f": {result.score.accuracy:.1%} on the query, against {result.with_batch_statistics.accuracy:.1%} by the "
            f"query's own statistics (transductive; no longer a prediction of each image alone). Freezing "
            f"{'costs' if lost >= 0 else 'gains'} {abs(lost):.1f} points"
        )
    return text


def _markdown(result: FineTuned, folder: Path) -> str:
    lines = [
        "# Fine-tuning",
        "",
        f"From the meta-checkpoint {code(result.checkpoint.name)}, {len(result.curve) - 1} inner steps on "
        f"{sum(result.support)} images of {len(result.classes)} classes.",
        "",
        *(f"- {note}" for note in _notes(result)),
        "",
    ]
    if result.score is not None:
        lines += [
            f"## Accuracy: {result.score}",
            "",
            f"Measured on {result.method}; Wilson's interval, for further images of the same classes.",
            "",
            "| class | support images | images | right | most others taken for |",
            "| --- | ---: | ---: | ---: | --- |",
        ]
        for (name, images, right, most), size in zip(result.score.rows(), result.support, strict=True):
            lines.append(f"| {markdown(name)} | {size} | {images} | {right} | {markdown(most)} |")
        lines += ["", f"![which class was taken for which]({CONFUSION})", ""]
    lines += [
        "## Adaptation",
        "",
        "| inner steps | support loss | support accuracy |" + (" query accuracy |" if result.query_curve else ""),
        "| ---: | ---: | ---: |" + (" ---: |" if result.query_curve else ""),
    ]
    for j, step in enumerate(result.curve):
        row = f"| {j} | {step.loss:.4f} | {step.accuracy or 0.0:.1%} |"
        lines.append(row + (f" {result.query_curve[j].accuracy:.1%} |" if result.query_curve else ""))
    lines += [
        "",
        f"![loss and accuracy by inner step]({ADAPTATION})",
        "",
        "## Files",
        "",
        "- `model.safetensors`, `config.yaml`, `classes.json`: the model, for `litmaml.load` and `litmaml classify`",
        f"- `{PREDICTIONS}`: {result.predicted}",
        *(f"- `{file.name}`: the model for other programs" for file in sorted(folder.glob("model.[po]*"))),
        "",
        "```python",
        "import litmaml",
        f"model = litmaml.load({json.dumps(one_line(folder.name), ensure_ascii=False)})",
        'for file, label, probability in model.classify("image.png"):',
        "    print(file, label, probability)",
        "```",
        "",
    ]
    return "\n".join(lines)
