"""A8: sinusoid regression with every estimator (Ji, Yang, Liang 2020, section 5.2; Finn et al. 2017, section 5.1).

1-40-40-1, 10 shots, 25 tasks a batch, Adam 1e-3, inner rate 0.01. The papers' ranking is claimed for smooth networks
only: across the kinks of ReLU the probes are biased.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from experiments.experiment import Case, Check, Experiment, Row, above, below, mean_of, within
from experiments.problem import Problem, descend
from experiments.sinusoid_figure import draw
from litmaml.data import Sinusoid
from litmaml.models import MLP
from litmaml.outer import FiniteDifference, FirstOrder, GaussianSmoothing, OuterGradient, SecondOrder, ZerothOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.statistics.interval import curve
from litmaml.tasks import Tasks

METHODS: dict[str, OuterGradient] = {
    "MAML": SecondOrder(),
    "HF-MAML": FiniteDifference(),
    "GGS-MAML": GaussianSmoothing(10, 1e-2),
    "FO-MAML": FirstOrder(),
    "ZO-MAML (ji)": ZerothOrder(10, 1e-2, "ji"),
    "ZO-MAML (mean)": ZerothOrder(10, 1e-2, "mean"),
    "joint": SecondOrder(),  # without inner steps in training
}
FOUR = ("MAML", "HF-MAML", "GGS-MAML", "FO-MAML")
BATCH, TEST_STEPS = 25, 10
GRID = torch.linspace(-5, 5, 101).reshape(1, -1, 1)


def cases(seeds: int, thin: bool) -> list[Case]:
    def several(methods: Sequence[str], activation: str, steps: int, seeds: int, iterations: int) -> list[Case]:
        share, test_tasks = (200, 60) if thin else (1, 6000)  # of 600 the mean is known to 9% only
        shape = {"activation": activation, "steps": steps, "iterations": iterations // share, "test_tasks": test_tasks}
        return [{**shape, "method": m, "seed": seed} for m in methods for seed in range(seeds)]

    # The longest first: they would else run alone at the end. What no pass line is about has fewer seeds.
    return [
        *several((*FOUR, "ZO-MAML (mean)"), "tanh", 5, 1, 1000),
        *several(FOUR, "relu", 5, 1, 1000),
        *several(tuple(METHODS), "tanh", 1, seeds, 2000),
        *several(FOUR, "relu", 1, min(seeds, 2), 2000),
    ]


def run(case: Case) -> list[Row]:
    """MSE on test tasks after 0 to 10 inner steps, and the curves fitted to one of them."""
    torch.manual_seed(case["seed"])
    model = MLP(activation=case["activation"], init="fan_in")
    problem = Problem(model, nn.MSELoss(), 0.01, case["steps"])
    distribution = Sinusoid()

    def tasks(k: int) -> Tasks:
        return distribution.sample("train", range(BATCH * k, BATCH * (k + 1)), case["seed"])

    steps = 0 if case["method"] == "joint" else case["steps"]
    gradient_of = MetaGradientOf(problem.inner_loop(), METHODS[case["method"]], steps, seed=case["seed"])
    for _ in descend(gradient_of, tasks, case["iterations"], 1e-3, torch.optim.Adam):
        pass
    loop, rows = problem.inner_loop(), []
    test = distribution.sample("test", range(case["test_tasks"]), case["seed"])
    values = []
    for fast in loop.path(test, TEST_STEPS):
        with torch.no_grad():
            values.append(loop.losses(fast, {}, test.query))
    for step, interval in enumerate(curve(torch.stack(values, dim=1))):
        rows.append({"inner_step": step, "mse": interval.mean, "half_width": interval.half_width})
    if case["seed"] == 0:
        rows += _fitted(problem, distribution.sample("test", [7], 0))
    return rows


def _fitted(problem: Problem, task: Tasks) -> list[Row]:
    """What the network gives for one task on a grid, after 0, 1 and 10 inner steps; its support points too."""
    loop, rows = problem.inner_loop(), []
    for step, fast in enumerate(loop.path(task, TEST_STEPS)):
        if step in (0, 1, TEST_STEPS):
            with torch.no_grad():
                y = loop.predict(fast, GRID).flatten().tolist()
            rows += [{"curve": step, "x": a, "y": b} for a, b in zip(GRID.flatten().tolist(), y, strict=True)]
    for kind, batch in (("support", task.support[0]), ("query", task.query)):
        pairs = zip(batch.inputs.flatten().tolist(), batch.targets.flatten().tolist(), strict=True)
        rows += [{"curve": kind, "x": a, "y": b} for a, b in pairs]
    return rows


def judge(rows: Sequence[Row]) -> list[Check]:
    def mse(method: str) -> float:
        return mean_of(rows, "mse", method=method, activation="tanh", steps=1, inner_step=1)

    maml, first, zeroth = mse("MAML"), mse("FO-MAML"), mse("ZO-MAML (ji)")
    return [
        below("A8: tanh, N = 1: MSE of MAML after 1 step", maml, 1),
        within("A8: ... HF over MAML", mse("HF-MAML") / maml, 0.97, 1.03),
        below("A8: ... GGS", mse("GGS-MAML"), 1),
        within("A8: ... FO, between MAML and ZO", first, maml, zeroth),
        above("A8: ... ZO (ji)", zeroth, 2.5),
        below("A8: ... MAML over joint training", maml / mse("joint"), 0.5),
    ]


SINUSOID = Experiment("sinusoid", "Ji et al. 2020, section 5.2", cases, run, judge, draw)
