"""B3 to B6: what the other methods do on quadratic tasks, where it is known exactly.

Four tasks (w - c)' A (w - c) / 2 in five dimensions, eigenvalues of A in [0.2, 3], inner rate 0.6 / L.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from experiments.experiment import Case, Check, Row, below, select, within
from experiments.problem import flat, linear
from litmaml.inner import SGD, InnerOptimizer, Proximal
from litmaml.inner.loop import InnerLoop
from litmaml.outer import EvolutionStrategies, Implicit, OuterLoss, SecondOrder, WorstCaseLoss
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.problems import HalfSquaredLoss
from litmaml.problems.linear_regression import linear_tasks
from litmaml.randomness import task_streams
from litmaml.tasks import Tasks, tree_map
from litmaml.weights import Weights

D, LOW, HIGH = 5, 0.2, 3.0
ALPHA, STRENGTH, CLOSE = 0.6 / HIGH, 2.0, 0.3
EYE = torch.eye(D, dtype=torch.float64)


def problem(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Curvatures (n, d, d) and centres (n, d)."""
    stream = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(count, D, D, generator=stream, dtype=torch.float64)).Q
    inner = LOW + (HIGH - LOW) * torch.rand(count, D, generator=stream, dtype=torch.float64)
    inner[:, 0], inner[:, 1] = LOW, HIGH
    return basis @ torch.diag_embed(inner) @ basis.mT, torch.randn(count, D, generator=stream, dtype=torch.float64)


def loop_at(w: Tensor, inner: InnerOptimizer, steps: int) -> InnerLoop:
    model = linear(len(w))
    with torch.no_grad():
        model.get_parameter("weight").copy_(w[None])
    return InnerLoop(model, HalfSquaredLoss(), inner, ["*"], steps)


def proximal(case: Case) -> list[Row]:
    """B3: the unrolled gradient against N, and conjugate gradients against k, both from the exact implicit one."""
    a, c = problem(4, case["seed"])
    tasks, w = linear_tasks(a, c), torch.full((D,), 2.0, dtype=torch.float64)
    rows: list[Row] = []
    for n in (20, 35, 50):
        found = MetaGradientOf(loop_at(w, Proximal(SGD(ALPHA), STRENGTH), n), SecondOrder(), n)(tasks)
        true = (a @ torch.linalg.matrix_power(torch.linalg.inv(EYE + a / STRENGTH), 2) @ (w - c)[..., None]).mean(0)
        rows.append({"inner_steps": n, "error": float((flat(found.gradients) - true[:, 0]).norm() / true.norm())})
    system = EYE + a[0] / CLOSE
    true = torch.linalg.inv(system) @ a[0] @ torch.linalg.inv(system) @ (w - c[0])
    root = ((1 + HIGH / CLOSE) / (1 + LOW / CLOSE)) ** 0.5
    one = tree_map(lambda part: part[:1], tasks)
    for k in range(1, D + 1):
        inner = Proximal(SGD(2 / (LOW + HIGH + 2 * CLOSE)), CLOSE)
        off = flat(MetaGradientOf(loop_at(w, inner, 150), Implicit(k), 150)(one).gradients) - true
        share = float((off @ system @ off) ** 0.5 / (true @ system @ true) ** 0.5)
        rows.append({"iterations": k, "error": share, "bound": 2 * ((root - 1) / (root + 1)) ** k})
    return rows


def worst(case: Case) -> list[Row]:
    """B4: the losses of four tasks at the end of TR-MAML, and at that of MAML."""
    a, c = problem(4, case["seed"])
    tasks, rows = linear_tasks(a, c), []
    for name, loss in (("MAML", OuterLoss()), ("TR-MAML", WorstCaseLoss(tasks=4, rate=0.1).double())):
        gradient_of = MetaGradientOf(
            loop_at(torch.zeros(D, dtype=torch.float64), SGD(ALPHA), 2), SecondOrder(), 2, outer_loss=loss
        )
        weight = gradient_of.inner_loop.model.get_parameter("weight")
        for _ in range(case["iterations"]):
            found = gradient_of(tasks)
            with torch.no_grad():
                weight.sub_(0.1 * found.gradients["model.weight"])
            loss.update(tasks.numbers, found.losses)
        found = gradient_of(tasks)
        p = loss.p if isinstance(loss, WorstCaseLoss) else torch.full((4,), 0.25, dtype=torch.float64)
        rows += [{"method": name, "task": i, "F": float(found.losses[i]), "p": float(p[i])} for i in range(4)]
    return rows


def rounds(case: Case) -> list[Row]:
    """B5: F_t at the exact leader of the rounds before, summed, less the least possible sum."""
    a, c = problem(case["rounds"], case["seed"])
    m = a @ torch.linalg.matrix_power(EYE - ALPHA * a, 2)
    totals, of_c = m.cumsum(0), (m @ c[..., None]).cumsum(0)
    leaders = torch.linalg.solve(totals, of_c)[..., 0]
    before = torch.cat([torch.zeros(1, D, dtype=torch.float64), leaders[:-1]])

    def losses_at(w: Tensor, some: slice) -> Tensor:
        loop = loop_at(w, SGD(ALPHA), 1)
        *_, end = loop.path(linear_tasks(a[some], c[some]), 1)
        with torch.no_grad():
            return loop.losses(end, {}, linear_tasks(a[some], c[some]).query)

    paid = torch.stack([losses_at(w, slice(t, t + 1))[0] for t, w in enumerate(before)]).cumsum(0)
    ends = [case["rounds"] // 8, case["rounds"] // 4, case["rounds"] // 2, case["rounds"]]
    return [{"rounds": t, "regret": float(paid[t - 1] - losses_at(leaders[t - 1], slice(0, t)).sum())} for t in ends]


def evolution(case: Case) -> list[Row]:
    """B6: the variance of the outer gradient by evolution strategies, as a share of the gradient's square."""
    a, c = problem(1, case["seed"])
    q, draws, w = 10, case["draws"], torch.full((D,), 2.0, dtype=torch.float64)
    loop, method, one = loop_at(w, SGD(ALPHA), 1), EvolutionStrategies(10, 0.5), linear_tasks(a, c)
    true = flat(MetaGradientOf(loop, SecondOrder(), 1)(one).gradients)
    many: Tasks = tree_map(lambda part: part.expand(draws, *part.shape[1:]), one)
    fast = loop.start(many).fast["weight"].detach().requires_grad_()
    streams = task_streams(case["seed"], "train", range(draws), "directions")
    drawn = method.directions(Weights({"weight": fast[0].detach()}, {}), streams, 1)
    losses, _ = method.solve(loop, OuterLoss(), {"weight": fast}, {}, many._replace(directions=drawn), 1)
    each = torch.autograd.grad(losses.sum(), fast)[0].flatten(1)
    variance = float((each - true).square().sum() / draws / true.square().sum())
    return [{"variance": variance, "predicted": (D + 1) / q}]


PARTS: dict[str, Callable[[Case], list[Row]]] = {
    "proximal": proximal,
    "worst case": worst,
    "rounds": rounds,
    "evolution": evolution,
}


def cases(seeds: int, thin: bool) -> list[Case]:
    size = {"worst case": {"iterations": 300 if thin else 30_000}, "rounds": {"rounds": 40 if thin else 400}}
    size["evolution"] = {"draws": 2000 if thin else 20_000}
    return [{"part": part, "seed": seed, **size.get(part, {})} for part in PARTS for seed in range(seeds)]


def judge(rows: Sequence[Row]) -> list[Check]:
    checks: list[Check] = []
    for seed in sorted({row["seed"] for row in rows}):
        mine = select(rows, seed=seed)
        steps = [row for row in select(mine, part="proximal") if "inner_steps" in row]
        rate = math.log(steps[2]["error"] / steps[1]["error"]) / 15
        predicted = math.log(max(abs(1 - ALPHA * (LOW + STRENGTH)), abs(1 - ALPHA * (HIGH + STRENGTH))))
        checks.append(
            within("B3: log of MAML's way to iMAML per step, over the steps' own", rate / predicted, 0.98, 1.02)
        )
        solved = [row for row in select(mine, part="proximal") if "bound" in row]
        most = max(row["error"] / row["bound"] for row in solved)
        checks.append(below("B3: error of conjugate gradients over its bound", most, 1))
        losses = {name: select(mine, part="worst case", method=name) for name in ("MAML", "TR-MAML")}
        counting = [row["F"] for row in losses["TR-MAML"] if row["p"] > 1e-9]
        checks.append(below("B4: spread of the losses that count", max(counting) - min(counting), 1e-10))
        worst_of = {name: max(row["F"] for row in some) for name, some in losses.items()}
        checks.append(below("B4: worst loss over MAML's", worst_of["TR-MAML"] / worst_of["MAML"], 0.9))
        regrets = [row["regret"] for row in select(mine, part="rounds")]
        growth = [b - a for a, b in pairwise(regrets)]
        checks.append(below("B5: regret's growth as rounds double, most over least", max(growth) / min(growth), 1.4))
        (drawn,) = select(mine, part="evolution")
        checks.append(within("B6: variance over (d + 1)/Q", drawn["variance"] / drawn["predicted"], 0.97, 1.03))
    return checks
