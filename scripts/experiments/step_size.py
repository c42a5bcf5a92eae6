"""A9: outer steps beta_k = c / L~(w_k) from theory (Fallah, Mokhtari, Ozdaglar 2020, arXiv 1908.10400).

On log-cosh tasks, whose L and rho are known everywhere. The step is the one of ``AdaptiveMetaStep``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.experiment import Case, Check, Experiment, Row, above, below, column, mean_of, select
from experiments.problem import Problem, descend, flat, gradient_at, linear, log_cosh_lipschitz, outer_gradients
from litmaml.data import Episode
from litmaml.measure.hessians import gradient_norms
from litmaml.measure.theory import outer_smoothness, step_batches, step_constant
from litmaml.outer import SecondOrder
from litmaml.problems import LinearRegression, LogCoshLoss
from litmaml.tasks import Tasks

SIZE, CURVATURE, POOL = 3, (1.0, 4.0), 400
L = CURVATURE[1]
RHO = log_cosh_lipschitz(SIZE, L)
# Inner rates that the theorems allow.
ALPHAS = {"MAML": 1 / L, "FO-MAML": 1 / (10 * L), "HF-MAML": 1 / (6 * L)}
COLOURS = {"MAML": "tab:green", "FO-MAML": "tab:orange", "HF-MAML": "tab:blue"}
BATCHES, SAMPLES = (20, 80, 320), (1, 4, 64)


def cases(seeds: int, thin: bool) -> list[Case]:
    exact = [
        {"part": "exact", "method": m, "seed": seed, "iterations": 100 if thin else 1000}
        for m in ALPHAS
        for seed in range(seeds)
    ]
    noisy = [("batch", batch, 16) for batch in BATCHES] + [("samples", 320, samples) for samples in SAMPLES]
    return [
        *exact,
        *(
            {"part": part, "batch": b, "samples": d, "seed": seed, "iterations": 20 if thin else 600}
            for part, b, d in noisy
            for seed in range(seeds)
        ),
        *({"part": "moments", "seed": seed, "draws": 300 if thin else 2000} for seed in range(seeds)),
    ]


def run(case: Case) -> list[Row]:
    return {"exact": _exact, "moments": _moments}.get(case["part"], _noisy)(case)


def smoothness_at(problem: Problem, tasks: Tasks) -> float:
    """L~(w) for one inner step, from the gradients of these tasks."""
    norm = float(gradient_norms(problem.inner_loop(), tasks.query).mean())
    return outer_smoothness(L, RHO, problem.alpha, 1, norm)


def _exact(case: Case) -> list[Row]:
    """Without noise: F, |grad F| and L(w) along the steps."""
    tasks = LinearRegression(SIZE, CURVATURE, 1.5, pool=20).sample("train", range(20), case["seed"])
    problem = Problem(linear(SIZE), LogCoshLoss(), ALPHAS[case["method"]])
    problem.weights = torch.full((SIZE,), 3.0, dtype=torch.float64)
    outer_gradient = outer_gradients()[case["method"]]
    constant, exact = step_constant(outer_gradient, 1), problem.meta_gradient()
    rows: list[Row] = []

    def beta(k: int) -> float:
        return constant / float(rows[-1]["smoothness"])

    def measured(k: int) -> Tasks:
        result = exact(tasks)
        norm = float(flat(result.gradients).norm())
        rows.append(
            {"iteration": k, "loss": float(result.loss), "norm": norm, "smoothness": smoothness_at(problem, tasks)}
        )
        return tasks

    for _ in descend(problem.meta_gradient(outer_gradient), measured, case["iterations"], beta):
        pass
    return rows


def _minimiser(seed: int) -> tuple[Problem, Tasks]:
    """A problem of POOL tasks at alpha = 1/L, at the minimiser of its exact F."""
    tasks = LinearRegression(SIZE, CURVATURE, pool=POOL).sample("train", range(POOL), seed)
    problem = Problem(linear(SIZE), LogCoshLoss(), 1 / L)
    for _ in descend(problem.meta_gradient(), lambda k: tasks, 200, 0.5):
        pass
    return problem, tasks


def _noisy(case: Case) -> list[Row]:
    """With batches of B tasks and D_in = D_h samples: how far from the minimiser the steps carry."""
    problem, clean = _minimiser(case["seed"])
    batch, seed = case["batch"], case["seed"]
    distribution = LinearRegression(
        SIZE, CURVATURE, pool=POOL, train=Episode(shots=case["samples"], queries=16, hessian_batches=1)
    )
    stream = np.random.default_rng([seed, batch, case["samples"]])
    exact = problem.meta_gradient()

    def sample(k: int, size: int) -> Tasks:
        # Task number i is member i modulo POOL of the pool; the rest of the number makes its batches fresh.
        picked = stream.integers(POOL, size=size) + POOL * (1000 * k + np.arange(size))
        return distribution.sample("train", picked.tolist(), seed)

    def beta(k: int) -> float:
        return step_constant(SecondOrder(), 1) / smoothness_at(problem, sample(10_000 + k, 10))

    rows: list[Row] = []
    for k, _ in descend(problem.meta_gradient(), lambda k: sample(k, batch), case["iterations"], beta):
        if k % 10 == 0:
            rows.append({"iteration": k, "norm": float(gradient_at(problem, exact, problem.weights, clean).norm())})
    return rows


def _moments(case: Case) -> list[Row]:
    """E[1/L~] and E[1/L~^2], with the least B' and D_beta that the lemma asks for."""
    problem, clean = _minimiser(case["seed"])
    problem.weights = torch.full((SIZE,), 1.0, dtype=torch.float64)
    spread, noise = _deviations(problem, clean)
    tasks, samples = step_batches(problem.alpha, L, RHO, spread, noise)
    true = smoothness_at(problem, clean)
    distribution = LinearRegression(SIZE, CURVATURE, pool=POOL, train=Episode(queries=samples))
    stream, draws = np.random.default_rng(case["seed"]), case["draws"]
    picked = stream.integers(POOL, size=tasks * draws) + POOL * np.arange(tasks * draws)
    drawn = distribution.sample("train", picked.tolist(), case["seed"])
    norms = gradient_norms(problem.inner_loop(), drawn.query)
    estimates = torch.tensor(
        [outer_smoothness(L, RHO, problem.alpha, 1, float(n)) for n in norms.view(draws, tasks).mean(1)]
    )
    return [
        {
            "batch": tasks,
            "samples": samples,
            "first": float((true / estimates).mean()),
            "second": float((true / estimates).square().mean()),
        }
    ]


def _deviations(problem: Problem, tasks: Tasks) -> tuple[float, float]:
    """sigma and sigma~: of the tasks' gradients, and of a single sample's within its task."""
    x, y = tasks.query.inputs, tasks.query.targets
    single: Tensor = torch.tanh(x @ problem.weights - y.squeeze(-1)).unsqueeze(-1) * x
    own = single.mean(1)
    spread = (own - own.mean(0)).square().sum(1).mean().sqrt()
    noise = (single - own.unsqueeze(1)).square().sum(2).mean(1).max().sqrt()
    return float(spread), float(noise)


def judge(rows: Sequence[Row]) -> list[Check]:
    exact = select(rows, part="exact", method="MAML")
    seeds = sorted({row["seed"] for row in exact})
    rises, ratios = [], []
    for seed in seeds:
        line = select(exact, seed=seed)
        losses = column(line, "loss")
        rises += [b - a for a, b in pairwise(losses)]
        least = min(column(line, "norm")) ** 2
        ratios.append(len(line) * least / ((losses[0] - min(losses)) * max(column(line, "smoothness"))))

    def late(**wanted: int | str) -> float:
        return mean_of(
            [row for row in rows if row.get("iteration", 0) >= row.get("iterations", 0) / 2], "norm", **wanted
        )

    by_batch = [late(part="batch", batch=b) for b in BATCHES]
    by_samples = [late(part="samples", samples=d) for d in SAMPLES]
    moments = select(rows, part="moments")
    return [
        below("A9: largest rise of F in an outer step, MAML, exact", max(rises), 1e-12),
        below("A9: K min |grad F|^2 / (Delta L_max)", max(ratios), 12.6),
        *_falls("B", BATCHES, by_batch),
        *_falls("D_in", SAMPLES, by_samples),
        above("A9: E[1/L~] L", min(column(moments, "first")), 0.8),
        below("A9: E[1/L~^2] L^2", max(column(moments, "second")), 3.125),
    ]


def _falls(name: str, values: Sequence[int], norms: Sequence[float]) -> list[Check]:
    return [
        below(f"A9: mean |grad F| at {name} = {b}, against {name} = {a}", after, before)
        for (a, b), (before, after) in zip(pairwise(values), pairwise(norms), strict=True)
    ]


def draw(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(15, 4), layout="constrained")
    falling, steps, batches, samples = figure.subplots(1, 4)
    for method, colour in COLOURS.items():
        line = select(rows, part="exact", method=method, seed=0)
        c = step_constant(outer_gradients()[method], 1)
        k = column(line, "iteration")
        falling.plot(k, column(line, "loss"), color=colour, label=f"{method}, αL = {L * ALPHAS[method]:.2g}")
        steps.plot(k, [c / s for s in column(line, "smoothness")], color=colour, label=f"{method}, c = 1/{1 / c:.0f}")
    falling.set(xlabel="outer steps", ylabel="F", title="exact: F falls at every step")
    steps.set(xlabel="outer steps", ylabel="β = c / L~(w)", title="the step that the theory takes")
    for axes, part, key, name in ((batches, "batch", "batch", "B"), (samples, "samples", "samples", "D_in")):
        for value in sorted({row[key] for row in select(rows, part=part)}):
            mine = select(rows, part=part, **{key: value})
            k = sorted({row["iteration"] for row in mine})
            axes.semilogy(k, [mean_of(mine, "norm", iteration=i) for i in k], label=f"{name} = {value}")
        axes.set(xlabel="outer steps from the minimiser", ylabel="‖∇F‖, exact, mean of seeds", ylim=(3e-4, None))
    batches.set_title("noisy, D_in = 16: tasks B")
    samples.set_title("noisy, B = 320: samples D_in")
    for axes in (falling, steps, batches, samples):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


STEP_SIZE = Experiment(
    "step-size", "Fallah et al. 2020, theorems on MAML, FO-MAML and HF-MAML", cases, run, judge, draw
)
