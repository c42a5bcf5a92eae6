"""R1 to R10: meta-gradients of policies, over all trajectories of a small problem and on 2D navigation."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from experiments import navigation, policy_estimators
from experiments.exact_mdp import CREDITS
from experiments.experiment import Case, Check, Experiment, Row, column, mean_of, select


def cases(seeds: int, thin: bool) -> list[Case]:
    return [*navigation.cases(seeds, thin), *policy_estimators.cases(seeds, thin)]


def run(case: Case) -> list[Row]:
    return navigation.run(case) if case["part"] == "navigation" else policy_estimators.run(case)


def judge(rows: Sequence[Row]) -> list[Check]:
    return [*policy_estimators.judge(rows), *navigation.judge(rows)]


def draw(rows: Sequence[Row]) -> Figure:
    """Returns along the inner steps as means over the seeds, and bias and noise of the second derivative."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    steps = range(4)
    for k, name in enumerate(navigation.METHODS):
        of = {"part": "navigation", "method": name, "later_rate": navigation.RATE / 2}
        means = [mean_of(rows, "return", inner_step=step, **of) for step in steps]
        left.plot(steps, means, "-" if k < 7 else "--", marker="o", markersize=4, label=name)
    left.set(xlabel="inner steps (the rate halved after the first)", ylabel="return", title="2D navigation, test goals")
    left.set_xticks(list(steps))
    left.legend(fontsize=7, ncols=2)
    for seed in (0, 1):
        found = select(rows, part="exact", seed=seed, baseline=True)
        by_credit = [row for credit in CREDITS for row in select(found, credit=credit)]
        colour = f"C{seed}"
        right.plot(CREDITS, column(by_credit, "second"), "-o", color=colour, label=f"bias, problem {seed + 1}")
        right.plot(CREDITS, column(by_credit, "noise"), "--o", color=colour, label=f"noise, problem {seed + 1}")
        (score,) = select(found, credit=None)
        right.plot([-0.15], [score["second"]], "s", color=colour)
        right.plot([-0.15], [score["noise"]], "s", color=colour, fillstyle="none")
    right.set_xticks([-0.15, *CREDITS], ["score", *map(str, CREDITS)])
    right.set(xlabel="credit c", ylabel="share of the true second derivative", title="Curvature of the surrogates")
    right.legend(fontsize=7)
    return figure


REINFORCEMENT_LEARNING = Experiment(
    "reinforcement-learning", "Estimators of reinforcement learning, and 2D navigation", cases, run, judge, draw
)
