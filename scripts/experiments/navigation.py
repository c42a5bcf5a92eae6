"""R8 and R9: 2D navigation by every method, 30 outer steps of 20 tasks, 20 trajectories of 100 steps each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from experiments.experiment import Case, Check, Row, above, below, mean_of
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.outer import (
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    OuterGradient,
    OuterLoss,
    SecondOrder,
    ZerothOrder,
)
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.rl import (
    GaussianPolicy,
    Navigation,
    PolicySurrogate,
    ProMP,
    RepeatedAdam,
    Rollouts,
    ScoreCorrection,
    TrustRegion,
)
from litmaml.statistics.interval import interval
from litmaml.tasks import Split, Tasks

TASKS, RATE = 20, 0.1


def _adam(weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(weights, lr=0.01)


@dataclass(frozen=True)
class Method:
    """How it is trained."""

    outer: Callable[[], OuterGradient] = SecondOrder
    loss: Callable[[], nn.Module] = PolicySurrogate
    outer_loss: Callable[[], OuterLoss] = OuterLoss
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = _adam
    rate: float = RATE
    trained: bool = True


METHODS = {
    "MAML": Method(),
    "HF-MAML": Method(FiniteDifference),
    "GGS": Method(lambda: GaussianSmoothing(10)),
    "FO-MAML": Method(FirstOrder),
    "ZO": Method(lambda: ZerothOrder(10)),
    "MAML, score": Method(loss=lambda: PolicySurrogate(None)),
    "MAML, credit .9": Method(loss=lambda: PolicySurrogate(0.9)),
    "MAML, DiCE": Method(loss=lambda: PolicySurrogate(1.0)),
    "E-MAML": Method(loss=lambda: PolicySurrogate(None), outer_loss=lambda: ScoreCorrection(weight=1 / 2000)),
    "ProMP": Method(outer_loss=ProMP, optimizer=partial(RepeatedAdam, lr=0.003, times=5)),
    "MAML, TRPO": Method(optimizer=TrustRegion),
    "joint training": Method(FirstOrder, rate=1e-9),
    "untrained": Method(trained=False),
}
"""Joint training has an inner rate of nothing, and adapts in the test alone."""


def source() -> Navigation:
    return Navigation()


def rollouts_of(policy: nn.Module, seed: int) -> Rollouts:
    made = Rollouts(discount=0.95)
    made.connect(policy, source(), seed, 1)
    return made


def tasks_of(split: Split, numbers: range, seed: int) -> Tasks:
    return source().sample(split, numbers, seed)


def cases(seeds: int, thin: bool) -> list[Case]:
    shape = {"part": "navigation", "iterations": 2 if thin else 30, "goals": 10 if thin else 60}
    return [{**shape, "method": name, "seed": seed} for name in METHODS for seed in range(seeds)]


def run(case: Case) -> list[Row]:
    """Returns on test goals after each of three steps, with the rate halved after the first, and with the same one."""
    torch.manual_seed(case["seed"])
    method, seed = METHODS[case["method"]], case["seed"]
    policy = GaussianPolicy(2, 2, [100, 100])
    if method.trained:
        train(policy, method, seed, case["iterations"])
    rows = []
    goals = tasks_of("test", range(case["goals"]), seed)
    for later in (RATE / 2, RATE):
        loop = InnerLoop(policy, method.loss(), SGD(RATE, later_lr=later), ["*"], 1)
        returns = rollouts_of(policy, seed).collect(loop, goals, 3, "test").measured["return"]
        for step, values in enumerate(returns.unbind(1)):
            found = interval(values)
            rows.append({"inner_step": step, "later_rate": later, "return": found.mean, "half_width": found.half_width})
    return rows


def train(policy: GaussianPolicy, method: Method, seed: int, iterations: int) -> None:
    outer_loss = method.outer_loss()
    loop = InnerLoop(policy, method.loss(), SGD(method.rate), ["*"], 1)
    gradient_of = MetaGradientOf(loop, method.outer(), 1, seed=seed, outer_loss=outer_loss)
    rollouts, weights = rollouts_of(policy, seed), dict(loop.named_parameters())
    optimizer = method.optimizer([*weights.values()])
    rollouts.help_step(optimizer, loop, outer_loss, 1)
    for k in range(iterations):
        tasks = rollouts.collect(loop, tasks_of("train", range(TASKS * k, TASKS * (k + 1)), seed), 1, "train").tasks

        def closure(tasks: object = tasks) -> torch.Tensor:
            found = gradient_of(tasks)  # type: ignore[arg-type]  # a default, which is bound in its round of the loop
            for name, weight in weights.items():
                weight.grad = found.gradients[name]
            return found.loss

        optimizer.step(closure)  # type: ignore[arg-type, unused-ignore]  # of torch, which wants a float
        rollouts.end_batch()


def judge(rows: Sequence[Row]) -> list[Check]:
    def after(step: int, method: str) -> float:
        return mean_of(rows, "return", part="navigation", method=method, inner_step=step, later_rate=RATE / 2)

    maml = after(1, "MAML")
    return [
        *[above(f"R8: {name} after a step", after(1, name), -21) for name in ("MAML", "HF-MAML", "GGS", "FO-MAML")],
        *[below(f"R8: {name} before", after(0, name), -30) for name in ("MAML", "HF-MAML", "GGS", "FO-MAML")],
        *[above(f"R8: {name} after two steps", after(2, name), -10) for name in ("MAML", "HF-MAML")],
        below("R8: ZO less MAML after a step", after(1, "ZO") - maml, -2),
        below("R9: joint training less MAML after a step", after(1, "joint training") - maml, -5),
    ]
