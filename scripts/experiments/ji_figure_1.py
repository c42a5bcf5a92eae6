"""A5: figure 1 of Ji, Yang, Liang on rank-one matrix factorisation (2020, arXiv 2002.07836v1).

Setting "apart" tells the methods apart. Setting "printed" has the small inner rate of the authors' code, at which
all methods end alike: there nothing is demanded to differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure

from experiments.experiment import Case, Check, Experiment, Row, above, below, column, select
from experiments.problem import EXACT, Problem, descend, flat, vector
from litmaml.outer import FiniteDifference, FirstOrder, GaussianSmoothing, OuterGradient, SecondOrder, ZerothOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.problems import RankOne, RankOneLoss
from litmaml.tasks import Tasks

SIZE, STEPS, BATCH, SAMPLES, SMOOTHING = 20, 3, 10, 10, 1e-2
METHODS: dict[str, OuterGradient] = {
    "MAML": SecondOrder(),
    "FO-MAML": FirstOrder(),
    "HF-MAML": FiniteDifference(),
    "GGS-MAML": GaussianSmoothing(SAMPLES, SMOOTHING),
    "ZO-MAML (ji)": ZerothOrder(SAMPLES, SMOOTHING, "ji"),
    "ZO-MAML (stein)": ZerothOrder(SAMPLES, SMOOTHING, "stein"),
    "ZO-MAML (mean)": ZerothOrder(SAMPLES, SMOOTHING, "mean"),
}
UNJUDGED = ("ZO-MAML (stein)", "ZO-MAML (mean)")  # no pass line is about them: one seed
COLOURS = ("tab:green", "tab:orange", "tab:blue", "tab:cyan", "tab:red", "tab:brown", "tab:purple")
RATES = (3e-3, 1e-2, 3e-2)
REACHED = 0.01


def cases(seeds: int, thin: bool) -> list[Case]:
    apart = [
        {"setting": "apart", "method": m, "seed": seed, "beta": 0.05, "iterations": 20 if thin else 1500}
        for m in METHODS
        for seed in range(1 if m in UNJUDGED else seeds)
    ]
    printed = [
        {"setting": "printed", "method": m, "seed": 0, "beta": beta, "iterations": 10 if thin else 300}
        for m in METHODS
        for beta in ((1e-2,) if thin else RATES)
    ]
    return apart + printed


def run(case: Case) -> list[Row]:
    """F and |grad F| on tasks that were not trained on, along the outer steps;
    in the last row of a full run 20 000 of them.
    """
    apart = case["setting"] == "apart"
    optimizer: type[torch.optim.Optimizer]
    if apart:
        scale = 0.8 / SIZE**0.5
        distribution, alpha, optimizer = RankOne(SIZE, 1.0, (scale, scale)), 0.05, torch.optim.SGD
    else:
        distribution, alpha, optimizer = RankOne(SIZE, 0.0, (0.0, 0.1), pool=BATCH), 0.01, torch.optim.Adam
    stream = torch.Generator().manual_seed(case["seed"])
    start = torch.randn(SIZE, dtype=torch.float64, generator=stream) / SIZE**0.5
    problem = Problem(vector(start), RankOneLoss(), alpha, STEPS)
    exact, iterations = MetaGradientOf(problem.inner_loop(), EXACT, STEPS, tasks_per_chunk=1000), case["iterations"]
    few = distribution.sample("test" if apart else "train", range(1000 if apart else BATCH), case["seed"])
    rows: list[Row] = []
    reached = None

    def measure(k: int, tasks: Tasks) -> None:
        result = exact(tasks)
        # The loss of a run that has diverged leaves out the tasks that overflow.
        finite = bool(result.finite.all())
        loss, norm = (float(result.loss), float(flat(result.gradients).norm())) if finite else (math.inf, math.inf)
        rows.append({"iteration": k, "loss": loss, "norm": norm, "reached": reached})

    # Each run draws directions of its own: their seed comes with the tasks' numbers.
    gradient_of = problem.meta_gradient(METHODS[case["method"]], seed=case["seed"])
    first = distribution.sample("train", range(BATCH), case["seed"])

    def tasks(k: int) -> Tasks:
        if apart:
            return distribution.sample("train", range(BATCH * k, BATCH * (k + 1)), case["seed"])
        return first._replace(numbers=first.numbers + BATCH * k)  # other directions at each step

    for k, loss in descend(gradient_of, tasks, iterations, case["beta"], optimizer):
        if reached is None and float(loss) < REACHED:
            reached = k
        if k % (50 if apart else 10) == 0:
            measure(k, few)
    last = distribution.sample("test", range(20_000 if iterations > 1000 else 1000), case["seed"]) if apart else few
    measure(iterations, last)
    return rows


def judge(rows: Sequence[Row]) -> list[Check]:
    ends = [row for row in rows if row["iteration"] == row["iterations"]]
    apart, printed = select(ends, setting="apart"), select(ends, setting="printed")

    def ratios(method: str, key: str) -> list[float]:
        """To MAML with the same seed."""
        pairs = zip(select(apart, method=method), select(apart, method="MAML"), strict=True)
        return [float(mine[key]) / float(maml[key]) for mine, maml in pairs]

    losses = {m: min(column(select(printed, method=m), "loss")) for m in METHODS}
    return [
        below("A5: F, |GGS/MAML - 1|, most", max(abs(ratio - 1) for ratio in ratios("GGS-MAML", "loss")), 0.01),
        below("A5: F, |HF/MAML - 1|, most", max(abs(ratio - 1) for ratio in ratios("HF-MAML", "loss")), 1e-5),
        above("A5: F, ZO (ji) over MAML, least (inf: diverged)", min(ratios("ZO-MAML (ji)", "loss")), 1.5),
        above("A5: |grad F|, FO over MAML, least", min(ratios("FO-MAML", "norm")), 1.5),
        below("A5': F, the methods' distance from each other", max(losses.values()) - min(losses.values()), 1e-5),
    ]


def draw(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(15, 4.4), layout="constrained")
    loss, norm, printed = figure.subplots(1, 3)
    for method, colour in zip(METHODS, COLOURS, strict=True):
        style = {"linestyle": "--", "zorder": 3} if method in ("HF-MAML", "GGS-MAML") else {}
        mine = select(rows, setting="apart", method=method)
        seeds = sorted({row["seed"] for row in mine})
        lost = sum(row["loss"] == math.inf for row in mine if row["iteration"] == row["iterations"])
        name = f"{method}: {lost} of {len(seeds)} diverge" if lost else method
        for seed in seeds:
            line = [row for row in select(mine, seed=seed) if row["iteration"] < row["iterations"]]
            look = {"color": colour, "alpha": 0.3 if seed else 1, "label": None if seed else name, **style}
            loss.plot(column(line, "iteration"), column(line, "loss"), **look)
            norm.semilogy(column(line, "iteration"), column(line, "norm"), **look)
        beta = 1e-2
        line = select(rows, setting="printed", method=method, beta=beta)
        reached = line[-1]["reached"]
        label = f"{method}: {reached:.0f} steps to {REACHED}" if reached is not None else method
        printed.semilogy(column(line, "iteration"), column(line, "loss"), color=colour, label=label, **style)
    loss.set(xlabel="outer steps", ylabel="F on fresh tasks", title="α = β = 0.05, N = 3, Q = 10: the loss")
    norm.set(xlabel="outer steps", ylabel="‖∇F‖, exact, on fresh tasks", title="α = β = 0.05: the gradient")
    printed.set(xlabel="outer steps", ylabel="F", title="α = 0.01, as in the authors' code: all alike")
    for axes in (loss, norm, printed):
        axes.grid(alpha=0.3)
    loss.legend(fontsize=7.5, loc=(0.55, 0.15))  # the colours of the middle panel too
    printed.legend(fontsize=7.5)
    return figure


JI_FIGURE_1 = Experiment("ji-figure-1", "Ji et al. 2020, figure 1", cases, run, judge, draw)
