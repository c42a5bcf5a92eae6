"""Each outer gradient against the exact one on this model and these tasks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litmaml.inner.loop import InnerLoop
from litmaml.learner.trial.model_checks import check_model
from litmaml.measure.cost import Cost, costs
from litmaml.outer import (
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    OuterGradient,
    Reptile,
    SecondOrder,
    ZerothOrder,
)
from litmaml.outer.draws import check_draws
from litmaml.outer.estimators import probe_length
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.statistics.interval import student_quantile
from litmaml.tasks import Tasks, select


@dataclass(frozen=True)
class EstimatorError:
    """An outer gradient g~ against the exact one g, over T tasks i.

    name: The class with its settings.
    error: sqrt(mean_i |g~_i - g_i|^2 / mean_i |g_i|^2), of one task.
    worst: max_i |g~_i - g_i| / |g_i|.
    bias: |E(g~ - g)| / |mean g|, freed of what the T tasks' scatter adds; at most ``bias_below`` (95%).
    deviation: Standard deviation of one task's g~_i - g_i about the bias, over |mean g|.
    cosine: Between mean g~ and mean g.
    cost: Of one chunk of tasks. time, memory: Ratios to FirstOrder.
    refused: Why this model cannot be trained with it, else empty; there are no numbers then.
    """

    name: str
    error: float | None = None
    worst: float | None = None
    bias: float | None = None
    bias_below: float | None = None
    deviation: float | None = None
    cosine: float | None = None
    cost: Cost | None = None
    time: float | None = None
    memory: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class ProbeScan:
    """The error of FiniteDifference for probe lengths r.

    default: The length that it takes by itself at the initial weights. lengths, errors: The scan; the error as in
    ``EstimatorError.error``. best: The length with the smallest error.
    """

    default: float
    lengths: list[float]
    errors: list[float]
    best: float

    @property
    def best_error(self) -> float:
        """The error at the best length."""
        return self.errors[self.lengths.index(self.best)]


def name_of(outer_gradient: OuterGradient) -> str:
    """The class with the settings that are not left to it, such as ``FiniteDifference(radius=0.01)``."""
    given = {k: v for k, v in vars(outer_gradient).items() if v is not None and v is not False}
    settings = {k: name_of(v) if isinstance(v, OuterGradient) else v for k, v in given.items()}
    return f"{type(outer_gradient).__name__}({', '.join(f'{k}={v}' for k, v in settings.items())})"


def candidates(own: OuterGradient) -> list[OuterGradient]:
    """The outer gradients to compare; the user's own is among them, if it is one. FirstOrder comes first."""
    listed: list[OuterGradient] = [
        FirstOrder(),
        SecondOrder(),
        SecondOrder(recompute=True),
        FiniteDifference(),
        GaussianSmoothing(),
        ZerothOrder(),
    ]
    return listed if isinstance(own, Reptile) or name_of(own) in map(name_of, listed) else [*listed, own]


def task_gradients(inner_loop: InnerLoop, outer_gradient: OuterGradient, tasks: Tasks, steps: int) -> Tensor:
    """The outer gradient of each task by all trained weights (T, D)."""
    rows = []
    compute = MetaGradientOf(inner_loop, outer_gradient, steps)
    for number in range(tasks.size):
        gradients = compute(select(tasks, [number])).gradients
        rows.append(torch.cat([gradient.flatten() for gradient in gradients.values()]))
    return torch.stack(rows)


def estimator_errors(
    inner_loop: InnerLoop,
    tasks: Tasks,
    steps: int,
    exact: Tensor,
    outer_gradients: Sequence[OuterGradient],
    random: Sequence[str] = (),
) -> list[EstimatorError]:
    """Errors and costs of outer gradients.

    Args:
        inner_loop: In evaluation.
        tasks: T.
        steps: N.
        exact: The tasks' exact gradients (T, D).
        outer_gradients: What to compare, FirstOrder among them.
        random: The layers that draw random numbers in training.
    """
    rows, fit = [], []
    for outer_gradient in outer_gradients:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".* across the kinks")  # that is what is measured here
                check_model(inner_loop.model, outer_gradient)
            if random:
                check_draws(outer_gradient, f"model: {', '.join(random)}", "set dropout to 0")
        except ValueError as reason:
            rows.append(EstimatorError(name_of(outer_gradient), refused=str(reason)))
            continue
        fit.append(outer_gradient)
        rows.append(compare(name_of(outer_gradient), task_gradients(inner_loop, outer_gradient, tasks, steps), exact))
    few = select(tasks, slice(0, inner_loop.default_chunk(tasks, steps)))
    by_name = dict(zip(map(name_of, fit), costs(inner_loop, fit, few, steps), strict=True))
    base = by_name["FirstOrder()"]
    return [_with_cost(row, by_name[row.name], base) if row.name in by_name else row for row in rows]


def _with_cost(row: EstimatorError, cost: Cost, base: Cost) -> EstimatorError:
    return replace(
        row,
        cost=cost,
        time=cost.seconds / max(base.seconds, 1e-9),
        memory=cost.megabytes / max(base.megabytes, 1e-9),
    )


def compare(name: str, estimated: Tensor, exact: Tensor) -> EstimatorError:
    """The errors of (T, D) gradients against the exact ones."""
    estimated, exact = estimated.double(), exact.double()
    difference, count = estimated - exact, len(exact)
    mean, common = exact.mean(0), difference.mean(0)
    size = max(float(mean.norm()), 1e-300)
    scatter = float((difference - common).square().sum() / (count - 1))  # of one task
    square = float(common.square().sum())
    lengths = exact.norm(dim=1).clamp(min=1e-300)
    return EstimatorError(
        name=name,
        error=float(difference.norm() / exact.norm().clamp(min=1e-300)),
        worst=float((difference.norm(dim=1) / lengths).max()),
        bias=max(square - scatter / count, 0.0) ** 0.5 / size,
        bias_below=(square**0.5 + student_quantile(count - 1) * (scatter / count) ** 0.5) / size,
        deviation=scatter**0.5 / size,
        cosine=float(torch.cosine_similarity(estimated.mean(0), mean, dim=0)),
    )


def scan_probes(inner_loop: InnerLoop, tasks: Tasks, steps: int, exact: Tensor) -> ProbeScan:
    """FiniteDifference's error for lengths from a thousandth to a thousand times its default."""
    fast, _ = inner_loop.shared_start(1)
    default = float(probe_length({name: weight.detach() for name, weight in fast.items()})[0])
    lengths = [default * 10**power for power in (-3, -2, -1, 0, 0.5, 1, 2, 3)]
    errors = []
    for length in lengths:
        estimated = task_gradients(inner_loop, FiniteDifference(length), tasks, steps)
        error = compare("", estimated, exact).error
        assert error is not None
        errors.append(error if error == error else float("inf"))
    return ProbeScan(default, lengths, errors, lengths[errors.index(min(errors))])
