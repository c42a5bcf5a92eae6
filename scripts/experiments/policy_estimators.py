"""R1 to R7 and R10: what the surrogates' derivatives are, over all trajectories and on recorded ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor

from experiments.exact_mdp import (
    CREDITS,
    RATE,
    ExactMDP,
    Weighed,
    derivatives,
    meta_gradient,
    of_return,
    recorded_tasks,
    sampled,
    surrogate,
)
from experiments.experiment import Case, Check, Row, above, below, column, mean_of, select
from experiments.navigation import rollouts_of, tasks_of
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import FiniteDifference, GaussianSmoothing, OuterGradient, SecondOrder, ZerothOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.rl import GaussianPolicy, PolicySurrogate
from litmaml.rl.distributions import log_prob
from litmaml.tasks import Tasks, tree_map
from litmaml.tasks import select as some

EXACT, RECORDED = "exact", "recorded"


@contextmanager
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def cases(seeds: int, thin: bool) -> list[Case]:
    return [{"part": EXACT, "seed": seed} for seed in range(2)] + [{"part": RECORDED, "seed": 0}]


def run(case: Case) -> list[Row]:
    if case["part"] == RECORDED:
        return [*recorded()]
    with float64():
        return [*over_all(case["seed"])]


def over_all(seed: int) -> Iterator[Row]:
    mdp = ExactMDP(seed)
    slope, curved = of_return(mdp)
    for credit in (None, *CREDITS):
        for with_baseline in (True, False):
            mean, product, each = derivatives(mdp, surrogate(credit), with_baseline)
            spread = mdp.chance(mdp.start, mdp.everything()) * (each - product).square().sum((1, 2))
            yield {
                "credit": credit,
                "baseline": with_baseline,
                "first": float((mean - slope).norm()),
                "second": float((product - curved).norm() / curved.norm()),
                "size": float(product.norm() / curved.norm()),
                "noise": float(spread.sum().sqrt() / curved.norm()),
            }
    for trajectories, steps in ((1, 1), (2, 1), (1, 2)):
        tasks, chances, true = sampled(mdp, trajectories, steps)
        for corrected in (True, False):
            found = meta_gradient(mdp, tasks, steps, Weighed(chances, corrected), SecondOrder())
            error = float((found - true).norm() / true.norm())
            yield {"trajectories": trajectories, "steps": steps, "corrected": corrected, "error": error}
        if steps == 2:
            tasks.support[1].targets["gains"] = torch.zeros_like(tasks.support[1].targets["gains"])
            found = meta_gradient(mdp, tasks, steps, Weighed(chances, True), SecondOrder())
            error = float((found - true).norm() / true.norm())
            yield {"trajectories": trajectories, "steps": steps, "corrected": "first", "error": error}
    yield from of_probes(mdp)


def of_probes(mdp: ExactMDP) -> Iterator[Row]:
    """Finite differences trajectory by trajectory, and the means of sampled products, on the same trajectories."""
    tasks = recorded_tasks(mdp, 8)

    def found(which: Tasks, outer: OuterGradient, credit: float) -> Tensor:
        loop = InnerLoop(mdp.policy(), surrogate(credit), SGD(RATE), ["*"], 1)
        return MetaGradientOf(loop, outer, 1)(which).gradients["model.body.weight"]

    for credit in CREDITS:
        exact = [found(some(tasks, [k]), SecondOrder(), credit) for k in range(8)]
        probed = [found(some(tasks, [k]), FiniteDifference(), credit) for k in range(8)]
        worst = max(float((a - b).norm() / b.norm()) for a, b in zip(probed, exact, strict=True))
        yield {"credit": credit, "probes": worst}
    one = some(tasks, [0])
    many = tree_map(lambda part: part.expand(400, *part.shape[1:]), one)._replace(numbers=torch.arange(400))
    exact_one = found(one, SecondOrder(), 0.9)
    for name, outer in (("GaussianSmoothing", GaussianSmoothing(50)), ("ZerothOrder", ZerothOrder(50))):
        each = torch.stack([found(some(many, slice(k, k + 20)), outer, 0.9) for k in range(0, 400, 20)])
        error = each.std(0) / len(each) ** 0.5
        yield {"sampled": name, "off": float(((each.mean(0) - exact_one).abs() / (error + 1e-9)).max())}


def recorded() -> Iterator[Row]:
    """On 2D navigation in float32: probes, what was recorded, and what is repeated."""
    torch.manual_seed(0)
    loop = InnerLoop(GaussianPolicy(2, 2, [100, 100]), PolicySurrogate(), SGD(0.1), ["*"], 2)
    rollouts, stack = rollouts_of(loop.model, 0), tasks_of("train", range(20), 0)

    def again(which: Tasks) -> Tasks:
        found = rollouts.collect(loop, which, 2, "test").tasks
        assert isinstance(found, Tasks)
        return found

    tasks = again(stack)
    exact, probed = (MetaGradientOf(loop, outer, 2)(tasks).gradients for outer in (SecondOrder(), FiniteDifference()))
    flat, other = (torch.cat([part.flatten() for part in each.values()]) for each in (exact, probed))
    off = 0.0
    for j, fast in enumerate(loop.path(tasks, 2)):
        batch = tasks.query if j == 2 else tasks.support[j]
        logs = log_prob(loop.predict(fast, batch.inputs).detach(), batch.targets["actions"]) * batch.targets["mask"]
        off = max(off, float((logs - batch.targets["log_probs"]).abs().max()))
    once_more, alone = again(stack), again(some(stack, [7]))
    yield {
        "probes": float((other - flat).norm() / flat.norm()),
        "recorded": off,
        "repeated": float((once_more.query.inputs - tasks.query.inputs).abs().max()),
        "alone": float((alone.query.inputs[0] - tasks.query.inputs[7]).abs().max()),
    }


def judge(rows: Sequence[Row]) -> list[Check]:
    exact = select(rows, part=EXACT)
    derived = [row for row in exact if "first" in row]
    full = select(derived, credit=1.0)
    score = select(derived, credit=None, baseline=True)

    def most(key: str) -> float:
        return max(float(row[key]) for row in exact if key in row)

    checks = [
        below("R1: E of the first derivative, all surrogates", max(column(derived, "first")), 1e-12),
        below("R1: E of the second derivative, credit 1", max(column(full, "second")), 1e-12),
        above("R1: its error without credit", min(column(select(derived, credit=0.0), "second")), 0.2),
        below("R1: of the score surrogate there is no curvature", max(column(score, "size")), 1e-12),
        below("R2: score and correction", max(column(select(exact, corrected=True), "error")), 1e-12),
        above("R2: without the correction", min(column(select(exact, corrected=False), "error")), 0.01),
        above("R2: with that of the first step alone", min(column(select(exact, corrected="first"), "error")), 0.01),
        below(
            "R3: finite differences on the same trajectories",
            most("probes"),
            1e-7,
        ),
        below(
            "R4: mean of sampled products, in standard errors",
            most("off"),
            3.0,
        ),
    ]
    for seed in (0, 1):
        found = [select(derived, seed=seed, credit=credit, baseline=True)[0] for credit in CREDITS]
        falls = all(b["second"] < a["second"] for a, b in pairwise(found))
        rises = all(b["noise"] > a["noise"] for a, b in pairwise(found))
        measured = ", ".join(f"{row['second']:.2f}/{row['noise']:.1f}" for row in found)
        checks.append(Check(f"R7: bias falls, noise rises, problem {seed}", measured, falls and rises))
    of = {"part": RECORDED}
    return [
        *checks,
        below("R5: finite differences on 2D navigation, float32", mean_of(rows, "probes", **of), 1e-4),
        below("R6: the same stack again", mean_of(rows, "repeated", **of), 1e-30),
        below("R6: a task alone", mean_of(rows, "alone", **of), 1e-5),
        below("R10: log-probabilities recorded and recomputed", mean_of(rows, "recorded", **of), 1e-5),
    ]
