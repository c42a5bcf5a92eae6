"""Pictures of results, drawn without a display."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor

from litmaml.runs.paths import unlinked
from litmaml.statistics.interval import in_order


@contextmanager
def plain_style() -> Iterator[None]:
    """Draw in matplotlib's own style: a ``matplotlibrc`` in the current folder, which may be a stranger's, can have
    every text set by LaTeX, a program."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield


class Measured(Protocol):
    """A number with the ends of its 95% interval."""

    @property
    def mean(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


@plain_style()
def plot_adaptation(
    path: Path,
    results: Mapping[str, Sequence[Measured]],
    title: str,
    baselines: Mapping[str, Mapping[str, Measured]] | None = None,
) -> None:
    """Every metric after 0, 1, ... inner steps, with its 95% interval; the means of baselines as lines across."""
    names = in_order(results)
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        steps = range(len(results[name]))
        means = [result.mean for result in results[name]]
        axes.plot(steps, means, marker="o", color="tab:blue")
        low, high = ([getattr(result, end) for result in results[name]] for end in ("low", "high"))
        axes.fill_between(steps, low, high, color="tab:blue", alpha=0.25, linewidth=0)
        lines = {label: found[name].mean for label, found in (baselines or {}).items() if name in found}
        for (label, mean), style in zip(lines.items(), ("--", ":", "-."), strict=False):
            axes.axhline(mean, linestyle=style, color="tab:gray", label=label.replace("_", " "))
        if lines:
            axes.legend(fontsize=8)
        axes.set(xlabel="inner steps", ylabel=name, xticks=list(steps))
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(unlinked(path), dpi=120)


class Fit(NamedTuple):
    """A function of one variable fitted to a task's points.

    inputs: (m,) where it is drawn. values: (N + 1, m) there after each inner step, or (1, m) of the last alone.
    points: by what they are called in the legend, the inputs and targets (n,) of the task.
    """

    inputs: Tensor
    values: Tensor
    points: Mapping[str, tuple[Tensor, Tensor]]


def grid_over(*inputs: Tensor) -> Tensor:
    """200 inputs over the range of these."""
    together = torch.cat([x.flatten() for x in inputs])
    return torch.linspace(float(together.min()), float(together.max()), 200).to(together)


@plain_style()
def plot_fits(path: Path, fits: Sequence[Fit], title: str) -> None:
    """One panel a task: the function after each inner step over the points."""
    figure = Figure(figsize=(3.6 * len(fits), 3.2), layout="constrained")
    for axes, fit in zip(figure.subplots(1, len(fits), squeeze=False)[0], fits, strict=True):
        x, last = fit.inputs.tolist(), len(fit.values) - 1
        for step, values in enumerate(fit.values.tolist()):
            ends = {0: ("tab:gray", "--"), last: ("tab:blue", "-")}
            colour, style = ends.get(step, ends[last])
            label = {0: "before", last: f"after {last} steps"}.get(step) if last else "model"
            axes.plot(x, values, style, color=colour, alpha=1 if step in (0, last) else 0.25, label=label)
        for (name, points), marker in zip(fit.points.items(), ("^", "."), strict=False):
            axes.plot(*(part.tolist() for part in points), marker, color="black", label=name)
        axes.set(xlabel="input", ylabel="output")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.savefig(unlinked(path), dpi=120)
