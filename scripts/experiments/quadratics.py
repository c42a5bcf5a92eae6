"""A1: what each method converges to on quadratics (Golmant 2018, "MAML on quadratics"), in closed form.

On tasks 1/2 (w - c_i)' A_i (w - c_i) with weights p_i every method's fixed point is (sum p M)^-1 sum p M c, with a
matrix M_i that tells the methods apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.closed_forms import fixed_point, hessians, matrix, reptile, zero_of
from experiments.experiment import Case, Check, Experiment, Row, above, below, column, select, within
from experiments.problem import Problem, descend, flat, gradient_at, linear, stacked
from experiments.quadratics_figure import draw
from experiments.two_tasks import STEPS, two_tasks
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FiniteDifference, FirstOrder, GaussianSmoothing, OuterGradient, SecondOrder, ZerothOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.problems import HalfSquaredLoss, LogCoshLoss
from litmaml.problems.linear_regression import LinearRegression, linear_tasks
from litmaml.tasks import Batch, Tasks
from litmaml.tasks import select as pick

SIZE = 6
WEIGHTS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
COPIES = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]  # a mean over these tasks has the weights above
EXACT: dict[str, OuterGradient] = {"MAML": SecondOrder(), "HF-MAML": FiniteDifference(), "FO-MAML": FirstOrder()}
SAMPLED: dict[str, OuterGradient] = {
    "GGS-MAML": GaussianSmoothing(10, 1e-2),
    "ZO-MAML (ji)": ZerothOrder(10, 1e-2, "ji"),
}


def cases(seeds: int, thin: bool) -> list[Case]:
    size = {"draws": 5, "repeats": 10} if thin else {"draws": 250, "repeats": 40}
    points = [{"part": "fixed points", "seed": seed, "steps": n, **size} for seed in range(seeds) for n in STEPS]
    return [*points, *({"part": part, "seed": 0, "steps": 1} for part in ("two tasks", "attenuation", "convexity"))]


def run(case: Case) -> list[Row]:
    parts = {
        "fixed points": _fixed_points,
        "two tasks": lambda case: two_tasks(),
        "attenuation": _attenuation,
        "convexity": _convexity,
    }
    return parts[case["part"]](case)


def _fixed_points(case: Case) -> list[Row]:
    steps = case["steps"]
    tasks = LinearRegression(SIZE, (0.2, 3.0), pool=4).sample("train", range(4), case["seed"])
    a, c = hessians(tasks)
    alpha = 0.6 / float(torch.linalg.eigvalsh(a).max())
    problem = Problem(linear(SIZE), HalfSquaredLoss(), alpha, steps)
    weighted = pick(tasks, COPIES)
    rows: list[Row] = []

    def compare(method: str, found: Tensor) -> None:
        error = (found - fixed_point(method, a, c, alpha, steps, WEIGHTS)).abs().max()
        rows.append({"method": method, "error": float(error)})

    for method, outer_gradient in EXACT.items():
        gradient_of = problem.meta_gradient(outer_gradient)
        compare(method, zero_of(lambda w, g=gradient_of: gradient_at(problem, g, w, weighted), SIZE))  # type: ignore[misc]  # no type is inferred for defaults
    untouched = MetaGradientOf(problem.inner_loop(), SecondOrder(), 0)
    compare("joint", zero_of(lambda w: gradient_at(problem, untouched, w, weighted), SIZE))
    compare("Reptile", zero_of(lambda w: reptile(problem, w, weighted), SIZE))
    for method, outer_gradient in SAMPLED.items():
        # At the fixed point of the expectation the mean gradient vanishes, up to its standard error.
        problem.weights = fixed_point(method, a, c, alpha, steps, WEIGHTS)
        copies = stacked(weighted, case["draws"])
        # Other directions in every case, so that the scores are independent.
        seeds = [10_000 * case["seed"] + 100 * steps + draw for draw in range(case["repeats"])]
        drawn = [flat(problem.meta_gradient(outer_gradient, seed=s)(copies).gradients) for s in seeds]
        means = torch.stack(drawn)
        score = means.mean(0).abs() / (means.std(0) / len(means) ** 0.5)
        away = _norm_at(problem, fixed_point("joint", a, c, alpha, steps, WEIGHTS), weighted)
        rows.append({"method": method, "score": float(score.max()), "share": float(means.mean(0).norm()) / away})
    rows += _values(problem, a, c, weighted)
    return rows


def _values(problem: Problem, a: Tensor, c: Tensor, weighted: Tasks) -> list[Row]:
    """F at its minimiser, its derivative by the inner rate, and the largest stable outer step."""
    alpha, steps = problem.alpha, problem.steps
    m = torch.stack([matrix("MAML", one, alpha, steps) for one in a])
    weighted_m = (WEIGHTS[:, None, None] * m).sum(0)
    b = (WEIGHTS[:, None, None] * m @ c.unsqueeze(-1)).sum(0).squeeze(-1)
    least = 0.5 * float((WEIGHTS * torch.einsum("ti,tij,tj->t", c, m, c)).sum() - b @ torch.linalg.solve(weighted_m, b))
    problem.weights = torch.linalg.solve(weighted_m, b)
    rate = MetaGradientOf(
        InnerLoop(problem.model, problem.loss, SGD(alpha, learn="one"), ["*"], steps), SecondOrder(), steps
    )
    result = rate(weighted)
    apart = problem.weights - c
    one = torch.eye(SIZE, dtype=torch.float64)
    by_rate = -steps * sum(
        float(p * d @ h @ h @ torch.linalg.matrix_power(one - alpha * h, 2 * steps - 1) @ d)
        for p, d, h in zip(WEIGHTS, apart, a, strict=True)
    )
    measured = float(result.gradients["learnt.rate"])
    rows: list[Row] = [
        {"method": "minimum of F", "error": abs(float(result.loss) - least)},
        {"method": "dF/dalpha", "error": abs(measured - by_rate)},
    ]
    limit = 2 / float(torch.linalg.eigvalsh(weighted_m).max())
    for factor in (0.95, 1.05):
        problem.weights = torch.linalg.solve(weighted_m, b) + 1e-3
        losses = [float(loss) for _, loss in descend(problem.meta_gradient(), lambda k: weighted, 300, factor * limit)]
        rows.append({"method": "outer step / limit", "x": factor, "y": (losses[-1] - least) / (losses[0] - least)})
    return rows


def _attenuation(case: Case) -> list[Row]:
    """The curvature lambda (1 - alpha lambda)^(2K) that F has for a task of curvature lambda; alpha = 1."""
    grid = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    rows: list[Row] = []
    for steps in STEPS:
        problem = Problem(linear(1), HalfSquaredLoss(), 1.0, steps)
        problem.weights = torch.ones(1, dtype=torch.float64)
        # At distance 1 from the optimum F is half its curvature.
        values = 2 * problem.meta_gradient()(linear_tasks(grid[:, None, None], torch.zeros(49, 1).double())).losses
        rows += [
            {"method": "MAML", "inner_steps": steps, "x": x, "y": y, "error": abs(y - x * (1 - x) ** (2 * steps))}
            for x, y in zip(grid.tolist(), values.tolist(), strict=True)
        ]
    return rows


def _convexity(case: Case) -> list[Row]:
    """F'' for the convex f with f' = (tanh 3(x - 1) + tanh 3(x + 1)) / 2 at alpha = 0.9 / L."""
    inputs = torch.full((1, 2, 1), 3.0, dtype=torch.float64)
    batch = Batch(inputs, torch.tensor([[[3.0], [-3.0]]], dtype=torch.float64))
    tasks = Tasks((batch,), batch, torch.zeros(1, dtype=torch.int64))
    # f is a third of the mean of log cosh(3x - 3) and log cosh(3x + 3); its curvature is largest at x = 1.
    curvature = 1.5 * (1 + 1 / math.cosh(6) ** 2)
    problem = Problem(linear(1), LogCoshLoss(), 0.9 / curvature / 3)
    gradient_of = problem.meta_gradient()
    rows: list[Row] = []
    step = 1e-4
    for x in torch.linspace(0, 2, 201, dtype=torch.float64):
        ahead, behind = (gradient_at(problem, gradient_of, (x + s).reshape(1), tasks) for s in (step, -step))
        here = MetaGradientOf(problem.inner_loop(), SecondOrder(), 0)
        f_ahead, f_behind = (gradient_at(problem, here, (x + s).reshape(1), tasks) for s in (step, -step))
        rows.append(
            {
                "x": float(x),
                "y": float(ahead - behind) / (2 * step) / 3,
                "before": float(f_ahead - f_behind) / (2 * step) / 3,
            }
        )
    return rows


def _norm_at(problem: Problem, w: Tensor, tasks: Tasks) -> float:
    return float(gradient_at(problem, problem.meta_gradient(), w, tasks).norm())


def judge(rows: Sequence[Row]) -> list[Check]:
    exact = [row for row in rows if row.get("error") is not None and row["part"] != "attenuation"]
    sampled = [row for row in rows if row.get("score") is not None]
    ends = select(rows, method="outer step / limit")
    curve = select(rows, part="attenuation")
    peak = max(
        abs(max(select(curve, inner_steps=steps), key=lambda row: row["y"])["x"] - 1 / (2 * steps + 1))
        for steps in STEPS
    )
    bent = select(rows, part="convexity")
    lowest = min(bent, key=lambda row: row["y"])
    return [
        below(
            "A1: largest error of a closed form (fixed points, values, derivatives)", max(column(exact, "error")), 1e-7
        ),
        below(
            "A1: GGS and ZO in expectation, standard errors from their fixed points", max(column(sampled, "score")), 5
        ),
        above(
            "A1: the midpoint of two tasks costs more than MAML's point",
            min(column(select(rows, method="parallel sum"), "gap")),
            0,
        ),
        below("A1: outer step at 0.95 of 2/lambda_max converges", max(column(select(ends, x=0.95), "y")), 1e-2),
        above("A1: outer step at 1.05 of 2/lambda_max diverges", min(column(select(ends, x=1.05), "y")), 1e2),
        below("A1: curvature of F against lambda (1 - alpha lambda)^(2K)", max(column(curve, "error")), 1e-12),
        below("A1: its peak against 1/(alpha (2K + 1)), on a grid of 0.02", peak, 0.011),
        within("F'' of a convex, smooth task reaches -0.19", lowest["y"], -0.195, -0.185),
        within("F'' is lowest at x = 0.856", lowest["x"], 0.845, 0.865),
    ]


QUADRATICS = Experiment("quadratics", "Golmant 2018", cases, run, judge, draw)
