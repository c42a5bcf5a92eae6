"""A3: the floor of FO-MAML and of HF-MAML with a long probe (Fallah, Mokhtari, Ozdaglar 2020, arXiv 1908.10400).

Without any noise: how far from stationary, |grad F|, each method's own fixed point is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.closed_forms import zero_of
from experiments.experiment import Case, Check, Experiment, Row, above, below, select, within
from experiments.problem import Problem, descend, gradient_at, linear, log_cosh_lipschitz
from litmaml.measure.theory import printed_probe_length
from litmaml.outer import FiniteDifference, FirstOrder, SecondOrder
from litmaml.problems import HalfSquaredLoss, LogCoshLoss
from litmaml.problems.linear_regression import LinearRegression

ALPHAS = (0.4, 0.2, 0.1, 0.05, 0.025)
SPREADS = (0.25, 0.5, 1.0, 2.0)
MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
RADII = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3)
SIZE, TASKS, CURVATURE = 3, 8, 4.0


def cases(seeds: int, thin: bool) -> list[Case]:
    iterations = 250 if thin else 600
    quadratics = [{"part": "quadratics", "seed": seed} for seed in range(seeds)]
    methods = [("MAML", None), ("FO-MAML", None), ("HF-MAML, printed", printed_radius())]
    methods += [("HF-MAML", r) for r in (RADII if not thin else (1e-5, 1e-2, 0.1))]
    return quadratics + [
        {"part": "log-cosh", "seed": 0, "method": method, "radius": r, "iterations": iterations}
        for method, r in methods
    ]


def printed_radius() -> float:
    """The probe length of Fallah et al. at alpha = 1/(6L)."""
    return printed_probe_length(log_cosh_lipschitz(SIZE, CURVATURE), 1 / (6 * CURVATURE))


def run(case: Case) -> list[Row]:
    return _quadratics(case["seed"]) if case["part"] == "quadratics" else _log_cosh(case)


def _quadratics(seed: int) -> list[Row]:
    """FO's floor at its fixed point on quadratics of curvature at most 1."""
    settings = [(alpha, 1.0, 1.0) for alpha in ALPHAS]
    settings += [(0.1, spread, 1.0) for spread in SPREADS] + [(0.1, 1.0, mix) for mix in MIXES]
    rows: list[Row] = []
    for alpha, spread, mix in dict.fromkeys(settings):
        distribution = LinearRegression(SIZE, (0.1, 1.0), spread, mix, pool=TASKS)
        tasks = distribution.sample("train", range(TASKS), seed)
        problem = Problem(linear(SIZE), HalfSquaredLoss(), alpha)
        first_order, exact = problem.meta_gradient(FirstOrder()), problem.meta_gradient()
        end = zero_of(lambda w, p=problem, g=first_order, t=tasks: gradient_at(p, g, w, t), SIZE)  # type: ignore[misc]  # no type is inferred for defaults
        floor = float(gradient_at(problem, exact, end, tasks).norm())
        rows.append({"alpha": alpha, "spread": spread, "heterogeneity": mix, "floor": floor})
    return rows


def _log_cosh(case: Case) -> list[Row]:
    """|grad F| where a method comes to rest on log-cosh tasks, whose L and rho are known globally."""
    outer_gradient = (
        SecondOrder()
        if case["method"] == "MAML"
        else FirstOrder()
        if case["method"] == "FO-MAML"
        else FiniteDifference(case["radius"])
    )
    tasks = LinearRegression(SIZE, (0.1, CURVATURE), pool=TASKS).sample("train", range(TASKS), case["seed"])
    problem = Problem(linear(SIZE), LogCoshLoss(), 1 / (6 * CURVATURE))
    for _ in descend(problem.meta_gradient(outer_gradient), lambda k: tasks, case["iterations"], 0.5):
        pass
    end = problem.weights
    rest = gradient_at(problem, problem.meta_gradient(outer_gradient), end, tasks).norm()
    floor = gradient_at(problem, problem.meta_gradient(), end, tasks).norm()
    return [{"alpha": problem.alpha, "floor": float(floor), "at_rest": float(rest)}]


def judge(rows: Sequence[Row]) -> list[Check]:
    quadratics, log_cosh = select(rows, part="quadratics"), select(rows, part="log-cosh")
    seeds = sorted({row["seed"] for row in quadratics})
    by_alpha = [
        {row["alpha"]: row["floor"] for row in select(quadratics, seed=seed, spread=1.0, heterogeneity=1.0)}
        for seed in seeds
    ]
    ratios = [floors[a] / floors[b] for floors in by_alpha for a, b in ((0.1, 0.05), (0.05, 0.025))]
    by_spread = [
        {row["spread"]: row["floor"] for row in select(quadratics, seed=seed, alpha=0.1, heterogeneity=1.0)}
        for seed in seeds
    ]
    linear_in = [f[b] / f[a] for f in by_spread for a, b in pairwise(SPREADS)]
    equal = max(row["floor"] for row in select(quadratics, heterogeneity=0.0))
    floor = {(row["method"], row["radius"]): row["floor"] for row in log_cosh}
    printed = floor["HF-MAML, printed", printed_radius()]
    return [
        within("A3a: FO's floor, ratio per halving of alpha <= 0.1, least", min(ratios), 1.9, 2.1),
        within("A3a: ... most", max(ratios), 1.9, 2.1),
        within("A3a: FO's floor, ratio per doubling of the spread, least", min(linear_in), 1.999, 2.001),
        within("A3a: ... most", max(linear_in), 1.999, 2.001),
        below("A3a: FO's floor where all Hessians are equal", equal, 1e-12),
        below("A3b: MAML", floor["MAML", None], 1e-12),
        below("A3b: HF, r = 1e-5", floor["HF-MAML", 1e-5], 1e-11),
        above("A3b: FO", floor["FO-MAML", None], 5e-3),
        within("A3b: HF's floor at r = 0.1 over that at 0.01", floor["HF-MAML", 0.1] / floor["HF-MAML", 0.01], 90, 110),
        above("HF with the printed r = 1/(6 rho alpha) has a floor", printed, 1e-4),
        below("... below FO's", printed, floor["FO-MAML", None]),
    ]


def draw(rows: Sequence[Row]) -> Figure:
    quadratics, log_cosh = select(rows, part="quadratics"), select(rows, part="log-cosh")
    figure = Figure(figsize=(15, 4), layout="constrained")
    axes = figure.subplots(1, 4)
    panels = (
        ("alpha", {"spread": 1.0, "heterogeneity": 1.0}, "inner rate α (L = 1)"),
        ("spread", {"alpha": 0.1, "heterogeneity": 1.0}, "spread of the tasks' optima"),
        ("heterogeneity", {"alpha": 0.1, "spread": 1.0}, "heterogeneity of the tasks' Hessians"),
    )
    for ax, (key, fixed, label) in zip(axes, panels, strict=False):
        for seed in sorted({row["seed"] for row in quadratics}):
            line = sorted(select(quadratics, seed=seed, **fixed), key=lambda row: row[key])
            x, y = [row[key] for row in line], [row["floor"] for row in line]
            if key == "heterogeneity":
                ax.plot(x, y, "o-", color="tab:orange", alpha=0.5 + 0.2 * (seed == 0))
            else:
                ax.loglog(x, y, "o-", color="tab:orange", alpha=0.5 + 0.2 * (seed == 0))
                ax.loglog(x, [y[0] * value / x[0] for value in x], ":", color="black", linewidth=1)
        ax.set(xlabel=label)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("‖∇F‖ at FO-MAML's fixed point")
    titles = (
        "quadratics, each line a draw of tasks\n(dotted: ∝ α)",
        "(dotted: ∝ spread)",
        "(zero where all Hessians are equal)",
    )
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, fontsize=10)
    for ax, ticks in ((axes[0], ALPHAS), (axes[1], SPREADS)):
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    last = axes[3]
    scan = sorted(select(log_cosh, method="HF-MAML"), key=lambda row: row["radius"])
    last.loglog([row["radius"] for row in scan], [row["floor"] for row in scan], "o-", label="HF-MAML")
    radius = printed_radius()
    printed = select(log_cosh, method="HF-MAML, printed")[0]["floor"]
    last.loglog([radius], [printed], "*", markersize=14, color="tab:red", label="HF-MAML, r = 1/(6ρα)")
    last.axhline(select(log_cosh, method="FO-MAML")[0]["floor"], color="tab:orange", label="FO-MAML")
    last.axhline(select(log_cosh, method="MAML")[0]["floor"], color="tab:green", label="MAML")
    last.set(xlabel="probe length r", ylabel="‖∇F‖ at rest", ylim=(1e-18, 0.1))
    last.set_title("log-cosh tasks, α = 1/(6L)", fontsize=10)
    last.grid(alpha=0.3)
    last.legend(fontsize=8, loc=(0.25, 0.12))
    return figure


FIRST_ORDER_FLOOR = Experiment("first-order-floor", "Fallah et al. 2020, table 1", cases, run, judge, draw)
