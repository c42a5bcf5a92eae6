"""All methods on one experiment at one budget of gradients.

    python scripts/compare_methods.py --out results/methods                        # Glyphs, three seeds
    python scripts/compare_methods.py --config omniglot_5w1s --methods MAML Reptile --seeds 1 --out results/omniglot \
        -- --model.model.init_args.filters=16

What follows ``--`` is typed for every run. Each method is an overlay that is laid over the experiment, with the inner
rate that it needs beside. A budget counts gradients of one task in a batch, a Hessian product as two; a method takes as
many outer steps as it buys. Each run has a folder, OUT/METHOD/SEED: one that was interrupted goes on, one that is
tested is not run again. Written are OUT/methods.csv (a row a run), OUT/methods.md (a row a method, with the mean over
the seeds, its 95% interval over them, and that over the tasks of one seed), and OUT/methods.png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import torch
import yaml
from matplotlib.figure import Figure

from litmaml.cli.shipped import folder
from litmaml.statistics.interval import interval
from whole_runs import markdown_table, tested_row, write_csv


def _exact(n: int) -> int:
    return 3 * n + 1


@dataclass(frozen=True)
class Method:
    """A method: the overlay, its gradients for N inner steps, and what is typed beside."""

    overlay: str
    gradients: Callable[[int], int] = _exact
    typed: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "MAML": Method("outer_gradient/second_order"),
    "FO-MAML": Method("outer_gradient/first_order", lambda n: n + 1),
    "Reptile": Method("method/reptile", lambda n: n),
    "Meta-MinibatchProx": Method("method/minibatch_prox", lambda n: n),
    "iMAML": Method("method/imaml_images", lambda n: n + 11, ("--model.on_nonfinite=skip",)),
    "multi-step loss": Method("method/multi_step_loss", lambda n: 4 * n),
    "MAML++": Method("method/maml_pp", lambda n: 4 * n),
    "Meta-SGD": Method("method/meta_sgd", typed=("--model.rates_lr=0.002",)),
    "Meta-Curvature": Method("method/meta_curvature", typed=("--model.inner_optimizer.optimizer.lr=0.4",)),
    "ANIL": Method("method/anil"),
    "BOIL": Method("method/boil"),
    "CAVIA": Method("method/cavia_images"),
    "ProtoMAML": Method("method/proto_maml"),
}
"""Those for images; the others are of regression, of finitely many tasks, or for a handful of weights."""


def inner_steps(config: str, overlay: str, typed: Sequence[str]) -> int:
    """N, as what is laid last has it."""
    found = 1
    for name in (config, overlay):
        path = Path(name) if Path(name).is_file() else folder() / f"{name}.yaml"
        found = yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {}).get("inner_steps", found)
    option = "--model.inner_steps="
    return next((int(text.removeprefix(option)) for text in reversed(typed) if text.startswith(option)), found)


def run(name: str, seed: int, budget: int, config: str, typed: Sequence[str], out: Path) -> dict[str, Any]:
    """One run from its beginning or from where it was, and its test; a row for the table."""
    method, place = METHODS[name], out / name / str(seed)
    more = [*method.typed, *typed]
    cost = method.gradients(inner_steps(config, method.overlay, more))
    row: dict[str, Any] = {"method": name, "seed": seed, "outer_steps": max(budget // cost, 1), "gradients": cost}
    length = [f"--trainer.max_steps={row['outer_steps']}", "--trainer.max_epochs=-1"]
    seeds = [f"--seed_everything={seed}", f"--data.seed={seed}"]
    return row | tested_row(place, ["-c", config, "-c", method.overlay, *more, *length, *seeds])


BASELINE = "nearest_class_mean"


def with_baseline(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows, and those of the nearest class mean of MAML's features, by which nothing is adapted."""
    found = []
    for row in rows:
        if row["method"] == "MAML" and BASELINE in row:
            kept = {key: row[key] for key in ("seed", "outer_steps", "gradients", "seconds")}
            found.append(kept | {"method": "nearest class mean, MAML's features", "accuracy": row[BASELINE]})
    return [*rows, *found]


def table(rows: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """A row a method, the best first."""
    found = []
    for name in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == name]
        good = [row for row in mine if metric in row]
        widths = [row[f"{metric}_half_width"] for row in good if f"{metric}_half_width" in row]
        over_seeds = interval(torch.tensor([row[metric] for row in good], dtype=torch.float64))
        found.append(
            {
                "method": name,
                "mean": over_seeds.mean,
                "over seeds": over_seeds.half_width if len(good) > 1 else None,
                "over tasks": sum(widths) / len(widths) if widths else None,
                "seeds": len(good),
                "outer steps": mine[0]["outer_steps"],
                "gradients a step": mine[0]["gradients"],
                "seconds": sum(row["seconds"] for row in good) / len(good) if good else None,
                "failed": next((row["failed"] for row in mine if "failed" in row), ""),
            }
        )
    best_first = sorted(found, key=lambda row: row["mean"], reverse=metric == "accuracy")
    return [row for row in best_first if row["seeds"]] + [row for row in best_first if not row["seeds"]]


def write(rows: Sequence[Mapping[str, Any]], out: Path) -> str:
    """Writes the CSV, the table and the picture; the table as text."""
    metric = "accuracy" if any("accuracy" in row for row in rows) else "loss"
    write_csv(rows, out / "methods.csv")
    found = table(with_baseline(rows), metric)
    text = markdown_table([{metric if head == "mean" else head: row[head] for head in row} for row in found])
    (out / "methods.md").write_text(text, encoding="utf-8")
    shown = [row for row in found if row["seeds"]][::-1]
    figure = Figure(figsize=(7, 0.4 * len(shown) + 1), layout="constrained")
    axes = figure.subplots()
    widths = [next((row[kind] for kind in ("over seeds", "over tasks") if row[kind] is not None), nan) for row in shown]
    axes.barh([row["method"] for row in shown], [row["mean"] for row in shown], xerr=widths, height=0.6)
    over = "seeds" if any(row["over seeds"] is not None for row in shown) else "tasks"
    axes.set(xlabel=f"{metric} on test tasks, with 95% intervals over {over}")
    figure.savefig(out / "methods.png", dpi=150)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    typed = list(sys.argv[1:] if arguments is None else arguments)
    end = typed.index("--") if "--" in typed else len(typed)
    mine, more = typed[:end], typed[end + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="glyphs", help="the experiment, a name or a file")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="which")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each method")
    parser.add_argument("--budget", type=int, default=2400, help="gradients of one task in a batch, of a whole run")
    parser.add_argument("--out", type=Path, default=Path("results/methods"), help="folder to write to")
    given = parser.parse_args(mine)
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for name in given.methods:
            rows.append(run(name, seed, given.budget, given.config, more, given.out))
            text = write(rows, given.out)
    print(text)


if __name__ == "__main__":
    main()
