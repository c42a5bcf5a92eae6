"""A4: figure 2 of Fallah, Mokhtari, Ozdaglar on rank-one matrix factorisation (AISTATS 2020, arXiv 1908.10400).

a: exact gradients and Hessians; FO-MAML keeps a gap. b: noisy ones, similar tasks; all are alike. c: noisy ones,
different tasks; FO-MAML is worse. The paper's own settings are not to be had; these show its three captions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.experiment import Case, Check, Experiment, Row, above, below, column, mean_of, select, within
from experiments.problem import Problem, descend, flat, outer_gradients, vector
from litmaml.data import Episode
from litmaml.problems import RankOne, RankOneLoss
from litmaml.tasks import Tasks

SIZE, ALPHA = 10, 0.1
PANELS = {
    # spread of the tasks, number of tasks, tasks of a batch, outer rate, whether noisy, outer steps
    "a": (0.3, 20, 20, 0.1, False, 2000),
    "b": (0.02, 50, 10, 0.02, True, 3000),
    "c": (0.35, 50, 10, 0.02, True, 3000),
}
TITLES = {
    "a": "a: exact, s = 0.3, n = B = 20",
    "b": "b: noisy, similar tasks, s = 0.02",
    "c": "c: noisy, different tasks, s = 0.35",
}
COLOURS = {"MAML": "tab:green", "FO-MAML": "tab:orange", "HF-MAML": "tab:blue"}


def cases(seeds: int, thin: bool) -> list[Case]:
    # The noisy panels are compared by means, the exact one has to converge.
    shares = {"a": 5, "b": 60, "c": 60} if thin else dict.fromkeys(PANELS, 1)
    return [
        {"panel": panel, "method": method, "seed": seed, "iterations": settings[-1] // shares[panel]}
        for panel, settings in PANELS.items()
        for method in COLOURS
        for seed in range(seeds)
    ]


def run(case: Case) -> list[Row]:
    """|grad F| of the n tasks, exact and without noise, along the outer steps."""
    spread, pool, batch, beta, noisy, _ = PANELS[case["panel"]]
    seed, iterations = case["seed"], case["iterations"]
    stream = np.random.default_rng(seed)
    problem = Problem(vector(torch.from_numpy(stream.normal(size=SIZE)) / SIZE**0.5), RankOneLoss(), ALPHA)
    clean = RankOne(SIZE, 1.0, (spread, spread), pool=pool).sample("train", range(pool), seed)
    # Independent batches D_in, D_h and D_o of one sample each, fresh at every outer step.
    distribution = RankOne(SIZE, 1.0, (spread, spread), 0.5, 0.2, pool, train=Episode(hessian_batches=1))

    def tasks(k: int) -> Tasks:
        if not noisy:
            return clean
        return distribution.sample("train", [pool * k + int(i) for i in stream.permutation(pool)[:batch]], seed)

    exact = problem.meta_gradient()
    rows: list[Row] = []
    for k, _ in descend(problem.meta_gradient(outer_gradients()[case["method"]]), tasks, iterations, beta):
        if k % 10 == 0 or k == iterations - 1:
            rows.append({"iteration": k, "norm": float(flat(exact(clean).gradients).norm())})
    return rows


def judge(rows: Sequence[Row]) -> list[Check]:
    def late(panel: str, method: str) -> float:
        """The mean of |grad F| over the last half of the iterations."""
        return mean_of(
            [row for row in rows if row["iteration"] >= row["iterations"] / 2], "norm", panel=panel, method=method
        )

    def end(method: str) -> list[float]:
        return [
            row["norm"] for row in select(rows, panel="a", method=method) if row["iteration"] == row["iterations"] - 1
        ]

    ratio = {panel: late(panel, "FO-MAML") / late(panel, "MAML") for panel in ("b", "c")}
    hf = {panel: late(panel, "HF-MAML") / late(panel, "MAML") for panel in ("b", "c")}
    return [
        below("A4: 2a, MAML's |grad F| at the end", max(end("MAML")), 1e-10),
        below("A4: 2a, HF's |grad F| at the end", max(end("HF-MAML")), 1e-8),
        above("A4: 2a, FO's |grad F| at the end", min(end("FO-MAML")), 0.05),
        below("A4: 2b, mean |grad F| of FO over MAML's", ratio["b"], 1.15),
        above("A4: 2c, mean |grad F| of FO over MAML's", ratio["c"], 2),
        within("A4: 2b, HF over MAML", hf["b"], 0.98, 1.02),
        within("A4: 2c, HF over MAML", hf["c"], 0.98, 1.02),
    ]


def draw(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(14, 4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, 3), PANELS, strict=True):
        for method, colour in COLOURS.items():
            mine = select(rows, panel=panel, method=method)
            for seed in sorted({row["seed"] for row in mine}):
                line = select(mine, seed=seed)
                style = {"linestyle": "--", "zorder": 3} if method == "HF-MAML" else {}
                axes.semilogy(
                    column(line, "iteration"),
                    column(line, "norm"),
                    color=colour,
                    linewidth=1 if seed else 1.6,
                    alpha=0.4 if seed else 1,
                    label=None if seed else method,
                    **style,
                )
        axes.set(xlabel="outer steps", title=TITLES[panel])
        if panel != "a":
            axes.set(ylim=(0.015, 1), yticks=(0.02, 0.05, 0.1, 0.2, 0.5, 1))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylabel("‖∇F‖ over all n tasks, exact")
    return figure


FALLAH_FIGURE_2 = Experiment("fallah-figure-2", "Fallah et al. 2020, figure 2", cases, run, judge, draw)
