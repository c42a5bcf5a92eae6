"""B3 to B6 and B8: the methods beside the path, on quadratic tasks and on sinusoids."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments import methods_quadratics as quadratics
from experiments import methods_sinusoid as sinusoid
from experiments.experiment import Case, Check, Experiment, Row, select


def cases(seeds: int, thin: bool) -> list[Case]:
    # Sinusoids by all seeds too: of one seed MAML's MSE is .32 to .44, and a difference of 15% means nothing.
    return [*sinusoid.cases(seeds, thin), *quadratics.cases(seeds, thin)]


def run(case: Case) -> list[Row]:
    return sinusoid.run(case) if case["part"] == "sinusoid" else quadratics.PARTS[case["part"]](case)


def judge(rows: Sequence[Row]) -> list[Check]:
    of_sines = select(rows, part="sinusoid")
    return [*quadratics.judge([row for row in rows if row["part"] != "sinusoid"]), *sinusoid.judge(of_sines)]


def draw(rows: Sequence[Row]) -> Figure:
    """MSE along the inner steps, and what the worst tasks lose."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for k, name in enumerate(sinusoid.METHODS):
        mine = select(rows, part="sinusoid", method=name)
        style = "-" if k < 10 else "--"
        left.plot([row["inner_step"] for row in mine], [row["mse"] for row in mine], style, marker=".", label=name)
    left.set(xlabel="inner steps", ylabel="MSE on test tasks", yscale="log", title="Sinusoids")
    left.legend(fontsize=7, ncols=2)
    for shift, name in ((-0.2, "MAML"), (0.2, "TR-MAML")):
        mine = select(rows, part="worst case", method=name, seed=0)
        right.bar([row["task"] + shift for row in mine], [row["F"] for row in mine], 0.4, label=name)
    right.set(xlabel="task", ylabel="F", title="Four quadratic tasks")
    right.legend()
    return figure


METHODS = Experiment("methods", "Theory of the other methods", cases, run, judge, draw)
