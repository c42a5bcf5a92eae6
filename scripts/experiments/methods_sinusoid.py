"""B8: sinusoid regression by the other methods: 1-40-40-1 tanh, 10 shots, 25 tasks a batch, Adam 1e-3 outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from experiments.experiment import Case, Check, Row, above, below, mean_of
from litmaml.data import Sinusoid
from litmaml.inner import SGD, InnerOptimizer, MetaCurvature, Proximal
from litmaml.inner.loop import InnerLoop
from litmaml.learner.outer_optimizer import groups_of
from litmaml.models import MLP, ContextMLP
from litmaml.outer import FirstOrder, MultiStepLoss, OuterGradient, OuterLoss, Reptile, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.statistics.interval import interval

BATCH = 25


@dataclass(frozen=True)
class Method:
    """How it is trained: N, the inner optimizer, the outer gradient, the outer rate of what is learnt inside."""

    iterations: int
    inner: Callable[[], InnerOptimizer]
    steps: int = 5
    outer: Callable[[], OuterGradient] = SecondOrder
    rates_lr: float | None = None
    context: bool = False
    multi_step: bool = False


METHODS: dict[str, Method] = {
    "MAML": Method(2000, lambda: SGD(0.01)),
    "FO-MAML": Method(2000, lambda: SGD(0.01), outer=FirstOrder),
    "MAML, multi-step loss": Method(2000, lambda: SGD(0.01), multi_step=True),
    "CAVIA": Method(2000, lambda: SGD(0.3), context=True),
    "Reptile": Method(2000, lambda: SGD(0.02), 32, Reptile),
    "MAML, 1000": Method(1000, lambda: SGD(0.01)),
    "Meta-Curvature, 1000": Method(1000, lambda: MetaCurvature(SGD(0.01))),
    "Meta-SGD, 1000": Method(1000, lambda: SGD(0.01, learn="parameter"), rates_lr=1e-4),
    "LSLR, 1000": Method(1000, lambda: SGD(0.01, learn="tensor", per_step=True), rates_lr=1e-4),
    "MAML, proximal, 600": Method(600, lambda: Proximal(SGD(0.02), 10.0), 16),
    "Meta-MinibatchProx, 600": Method(600, lambda: Proximal(SGD(0.02), 10.0), 16, Reptile),
}


def cases(seeds: int, thin: bool) -> list[Case]:
    share, test_tasks = (100, 60) if thin else (1, 6000)  # of 600 the mean is known to 9% only
    shape = {"part": "sinusoid", "test_tasks": test_tasks}
    return [
        {**shape, "method": name, "seed": seed, "iterations": method.iterations // share}
        for name, method in METHODS.items()
        for seed in range(seeds)
    ]


def run(case: Case) -> list[Row]:
    """MSE on test tasks after each of N steps (of at most 10 where N is more)."""
    torch.manual_seed(case["seed"])
    method, distribution = METHODS[case["method"]], Sinusoid()
    model: nn.Module = ContextMLP(init="fan_in") if method.context else MLP(init="fan_in")
    fast = ["context"] if method.context else ["*"]
    loop = InnerLoop(model, nn.MSELoss(), method.inner(), fast, method.steps)
    loss = MultiStepLoss(max(case["iterations"] // 4, 1)) if method.multi_step else OuterLoss()
    gradient_of = MetaGradientOf(loop, method.outer(), method.steps, seed=case["seed"], outer_loss=loss)
    weights = {name: weight for name, weight in loop.named_parameters() if weight.requires_grad}
    groups = groups_of(loop, method.rates_lr)
    outer = torch.optim.Adam(groups, lr=1e-3)
    for k in range(case["iterations"]):
        gradient_of.epoch = k
        found = gradient_of(distribution.sample("train", range(BATCH * k, BATCH * (k + 1)), case["seed"]))
        for name, weight in weights.items():
            weight.grad = found.gradients[name]
        outer.step()
    test = distribution.sample("test", range(case["test_tasks"]), case["seed"])
    rows: list[Row] = []
    for step, fast_weights in enumerate(loop.path(test, min(method.steps, 10))):
        with torch.no_grad():
            values = loop.loss_of(loop.predict(fast_weights, test.query.inputs), test.query.targets)
        of_all = interval(values)
        worst = float(values.sort().values[-case["test_tasks"] // 10 :].mean())
        rows.append({"inner_step": step, "mse": of_all.mean, "half_width": of_all.half_width, "worst_tenth": worst})
    return rows


def judge(rows: Sequence[Row]) -> list[Check]:
    def mse(method: str) -> float:
        return mean_of(rows, "mse", method=method, inner_step=min(METHODS[method].steps, 10))

    maml, short, held = mse("MAML"), mse("MAML, 1000"), mse("MAML, proximal, 600")
    return [
        below("B8: MAML", maml, 0.45),
        above("B8: FO-MAML over MAML", mse("FO-MAML") / maml, 1.2),
        below("B8: the multi-step loss, off MAML", abs(mse("MAML, multi-step loss") / maml - 1), 0.15),
        below("B8: CAVIA over MAML", mse("CAVIA") / maml, 0.6),
        below("B8: Reptile after 10 steps", mse("Reptile"), 0.6),
        below("B8: Meta-Curvature over MAML", mse("Meta-Curvature, 1000") / short, 0.5),
        below("B8: Meta-SGD over MAML", mse("Meta-SGD, 1000") / short, 0.7),
        below("B8: LSLR over MAML", mse("LSLR, 1000") / short, 0.9),
        below("B8: Meta-MinibatchProx over MAML through proximal steps", mse("Meta-MinibatchProx, 600") / held, 1.1),
    ]
