#!/usr/bin/env python
"""Later scores of Parkinson's patients from a few recordings of each: litmaml beside three simple models.

    python scripts/parkinson.py FILE [--shots 5 10] [--seeds 5] [--epochs 6] [--out runs/parkinson]
    python scripts/parkinson.py FILE --time     one outer gradient with all later rows, beside 64 of each patient

FILE is the telemonitoring data of UCI (set 189): a row for each recording, 42 patients. Each seed shares the patients
out anew, 26 to train with, 8 to choose by, 8 to test. All is asked for on the command line of litmaml, on top of
configs/table.yaml. The error is the mean absolute one on a patient's rows after the support, in points of the score,
averaged over patients. The others get the same rows:

    support mean     the mean of the patient's own support
    own ridge        ridge regression on the patient's support, with the strength best on the validation patients
    pooled           ridge regression on all rows of the training patients, unadapted
    pooled, shifted  the same, moved by its mean error on the patient's support
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import nn

from litmaml.cli.main import main as litmaml
from litmaml.data import Episode, TableTasks
from litmaml.data.pool_tasks import Keys
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.tasks import Split, stacks_of

ROOT = Path(__file__).resolve().parents[1]
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
Numbers = NDArray[np.float64]
Task = tuple[Numbers, Numbers, Numbers, Numbers]


def ridge(inputs: Numbers, targets: Numbers, strength: float) -> tuple[Numbers, float]:
    """Slopes and intercept; the intercept is free."""
    middle, level = inputs.mean(0), float(targets.mean())
    centred = inputs - middle
    penalty = strength * np.eye(inputs.shape[1])
    slopes: Numbers = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (targets - level))
    return slopes, level - float(middle @ slopes)


def tasks_of(tasks: TableTasks, split: Split, count: int) -> dict[int, Task]:
    """Support and query of each task, by its number."""
    found = {}
    for stack in stacks_of(tasks.sample(split, range(count), 0)):
        (support,), query = stack.support, stack.query
        for k, number in enumerate(stack.numbers.tolist()):
            parts = (support.inputs, support.targets, query.inputs, query.targets)
            x, y, later, truth = (part[k].double().numpy() for part in parts)
            found[number] = (x, y[:, 0], later, truth[:, 0])
    return found


def off(guess: Numbers | float, truth: Numbers) -> float:
    return float(np.abs(guess - truth).mean())


def simple_errors(tasks: TableTasks) -> dict[str, list[float]]:
    """The error of each simple model on each test patient, in standard deviations."""
    val, test = (tasks_of(tasks, split, 8) for split in ("val", "test"))

    def own(task: Task, strength: float) -> float:
        x, y, later, truth = task
        slopes, level = ridge(x, y, strength)
        return off(later @ slopes + level, truth)

    strength = min(STRENGTHS, key=lambda each: np.mean([own(task, each) for task in val.values()]))
    everything = TableTasks(
        tasks.path, tasks.features, tasks.targets, tasks.task, split=tasks.split, split_seed=tasks.split_seed,
        train=Episode(shots=1), test=Episode(queries=0),
    )  # fmt: skip
    everything.load("train")
    rows = np.concatenate(everything._pools["train"].draw.members)
    x, y = (part.double().numpy() for part in everything._pools["train"].fetch(rows, Keys(0, "train", [])))
    slopes, level = ridge(x, y[:, 0], 1.0)
    errors: dict[str, list[float]] = defaultdict(list)
    for x, y, later, truth in test.values():
        pooled = later @ slopes + level
        errors["support mean"].append(off(float(y.mean()), truth))
        errors["own ridge"].append(own((x, y, later, truth), strength))
        errors["pooled"].append(off(pooled, truth))
        errors["pooled, shifted"].append(off(pooled + float((y - x @ slopes - level).mean()), truth))
    return errors


def meta_learnt_errors(file: str, shots: int, seed: int, epochs: int, run: Path) -> list[float]:
    """The error on each test patient after adaptation, in standard deviations."""
    data = [f"--data.tasks.init_args.{name}={value}" for name, value in (
        ("path", file), ("split_seed", seed), ("train.shots", shots))]  # fmt: skip
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    fit = ["-c", str(ROOT / "configs" / "table.yaml"), f"--trainer.max_epochs={epochs}"]
    litmaml(["fit", *fit, *data, *quiet, f"--trainer.default_root_dir={run}"])
    litmaml(["predict", f"--ckpt_path={run}", *quiet])
    absolute: dict[str, list[float]] = defaultdict(list)
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            absolute[row["task"]].append(abs(float(row["prediction"]) - float(row["target"])))
    return [float(np.mean(each)) for each in absolute.values()]


def measured_tasks(file: str, seed: int, shots: int, queries: int = 0, order: str | None = "test_time") -> TableTasks:
    """The tasks of configs/table.yaml."""
    features = ["test_time", "Jitter*", "Shimmer*", "NHR", "HNR", "RPDE", "DFA", "PPE"]
    asked = Episode(shots=shots, queries=queries)
    split = (26.0, 8.0, 8.0)
    return TableTasks(
        file, features, ["motor_UPDRS"], "subject#", order=order, split=split, split_seed=seed, train=asked
    )


def time_gradients(file: str, rounds: int = 30) -> None:
    """Print the processor's time of a batch of 13 patients and its outer gradient, those of ragged and equal query."""
    learner = MetaLearner(MLP(17, 1, [16]), SGD(lr=0.05, learn="tensor"), loss=nn.MSELoss(), inner_steps=5)
    sources = {
        f"{name}, {how}": measured_tasks(file, 0, 5, queries, order)
        for how, order in (("in order", "test_time"), ("without", None))
        for name, queries in (("all rows", 0), ("64 rows", 64))
    }
    seconds: dict[str, list[float]] = {name: [] for name in sources}
    for k in range(rounds):
        for name, tasks in sources.items():
            began = time.process_time()
            stacks = stacks_of(tasks.sample("train", range(13 * k, 13 * k + 13), 0))
            learner.meta_gradient([tasks.render(stack) for stack in stacks])
            seconds[name].append(time.process_time() - began)
    for name, taken in seconds.items():
        print(f"{name}: {1000 * np.median(taken):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="parkinsons_updrs.data or .csv")
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 10], help="recordings adapted to")
    parser.add_argument("--seeds", type=int, default=5, help="ways in which the patients are shared out")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("runs/parkinson"))
    parser.add_argument("--time", action="store_true", help="measure the cost of ragged queries alone")
    given = parser.parse_args()
    if given.time:
        time_gradients(given.file)
        return
    shown = Table("recordings", "model", "mean absolute error, points", "95%", title="Scores of later recordings")
    for shots in given.shots:
        errors: dict[str, list[float]] = defaultdict(list)
        for seed in range(given.seeds):
            tasks = measured_tasks(given.file, seed, shots)
            (scale,) = tasks.format.target_scale
            for name, found in simple_errors(tasks).items():
                errors[name] += [scale * error for error in found]
            found = meta_learnt_errors(given.file, shots, seed, given.epochs, given.out / f"{shots}-{seed}")
            errors["litmaml"] += found  # predict writes points
        for name, found in errors.items():
            half = 1.96 * float(np.std(found, ddof=1)) / len(found) ** 0.5
            shown.add_row(str(shots), name, f"{np.mean(found):.2f}", f"± {half:.2f}")
    Console().print(shown)


if __name__ == "__main__":
    main()
