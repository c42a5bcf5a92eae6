"""What an outer gradient loses in shorter formats than float64: by network, method and precision of the run.

Each method is compared with itself in float64, at the same probe lengths and along the same directions: what is
measured is arithmetic, not the estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.experiment import Case, Check, Experiment, Row, above, below, column, select
from gpu_checks.precision import at_lengths_of
from gpu_checks.problems import METHODS, Problem, ViT, error, gradient, reference
from litmaml.data import Episode, Glyphs
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import Conv4
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks

NETWORKS: dict[str, type[nn.Module]] = {"Conv4": Conv4, "ViT": ViT}
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "64-true": (torch.float64, None),
    "32-true": (torch.float32, None),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
    "bf16-true": (torch.bfloat16, None),
    "16-true": (torch.float16, None),
}
"""The dtype of the weights, and that of autocast."""

SCALES = (0, -4, -8, -10, -12)
RATE, TRAINED, TASKS = 0.4, 20, 2


class Scaled(nn.Module):
    """The cross entropy times a factor, for gradients as small as those of a loss that has fallen so far."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return self.factor * nn.functional.cross_entropy(predictions, targets)


def cases(seeds: int, thin: bool) -> list[Case]:
    networks = [{"network": name, "seed": seed} for name in NETWORKS for seed in range(seeds)]
    methods = ("SecondOrder", "FiniteDifference") if thin else tuple(METHODS)
    trained = (0,) if thin else (0, TRAINED)
    scales: list[Case] = [{"part": "scale", **network, "method": "SecondOrder", "trained": 0} for network in networks]
    return scales + [
        {"part": "methods", **network, "method": method, "trained": steps}
        for network in networks
        for method in methods
        for steps in trained
    ]


def run(case: Case) -> list[Row]:
    problem = _problem(case["network"], case["seed"], case["trained"])
    return _scales(problem) if case["part"] == "scale" else _methods(problem, case["method"])


def _problem(network: str, seed: int, trained: int) -> Problem:
    """Tasks of letters, the Omniglot configuration's inner step, and weights fresh or after some outer steps."""
    torch.manual_seed(seed)
    data = Glyphs(Episode(ways=5, shots=1, queries=5))
    data.load("train")

    def some(first: int, count: int) -> Tasks:
        return data.render(data.sample("train", range(first, first + count), seed))

    problem = Problem(NETWORKS[network](), some(0, TASKS), RATE, steps=1)
    loop = InnerLoop(problem.model, problem.loss, SGD(RATE), ["*"], 1)
    outer = torch.optim.Adam(loop.parameters(), lr=1e-3)
    of = MetaGradientOf(loop, SecondOrder(), 1)
    for step in range(trained):
        found = of(some(TASKS + 4 * step, 4))
        for name, weight in loop.named_parameters():
            weight.grad = found.gradients[name]
        outer.step()
    return problem


def _methods(problem: Problem, name: str) -> list[Row]:
    rows: list[Row] = []
    for precision, (dtype, autocast) in PRECISIONS.items():
        # The weights as the format has them, so that in float64 they are the same ones.
        start = problem.to("cpu", dtype)
        method = at_lengths_of(METHODS[name](), dtype, problem.model)
        rows.append({"precision": precision, "error": _error(start, method, autocast)})
    return rows


def _scales(problem: Problem) -> list[Row]:
    rows: list[Row] = []
    for exponent in SCALES:
        factor = 2.0**exponent
        start = replace(problem, loss=Scaled(factor), rate=problem.rate / factor)
        for precision in ("16-mixed", "bf16-mixed"):
            found = _error(start, SecondOrder(), PRECISIONS[precision][1])
            rows.append({"precision": precision, "scale": factor, "error": found})
    return rows


def _error(problem: Problem, method: object, autocast: torch.dtype | None) -> float:
    """Infinite where a task's loss or gradient is not finite."""
    try:
        # Of several tasks at once autocast leaves the convolutions in float32 on a CPU, but not on a GPU.
        chunk = problem.tasks.size if autocast is None else 1
        found = gradient(problem, method, autocast, tasks_per_chunk=chunk)  # type: ignore[arg-type]  # one of METHODS
    except FloatingPointError:
        return float("inf")
    return error(found, reference(problem, method))  # type: ignore[arg-type]  # one of METHODS


def judge(rows: Sequence[Row]) -> list[Check]:
    def worst(precision: str, network: str, *methods: str) -> float:
        found = select(rows, part="methods", precision=precision, network=network)
        return max(column([row for row in found if not methods or row["method"] in methods], "error"))

    def at(scale: float, precision: str, network: str) -> float:
        return min(column(select(rows, part="scale", precision=precision, network=network, scale=scale), "error"))

    probing = ("FiniteDifference", "GaussianSmoothing", "ZerothOrder")
    plain = ("SecondOrder", "SecondOrder, recompute", "FirstOrder")
    checks = []
    # Batch norm over five images, ReLU and max-pooling, where a rounding decides on which side of a kink one is.
    for network, exact, probes in (("Conv4", 0.6, 3.0), ("ViT", 0.15, 0.3)):
        checks += [
            below(f"64-true, {network}, exact and first-order", worst("64-true", network, *plain), 1e-9),
            below(f"64-true, {network}, probing", worst("64-true", network, *probing), 1e-4),
            below(f"32-true, {network}", worst("32-true", network), 1e-2),
            below(f"bf16-mixed, {network}, exact and first-order", worst("bf16-mixed", network, *plain), exact),
            below(f"bf16-mixed, {network}, probing", worst("bf16-mixed", network, *probing), probes),
            # Of the ViT .008 with a single seed, .13 with two; it is the tasks that decide: with the letters as they
            # were before equal pictures were left out, the single seed had .013.
            above(f"bf16-true, {network}, probing: refused", worst("bf16-true", network, *probing), 0.005),
            above(f"16-mixed, {network}, loss / 4096: refused", at(2.0**-12, "16-mixed", network), 0.1),
            below(f"bf16-mixed, {network}, loss / 4096", at(2.0**-12, "bf16-mixed", network), exact),
        ]
    return checks


def draw(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(16, 4.2), layout="constrained")
    *panels, scales = figure.subplots(1, 3)
    for axes, network in zip(panels, NETWORKS, strict=True):
        found = select(rows, part="methods", network=network)
        methods = list(dict.fromkeys(row["method"] for row in found))
        for k, precision in enumerate(PRECISIONS):
            mine = [row for row in found if row["precision"] == precision]
            places = [methods.index(row["method"]) + 0.12 * (k - 2.5) for row in mine]
            axes.semilogy(places, column(mine, "error"), "o", markersize=4, label=precision)
        axes.set_xticks(range(len(methods)), [m.replace(", ", ",\n") for m in methods], fontsize=7, rotation=20)
        axes.set(title=network, ylabel="|error| / |gradient in float64|")
    lines = [(precision, network) for precision in ("16-mixed", "bf16-mixed") for network in NETWORKS]
    for k, (precision, network) in enumerate(lines):
        found = select(rows, part="scale", network=network, precision=precision)
        for seed in sorted({row["seed"] for row in found}):
            line = select(found, seed=seed)
            label = None if seed else f"{precision}, {network}"
            scales.loglog(column(line, "scale"), column(line, "error"), ".-", color=f"C{k}", label=label)
    scales.set(xlabel="loss, times", title="SecondOrder where the loss has fallen")
    for axes in (*panels, scales):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


PRECISION = Experiment("precision", "rounding of the outer gradient", cases, run, judge, draw)
