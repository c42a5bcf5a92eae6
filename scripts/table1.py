"""Table 1 of Finn et al. 2017 (arXiv 1703.03400), beside its own figures: Omniglot and mini-ImageNet.

    LITMAML_DATA=FOLDER python scripts/table1.py --out results/table1            # whole, for a GPU: hours a row
    LITMAML_DATA=FOLDER python scripts/table1.py --small --rows omniglot-5w1s    # a few minutes of one CPU core

Omniglot is looked for in LITMAML_DATA/omniglot or --omniglot, mini-ImageNet in LITMAML_DATA/mini_imagenet or
--mini_imagenet, in any of the layouts that data/mini_imagenet reads. A row whose data are not there is
left out, and the table says so. What follows ``--`` is typed for every run, such as --trainer.max_steps=5000.

Whole, a row has what the paper states: 60,000 outer steps; 64 filters on Omniglot and 32 on mini-ImageNet; batches of
32 tasks (5-way) and 16 (20-way), of 4 (1-shot) and 2 (5-shot) on mini-ImageNet; inner rates of .4 (one step, three in
tests), .1 (five) and .01 (five, ten in tests). --small has 16 filters, batches of 4 tasks and 200 steps: a figure of it
says that all runs, and nothing of the method.

Each row has a folder, OUT/small/ROW or OUT/whole/ROW: one that was interrupted goes on, one that is tested is not run
again. Written are OUT/table1.csv and OUT/table1.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare_methods import METHODS
from litmaml.statistics.interval import Interval, cell
from whole_runs import markdown_table, tested_row, write_csv


@dataclass(frozen=True)
class Line:
    """A figure of the table.

    configs: The experiment, and what is laid over it.
    published: Accuracy in percent, with its 95% half-width, as the paper has it.
    data: The option with the folder of the data; None where none are needed.
    method: As ``compare_methods`` has it.
    typed: What is typed beside.
    """

    configs: tuple[str, ...]
    published: str
    data: str | None = "omniglot"
    method: str = "MAML"
    typed: tuple[str, ...] = ()


def _mini_imagenet(published: str, shots: int, method: str = "MAML") -> Line:
    """A line on mini-ImageNet, with the settings of the paper in the place of those of one's own images."""
    typed = (
        *("--model.inner_optimizer.lr=0.01", "--data.tasks.init_args.augment=null"),
        *(f"--data.tasks.init_args.train.shots={shots}", f"--data.meta_batch={4 if shots == 1 else 2}"),
        *("--trainer.max_steps=60000", "--trainer.max_epochs=-1"),
    )
    return Line(("image_folder", "data/mini_imagenet"), published, "mini_imagenet", method, typed)


LINES = {
    "omniglot-5w1s": Line(("omniglot_5w1s",), "98.7 ± 0.4"),
    "omniglot-5w5s": Line(("omniglot_5w5s",), "99.9 ± 0.1"),
    "omniglot-20w1s": Line(("omniglot_20w1s",), "95.8 ± 0.3"),
    "omniglot-20w5s": Line(("omniglot_20w5s",), "98.9 ± 0.2"),
    "mini_imagenet-5w1s": _mini_imagenet("48.70 ± 1.84", 1),
    "mini_imagenet-5w5s": _mini_imagenet("63.11 ± 0.92", 5),
    "mini_imagenet-5w1s-first-order": _mini_imagenet("48.07 ± 1.75", 1, "FO-MAML"),
    "mini_imagenet-5w5s-first-order": _mini_imagenet("63.15 ± 0.91", 5, "FO-MAML"),
}
SMALL = (
    *("--model.model.init_args.filters=16", "--data.meta_batch=4", "--data.train_tasks=400", "--data.val_tasks=40"),
    *(
        "--data.test_tasks=200",
        "--trainer.max_steps=200",
        "--trainer.log_every_n_steps=10",
        "--trainer.accelerator=cpu",
    ),
)
COLUMNS = ("split_by", "rotations", "ways", "shots", "queries", "tasks", "normalisation")
"""Of a test's protocol, what the table says."""


def fill(name: str, folders: Mapping[str, Path], typed: Sequence[str], seed: int, out: Path) -> dict[str, Any]:
    """The row of a line: trained and tested, or with what it lacks."""
    line, place = LINES[name], out / name
    row: dict[str, Any] = {"row": name, "method": line.method, "published": line.published}
    where = []
    if line.data is not None:
        if not folders[line.data].is_dir():
            return row | {"skipped": f"there is no {folders[line.data]}; give --{line.data}"}
        where = [f"--data.tasks.init_args.root={folders[line.data].resolve()}"]
    stack = [f"--config={config}" for config in (*line.configs, METHODS[line.method].overlay)]
    seeds = [f"--seed_everything={seed}", f"--data.seed={seed}"]
    found = tested_row(place, [*stack, *line.typed, *where, *seeds, *typed])
    if "failed" in found:
        return row | found
    protocol = json.loads((place / "test_results.json").read_text(encoding="utf-8"))["protocol"]
    return row | found | {column: protocol[column] for column in COLUMNS if column in protocol}


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the table has it."""
    lacking = row.get("skipped") or row.get("failed")
    ours = None if lacking else cell("accuracy", Interval(row["accuracy"], row["accuracy_half_width"]))
    head = {"row": row["row"], "method": row["method"], "published, %": row["published"], "here": lacking or ours}
    means = row.get("nearest_class_mean")
    beside = {"nearest class mean": None if means is None else f"{100 * means:.2f} %", "seconds": row.get("seconds")}
    return head | {"inner steps": row.get("test_inner_steps")} | beside


def protocol_lines(rows: Sequence[Mapping[str, Any]], budget: str) -> str:
    """What the figures stand for."""
    lines = [f"Budget: {budget}.", "", "Intervals are 95% over the test tasks; the paper's are its own.", ""]
    for row in rows:
        said = ", ".join(f"{column}: {row[column]}" for column in COLUMNS if column in row)
        lines += [f"- {row['row']}: {said}"] if said else []
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    typed = list(sys.argv[1:] if arguments is None else arguments)
    end = typed.index("--") if "--" in typed else len(typed)
    mine, more = typed[:end], typed[end + 1 :]
    data = Path(os.environ.get("LITMAML_DATA", "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(LINES), choices=list(LINES), help="which")
    parser.add_argument("--small", action="store_true", help="minutes on a CPU: see above")
    parser.add_argument("--seed", type=int, default=0, help="of weights and tasks")
    parser.add_argument("--omniglot", type=Path, default=data / "omniglot", help="folder of Omniglot")
    parser.add_argument("--mini_imagenet", type=Path, default=data / "mini_imagenet", help="folder of mini-ImageNet")
    parser.add_argument("--out", type=Path, default=Path("results/table1"), help="folder to write to")
    given = parser.parse_args(mine)
    size = "small" if given.small else "whole"
    beside = [*(SMALL if given.small else ()), *more]
    folders = {"omniglot": given.omniglot, "mini_imagenet": given.mini_imagenet}
    given.out.mkdir(parents=True, exist_ok=True)
    budget = f"{size}{', with ' if beside else ''}{' '.join(beside)}"
    rows: list[dict[str, Any]] = []
    for name in given.rows:
        rows.append(fill(name, folders, beside, given.seed, given.out / size))
        write_csv(rows, given.out / "table1.csv")
        text = f"{markdown_table([*map(shown, rows)])}\n{protocol_lines(rows, budget)}"
        (given.out / "table1.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
