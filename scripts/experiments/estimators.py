"""A2, A10, A11, A12: the recursion, bias and variance of the Hessian-vector products, and what probes make of them.

Ji, Yang, Liang 2020 (arXiv 2002.07836v1), propositions 5 to 7; Fallah et al. 2020 (arXiv 1908.10400).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.estimators_figure import draw
from experiments.experiment import Case, Check, Experiment, Row, above, below, column, mean_of, select, within
from experiments.hop import Hop, estimator, relative_error
from experiments.problem import Problem, flat, gradient_at, linear, vector
from litmaml.data import Episode, Sinusoid
from litmaml.models import MLP
from litmaml.outer import FiniteDifference, FirstOrder, SecondOrder
from litmaml.problems import HalfSquaredLoss, LinearRegression, LogCoshLoss, RankOne, RankOneLoss
from litmaml.tasks import Batch, map_batches

SIZE = 20
STEPS = (1, 2, 5, 10, 20, 50)
METHODS = ("GGS", "ZO ji", "ZO stein", "ZO mean")


class NoisyLoss(nn.Module):
    """The loss of a model w plus <b, w>, with b ~ N(0, noise^2 I) drawn anew at every evaluation."""

    def __init__(self, loss: nn.Module, noise: float) -> None:
        super().__init__()
        self.loss, self.noise = loss, noise

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        value: Tensor = self.loss(predictions, targets)
        return value + self.noise * (torch.randn_like(predictions) * predictions).sum()


def cases(seeds: int, thin: bool) -> list[Case]:
    draws = 4000 if thin else 40000
    bias = [
        # The mean baseline has a bias of its own, of order 1/Q: only many directions show that no other is left.
        {
            "part": "bias",
            "method": m,
            "samples": 500 if m == "ZO mean" else 10,
            "draws": draws // (1 + 19 * (m == "ZO mean")),
        }
        for m in METHODS
    ]
    samples = (3, 10, 100) if thin else (3, 10, 30, 100, 300, 1000)
    sizes = (5, 20, 80) if thin else (5, 10, 20, 40, 80, 160, 320)
    by_samples = [{"part": "samples", "method": m, "samples": q} for m in METHODS for q in samples]
    by_size = [{"part": "size", "method": m, "samples": 10, "size": d} for m in METHODS for d in sizes]
    probes = [{"part": "probe", "method": m, "precision": p} for m in ("HF", "GGS", "ZO mean") for p in (32, 64)]
    noise = [{"part": "noise", "seed": seed, "iterations": 60 if thin else 300} for seed in range(seeds)]
    return [{"part": "recursion"}, *bias, *by_samples, *by_size, *probes, {"part": "steps"}, *noise]


def run(case: Case) -> list[Row]:
    parts = {
        "recursion": _recursion,
        "bias": _bias,
        "samples": _spread,
        "size": _spread,
        "probe": _probe,
        "steps": _steps,
        "noise": _noise,
    }
    return parts[case["part"]](case)


def _recursion(case: Case) -> list[Row]:
    """The meta-gradient of a tanh network after 5 steps against a plain loop over tasks that autograd unrolls."""
    torch.manual_seed(0)
    problem = Problem(MLP(hidden=(16, 16), init="fan_in").double(), nn.MSELoss(), 0.02, 5)
    single = Sinusoid().sample("train", range(8), 0)
    tasks = map_batches(lambda batch: Batch(batch.inputs.double(), batch.targets.double()), single)
    weights = {name: weight.detach().requires_grad_() for name, weight in problem.model.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for k in range(tasks.size):
        fast = dict(weights)
        for _ in range(problem.steps):
            output = functional_call(problem.model, fast, (tasks.support[0].inputs[k],))
            inner = problem.loss(output, tasks.support[0].targets[k])
            gradient = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
            fast = {n: w - problem.alpha * g for (n, w), g in zip(fast.items(), gradient, strict=True)}
        output = functional_call(problem.model, fast, (tasks.query.inputs[k],))
        total = total + problem.loss(output, tasks.query.targets[k]) / tasks.size
    oracle = torch.cat([part.flatten() for part in torch.autograd.grad(total, list(weights.values()))])
    methods = {
        "MAML": SecondOrder(),
        "MAML, recompute": SecondOrder(recompute=True),
        "HF": FiniteDifference(),
        "FO": FirstOrder(),
    }
    found = {name: flat(problem.meta_gradient(method)(tasks).gradients) for name, method in methods.items()}
    return [{"method": m, "error": float((g - oracle).norm() / oracle.norm())} for m, g in found.items()]


def _bias(case: Case) -> list[Row]:
    """The mean of <v, Hop(v) - H v> / d over v ~ N(0, I): the error of the estimated Hessian's diagonal."""
    hop, draws = Hop(SIZE), case["draws"]
    v = torch.randn(draws, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, true = hop(estimator(case["method"], case["samples"], 1e-3), v, 2), v @ hop.hessian
    errors = ((found - true) * v).sum(1) / SIZE
    variance = float((found - true).square().sum(1).mean() / true.square().sum(1).mean())
    h = hop.hessian
    # E over v ~ N(0, I) of |H|_F^2 |v|^2 + |H v|^2, divided by E |H v|^2 = |H|_F^2.
    predicted = (SIZE + 1) / case["samples"]
    return [
        {
            "bias": float(errors.mean()),
            "standard_error": float(errors.std()) / draws**0.5,
            "half_trace": float(h.trace()) / 2,
            "variance": variance,
            "predicted_variance": predicted,
        }
    ]


def _spread(case: Case) -> list[Row]:
    """Root mean square of |Hop(v) - H v| / |H v|."""
    size = case.get("size", SIZE)
    hop = Hop(size)
    v = torch.randn(300, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found, true = hop(estimator(case["method"], case["samples"], 1e-3), v, 4), v @ hop.hessian
    return [{"size": size, "error": relative_error(found, true)}]


def _probe(case: Case) -> list[Row]:
    """The error against the probe length, in either precision. GGS and ZO have Q = 10: their variance is a floor."""
    dtype = torch.float32 if case["precision"] == 32 else torch.float64
    hop = Hop(SIZE, LogCoshLoss, dtype)  # a central difference is exact on a cubic
    v = torch.randn(100, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    true = v @ hop.hessian
    rows = []
    for exponent in range(-16, 2):
        probe = 10 ** (exponent / 2)
        found = hop(estimator(case["method"], 10, probe), v.to(dtype), 6)
        rows.append({"probe": probe, "error": relative_error(found.double(), true)})
    return rows


def _steps(case: Case) -> list[Row]:
    """HF and FO against the exact meta-gradient after N inner steps, at a fixed rate and at 1/(8NL)."""
    tasks = LinearRegression(SIZE, (0.05, 1.0), pool=1).sample("train", [0], 0)
    single = map_batches(lambda batch: Batch(batch.inputs.float(), batch.targets.float()), tasks)
    start = torch.randn(SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    rows: list[Row] = []
    for rate, alpha_of in (("alpha L = 1/2", lambda n: 0.5), ("alpha = 1/(8NL)", lambda n: 1 / (8 * n))):
        for steps in STEPS:
            alpha = alpha_of(steps)
            problem = Problem(linear(SIZE), HalfSquaredLoss(), alpha, steps)
            exact = gradient_at(problem, problem.meta_gradient(), start, tasks)
            first = gradient_at(problem, problem.meta_gradient(FirstOrder()), start, tasks)
            problem.model.float()
            hf = gradient_at(problem, problem.meta_gradient(FiniteDifference()), start.float(), single).double()
            rows.append(
                {
                    "rate": rate,
                    "inner_steps": steps,
                    "alpha": alpha,
                    "factor": (1 + alpha) ** (2 * steps),
                    "hf_error": float((hf - exact).norm() / exact.norm()),
                    "fo_error": float((first - exact).norm() / exact.norm()),
                }
            )
    return rows


def _noise(case: Case) -> list[Row]:
    """HF with both probes on one noisy batch, and with other noise in either probe; MAML beside them."""
    start = 0.5 * torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(case["seed"]))
    radius, rows = 1e-4, []
    noisy = RankOne(10, 1.0, (0.3, 0.3), 0.5, 0.2, pool=20, train=Episode(hessian_batches=1))
    for method, outer_gradient, distribution, loss in (
        ("MAML", SecondOrder(), noisy, RankOneLoss()),
        ("HF, same batch", FiniteDifference(radius), noisy, RankOneLoss()),
        ("HF, different batches", FiniteDifference(radius), RankOne(10, pool=20), NoisyLoss(RankOneLoss(), 0.5)),
    ):
        problem = Problem(vector(start), loss, 0.1)
        judge_problem = Problem(problem.model, RankOneLoss(), 0.1)
        clean = RankOne(10, 1.0, (0.3, 0.3), pool=20).sample("train", range(20), case["seed"])
        exact, gradient_of = judge_problem.meta_gradient(), problem.meta_gradient(outer_gradient)
        # A run would be refused, for the reason that is shown here: each probe draws anew.
        gradient_of.inner_loop.draws = isinstance(loss, NoisyLoss)
        torch.manual_seed(case["seed"])
        norms: list[float] = []
        for k in range(case["iterations"]):
            norms.append(float(flat(exact(clean).gradients).norm()))
            result = gradient_of(distribution.sample("train", range(20 * k, 20 * k + 20), case["seed"]))
            step = flat(result.gradients)
            if not bool(step.isfinite().all()) or step.norm() > 1e6:
                break
            problem.weights = problem.weights - 0.02 * step
        finite = len(norms) == case["iterations"]
        rows += [{"method": method, "iteration": k, "norm": norm, "finite": finite} for k, norm in enumerate(norms)]
    return rows


def judge(rows: Sequence[Row]) -> list[Check]:
    bias = {row["method"]: row for row in select(rows, part="bias")}
    half = bias["ZO ji"]["half_trace"]
    ggs = bias["GGS"]
    steps = select(rows, part="steps")
    recursion = {row["method"]: row["error"] for row in select(rows, part="recursion")}
    fast = max(column(select(steps, rate="alpha L = 1/2"), "hf_error"))
    slow = select(steps, rate="alpha = 1/(8NL)")
    noise = select(rows, part="noise")
    last = max(row["iteration"] for row in noise)
    late = [row for row in noise if row["iteration"] > last / 2]
    maml, same = (mean_of(late, "norm", method=m) for m in ("MAML", "HF, same batch"))
    apart = select(noise, method="HF, different batches")
    return [
        below("A2: MAML against the unrolled loop, N = 5", recursion["MAML"], 1e-10),
        below("A2: ... with recomputed steps", recursion["MAML, recompute"], 1e-10),
        below("A2: ... HF", recursion["HF"], 1e-7),
        above("A2: ... FO", recursion["FO"], 0.1),
        within("A10: error of ZO (ji)'s diagonal over tr(H)/2", bias["ZO ji"]["bias"] / half, 0.95, 1.05),
        *(
            below(f"A10: {m}'s diagonal error, share of tr(H)/2", abs(bias[m]["bias"]) / half, 0.02)
            for m in ("GGS", "ZO stein", "ZO mean")
        ),
        within("A10: GGS's variance over (d + 1)/Q", ggs["variance"] / ggs["predicted_variance"], 0.9, 1.1),
        below("A11: HF in float32, alpha L = 1/2, N up to 50", fast, 1e-3),
        below("A11: HF in float32, alpha = 1/(8NL), N up to 50", max(column(slow, "hf_error")), 1e-5),
        below("A11: (1 + alpha L)^(2N) at 1/(8NL), against e^(1/4)", max(column(slow, "factor")), math.exp(0.25)),
        below(
            "A11: FO at 1/(8NL) from the exact gradient, e^(1/8) - 1 at most",
            max(column(slow, "fo_error")),
            math.expm1(1 / 8),
        ),
        within("A12: |grad F|, HF with one batch for both probes over MAML", same / maml, 0.98, 1.02),
        above(
            "A12: |grad F|, HF with different batches, r = 1e-4: largest over first",
            min(max(column(select(apart, seed=seed), "norm")) for seed in {row["seed"] for row in apart})
            / max(column(select(apart, iteration=0), "norm")),
            100,
        ),
    ]


ESTIMATORS = Experiment("estimators", "Ji et al. 2020, propositions 5 to 7", cases, run, judge, draw)
