#!/usr/bin/env python
"""Reproduces the experiments of the papers: a figure, the numbers and a verdict each.

    python scripts/reproduce.py NAME|all [--seeds 3] [--out results] [--jobs N]

Writes NAME.png, NAME.csv and NAME.txt (the verdict) to the output folder. The exit status is 1 when a pass line
fails.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments import EXPERIMENTS
from experiments.experiment import Case, Check, Experiment, Row

Done = tuple[list[Row], float]


def run_case(name: str, case: Case) -> Done:
    """The rows of a case and the processor's seconds that it took; in a process with one thread."""
    torch.set_num_threads(1)
    began = time.process_time()
    rows = EXPERIMENTS[name].rows_of(case)
    return rows, time.process_time() - began


def run_all(
    experiments: Sequence[Experiment], seeds: int, thin: bool, jobs: int
) -> Iterator[tuple[Experiment, list[Done]]]:
    """Runs the cases of all experiments side by side, with a progress bar; yields each experiment when it is done."""
    columns = (TextColumn("{task.description:20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # spawn: a process that was forked while torch has threads may hang.
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
    ):
        futures: dict[Future[Done], Experiment] = {}
        for experiment in experiments:
            for case in experiment.cases(seeds, thin):
                futures[pool.submit(run_case, experiment.name, case)] = experiment
        of = {e.name: [future for future in futures if futures[future] is e] for e in experiments}
        bars = {name: progress.add_task(name, total=len(mine)) for name, mine in of.items()}
        try:
            for future in as_completed(futures):
                future.result()  # a case that failed ends the whole
                experiment = futures[future]
                progress.advance(bars[experiment.name])
                if all(other.done() for other in of.get(experiment.name, [future])) and experiment.name in of:
                    yield experiment, [other.result() for other in of.pop(experiment.name)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write(experiment: Experiment, done: Sequence[Done], out: Path) -> list[Check]:
    """Writes what an experiment found, prints the verdict and returns it."""
    rows = [row for part, _ in done for row in part]
    fields = list(dict.fromkeys(key for row in rows for key in row))
    with (out / f"{experiment.name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    experiment.draw(rows).savefig(out / f"{experiment.name}.png", dpi=100)
    checks = experiment.judge(rows)
    seconds = sum(took for _, took in done)
    title = f"{experiment.name}: {experiment.source} ({len(done)} cases, {seconds:.0f} s of computing)"
    table = Table("", "claim", "measured", title=title)
    for check in checks:
        table.add_row("[green]pass" if check.passed else "[red]FAIL", check.claim, check.measured)
    Console().print(table)
    lines = [f"{'pass' if c.passed else 'FAIL'}  {c.claim}: {c.measured}" for c in checks]
    (out / f"{experiment.name}.txt").write_text("\n".join([title, *lines]) + "\n", encoding="utf-8")
    return checks


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*EXPERIMENTS, "all"], help="which experiment")
    parser.add_argument("--seeds", type=int, default=3, help="seeds that random parts are repeated with")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder to write to")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, one thread each")
    parser.add_argument("--thin", action="store_true", help="seconds instead of minutes; pass lines may fail")
    given = parser.parse_args(arguments)
    for name in ("seeds", "jobs"):
        if getattr(given, name) < 1:
            parser.error(f"--{name}: has to be at least 1, got {getattr(given, name)}")
    given.out.mkdir(parents=True, exist_ok=True)
    names = list(EXPERIMENTS) if given.name == "all" else [given.name]
    chosen = [EXPERIMENTS[name] for name in names]
    verdicts: list[Check] = []
    for experiment, done in run_all(chosen, given.seeds, given.thin, given.jobs):
        verdicts += write(experiment, done, given.out)
    failed = sum(not check.passed for check in verdicts)
    print(f"{len(verdicts) - failed} of {len(verdicts)} pass lines hold; written to {given.out}/")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
