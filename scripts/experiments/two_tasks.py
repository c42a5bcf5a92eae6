"""Two quadratic tasks in the plane: where each method ends, what that costs, and where adaptation leads from there."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experiments.closed_forms import fixed_point, matrix, reptile, zero_of
from experiments.experiment import Row
from experiments.problem import Problem, gradient_at, linear
from litmaml.outer import FirstOrder, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.problems import HalfSquaredLoss
from litmaml.problems.linear_regression import linear_tasks
from litmaml.tasks import Tasks

HESSIANS = torch.tensor([[[0.9, 0.35], [0.35, 0.4]], [[0.15, -0.05], [-0.05, 0.3]]], dtype=torch.float64)
OPTIMA = torch.tensor([[-1.0, 0.3], [1.2, -0.4]], dtype=torch.float64)
ALPHA = 0.4
STEPS = (1, 2, 5)


def two_tasks() -> list[Row]:
    """Two tasks in the plane: where each method ends, what it costs, and where adaptation leads from there."""
    a, c = HESSIANS, OPTIMA
    tasks, half = linear_tasks(a, c), torch.tensor([0.5, 0.5], dtype=torch.float64)
    rows: list[Row] = []
    for method, steps in (("joint", 1), ("FO-MAML", 1), ("MAML", 1), ("MAML", 5), ("Reptile", 5), ("ZO-MAML (ji)", 1)):
        problem = Problem(linear(2), HalfSquaredLoss(), ALPHA, steps)
        if method == "Reptile":
            found = zero_of(lambda w, p=problem: reptile(p, w, tasks), 2)  # type: ignore[misc]  # no type is inferred for defaults
        elif method.startswith("ZO"):
            found = fixed_point(method, a, c, ALPHA, steps, half)
        else:
            gradient_of = MetaGradientOf(
                problem.inner_loop(),
                FirstOrder() if method == "FO-MAML" else SecondOrder(),
                0 if method == "joint" else steps,
            )
            found = zero_of(lambda w, p=problem, g=gradient_of: gradient_at(p, g, w, tasks), 2)  # type: ignore[misc]  # no type is inferred for defaults
        error = (found - fixed_point(method, a, c, ALPHA, steps, half)).abs().max()
        rows += [{"method": method, "inner_steps": steps, "error": float(error), **_landing(problem, found, tasks)}]
    for steps in STEPS:
        problem = Problem(linear(2), HalfSquaredLoss(), ALPHA, steps)
        middle = _landing(problem, c.mean(0), tasks)
        best = _landing(problem, fixed_point("MAML", a, c, ALPHA, steps, half), tasks)
        m0, m1 = (matrix("MAML", one, ALPHA, steps) for one in a)
        d = c[0] - c[1]
        parallel = 0.5 * float(d @ torch.linalg.solve(m0.inverse() + m1.inverse(), d))
        gap = 0.125 * float((m0 - m1) @ d @ torch.linalg.solve(m0 + m1, (m0 - m1) @ d))
        one = torch.eye(2, dtype=torch.float64)
        tuned = c[0] + 0.5 * torch.linalg.matrix_power(one - ALPHA * a[0], steps) @ (c[1] - c[0])
        rows += [
            {"method": "midpoint", "inner_steps": steps, "error": abs(2 * (middle["F"] - best["F"]) - gap), **middle},
            {"method": "parallel sum", "inner_steps": steps, "error": abs(2 * best["F"] - parallel), "gap": gap},
            {
                "method": "fine-tuned midpoint",
                "inner_steps": steps,
                "error": math.dist((middle["x0"], middle["y0"]), tuned.tolist()),
            },
        ]
    return rows


def _landing(problem: Problem, w: Tensor, tasks: Tasks) -> Row:
    """A point, F there, and where each of the two tasks takes it."""
    problem.weights = w
    inner_loop = problem.inner_loop()
    *_, fast = inner_loop.path(tasks, problem.steps)
    ends = next(iter(fast.values())).detach().flatten(1)
    with torch.no_grad():
        loss = inner_loop.losses(fast, {}, tasks.query).mean()
    (x0, y0), (x1, y1) = ends.tolist()
    return {"x": float(w[0]), "y": float(w[1]), "F": float(loss), "x0": x0, "y0": y0, "x1": x1, "y1": y1}
