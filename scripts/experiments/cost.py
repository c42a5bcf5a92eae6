"""A6, A7: what an outer gradient costs, against the inner steps N (Ji et al. 2020) and the weights d (Fallah et al.).

Gradients and losses are counted, not timed: every evaluation passes through ``InnerLoop.loss_of``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor, nn

from experiments.experiment import Case, Check, Experiment, Row, above, below, column, select, within
from litmaml.data import Episode, Sinusoid
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import MLP
from litmaml.outer import FiniteDifference, FirstOrder, GaussianSmoothing, OuterGradient, SecondOrder, ZerothOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch
from litmaml.weights import Params

SAMPLES, WIDTH = 10, 256
METHODS: dict[str, OuterGradient] = {
    "MAML": SecondOrder(),
    "MAML, recompute": SecondOrder(recompute=True),
    "FO-MAML": FirstOrder(),
    "HF-MAML": FiniteDifference(),
    "GGS-MAML": GaussianSmoothing(SAMPLES),
    "ZO-MAML": ZerothOrder(SAMPLES),
}
COLOURS = dict(
    zip(METHODS, ("tab:green", "tab:olive", "tab:orange", "tab:blue", "tab:cyan", "tab:purple"), strict=True)
)
# Where methods cost the same, all of them are to be seen.
LINES: dict[str, dict[str, Any]] = {
    "MAML": {"linewidth": 3.5},
    "FO-MAML": {"linestyle": "--"},
    "ZO-MAML": {"linestyle": (3, (4, 6))},
}
STEPS = (1, 2, 4, 8, 16)
WIDTHS = (64, 128, 256, 512)


def counts(method: str, steps: int) -> tuple[int, int]:
    """Gradients and plain losses of one task that a method needs for N inner steps, the outer gradient included."""
    n, q = steps, SAMPLES
    if method == "HF-MAML":
        return 3 * n + 1, 0
    if method == "GGS-MAML":
        return n * (1 + q) + 1, 0
    if method == "ZO-MAML":
        return n + 1, n * (2 * q + 1)
    # Recomputing, the backward pass evaluates each step anew; the Hessian product itself is one more backward pass.
    return (2 * n + 1 if "recompute" in method else n + 1), 0


class CountingLoop(InnerLoop):
    """An inner loop that counts the gradients and the plain losses that are evaluated."""

    gradients = losses_only = 0

    def outcome(
        self, fast: Params, slow: Params, batch: Batch, loss: nn.Module | None = None, twice: bool = False
    ) -> tuple[Tensor, Tensor]:
        losses, predictions = super().outcome(fast, slow, batch, loss, twice)
        if losses.requires_grad:
            # Counted where the backward pass begins: a loss that nothing is derived from is no gradient.
            losses.register_hook(self._count)
        else:
            self.losses_only += 1
        return losses, predictions

    def _count(self, gradient: Tensor) -> None:
        self.gradients += 1


class Memory:
    """Bytes that autograd keeps for backward passes, by storage; ``peak`` is the most at one time."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._held: dict[int, int] = {}

    class _Kept:
        def __init__(self, memory: Memory, tensor: Tensor) -> None:
            self.memory, self.tensor = memory, tensor
            self.place, self.size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
            memory._held[self.place] = memory._held.get(self.place, 0) + 1
            if memory._held[self.place] == 1:
                memory.now += self.size
                memory.peak = max(memory.peak, memory.now)

        def __del__(self) -> None:
            self.memory._held[self.place] -= 1
            if self.memory._held[self.place] == 0:
                self.memory.now -= self.size

    @contextmanager
    def watch(self) -> Iterator[None]:
        def pack(tensor: Tensor) -> Any:
            return Memory._Kept(self, tensor)

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            yield


def cases(seeds: int, thin: bool) -> list[Case]:
    repeats = 1 if thin else 7
    by_steps = [{"part": "steps", "method": m, "repeats": repeats} for m in METHODS]
    by_width = [{"part": "width", "method": m, "repeats": repeats} for m in METHODS]
    return by_steps + by_width


def run(case: Case) -> list[Row]:
    method, repeats = case["method"], case["repeats"]
    by_steps, by_width = [(steps, WIDTH) for steps in STEPS], [(2, width) for width in WIDTHS]
    settings = by_steps if case["part"] == "steps" else by_width
    prepared = [_prepare(method, steps, width) for steps, width in settings]
    seconds = [float("inf")] * len(settings)
    for _ in range(repeats):  # in turn, so that a busy machine slows all settings alike
        for k, (gradient_of, tasks) in enumerate(prepared):
            began = time.process_time()  # of this process with its one thread: others' load counts little
            gradient_of(tasks)
            seconds[k] = min(seconds[k], time.process_time() - began)
    rows: list[Row] = []
    for (steps, _), (gradient_of, tasks), least in zip(settings, prepared, seconds, strict=True):
        loop = gradient_of.inner_loop
        assert isinstance(loop, CountingLoop)
        loop.gradients = loop.losses_only = 0
        memory = Memory()
        with memory.watch():
            gradient_of(tasks)
        d = sum(weight.numel() for weight in loop.parameters())
        rows.append(
            {
                "inner_steps": steps,
                "weights": d,
                "gradients": loop.gradients,
                "losses": loop.losses_only,
                "seconds": least,
                "bytes": memory.peak,
                "stored_steps": 4 * d * steps,
            }
        )
    return rows


def _prepare(method: str, steps: int, width: int) -> tuple[MetaGradientOf, Any]:
    torch.manual_seed(0)
    model = MLP(hidden=[width, width], init="fan_in")
    loop = CountingLoop(model, nn.MSELoss(), SGD(0.001), ["*"], steps)
    tasks = Sinusoid(Episode(shots=100, queries=100)).sample("train", [0], 0)
    return MetaGradientOf(loop, METHODS[method], steps), tasks


def judge(rows: Sequence[Row]) -> list[Check]:
    by_steps = select(rows, part="steps")
    wrong = sum((row["gradients"], row["losses"]) != counts(row["method"], row["inner_steps"]) for row in by_steps)
    fits = {m: _fit(select(by_steps, method=m)) for m in METHODS}
    slopes = {m: _slope(select(rows, part="width", method=m)) for m in METHODS}

    def growth(method: str) -> float:
        """Bytes at N = 16 over N = 1, without the N weight vectors that all but FO keep."""
        lines = (select(by_steps, method=method, inner_steps=steps)[0] for steps in (16, 1))
        most, least = (row["bytes"] - (row["stored_steps"] if method != "FO-MAML" else 0) for row in lines)
        return float(most / least)

    worst = min(fits, key=lambda m: fits[m])
    steepest = max(slopes, key=lambda m: slopes[m])
    return [
        within("A6: settings in which the counts are not those of the theory", wrong, 0, 0),
        within(f"A6: time against N, least R^2 ({worst})", fits[worst], 0.98, 1),
        below(f"A7: time against d, steepest slope of the last two ({steepest})", slopes[steepest], 1.15),
        *(
            below(f"A7: memory of {m} but for N stored weights, N = 16 over N = 1", growth(m), 1.1)
            for m in ("MAML, recompute", "HF-MAML", "FO-MAML")
        ),
        above("A7: the same of MAML, unrolled", growth("MAML"), 5),
    ]


def _fit(rows: Sequence[Row]) -> float:
    """R^2 of seconds as a line in N."""
    x, y = np.array(column(rows, "inner_steps")), np.array(column(rows, "seconds"))
    rest = y - np.polyval(np.polyfit(x, y, 1), x)
    return float(1 - rest.var() / y.var())


def _slope(rows: Sequence[Row]) -> float:
    """The last slope of log seconds against log d."""
    x, y = np.log(column(rows, "weights")), np.log(column(rows, "seconds"))
    return float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def draw(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(16, 4.2), layout="constrained")
    counted, timed, memory, sized = figure.subplots(1, 4)
    by_steps = select(rows, part="steps")
    for method, colour in COLOURS.items():
        line = select(by_steps, method=method)
        steps = column(line, "inner_steps")
        look = {"color": colour, "marker": "o", "markersize": 4, "label": method, **LINES.get(method, {})}
        counted.loglog(steps, column(line, "gradients"), **look)
        if any(column(line, "losses")):
            counted.loglog(steps, column(line, "losses"), ":", color=colour, label=f"{method}: plain losses")
        timed.plot(steps, [1e3 * s for s in column(line, "seconds")], **look)
        memory.loglog(steps, [b / 2**20 for b in column(line, "bytes")], **look)
        line = select(rows, part="width", method=method)
        sized.loglog(column(line, "weights"), [1e3 * s for s in column(line, "seconds")], **look)
    line = select(by_steps, method="MAML")
    memory.loglog(
        column(line, "inner_steps"),
        [b / 2**20 for b in column(line, "stored_steps")],
        ":",
        color="black",
        label="N · d floats",
    )
    counted.set(ylabel="gradients, counted", title="evaluations for one task\n(MAML: N Hessian products besides)")
    timed.set(ylabel="milliseconds", title="time, one thread, d = 66 561")
    memory.set(ylabel="MiB", title="kept for backward passes, d = 66 561")
    sized.set(xlabel="d, weights", ylabel="milliseconds", title="time, one thread, N = 2")
    for axes in (counted, timed, memory):
        axes.set_xlabel("N, inner steps")
        axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
        axes.xaxis.set_minor_locator(NullLocator())
    for axes in (counted, timed, memory, sized):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


COST = Experiment("cost", "Ji et al. 2020; Fallah et al. 2020, table 1", cases, run, judge, draw)
