"""Pictures of results, drawn without a display."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from litmaml.runs.paths import unlinked
from litmaml.statistics.interval import in_order

_BLUE = "#1f5fa8"
"""Dark enough to be read in grey."""
_MARKED = 25


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


def plot_adaptation(
    path: Path,
    results: Mapping[str, Sequence[Measured]],
    title: str,
    baselines: Mapping[str, Mapping[str, Measured]] | None = None,
) -> None:
    """Write ``adaptation_figure`` to a file."""
    with plain_style():
        adaptation_figure(results, title, baselines).savefig(unlinked(path), dpi=120)


@plain_style()
def adaptation_figure(
    results: Mapping[str, Sequence[Measured]],
    title: str,
    baselines: Mapping[str, Mapping[str, Measured]] | None = None,
) -> Figure:
    """Every metric after 0, 1, ... inner steps, with its 95% interval; the means of baselines as lines across."""
    names = in_order(results)
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        steps = range(len(results[name]))
        means = [result.mean for result in results[name]]
        axes.plot(steps, means, marker=marker_of(len(steps)), color=_BLUE, label="mean")
        low, high = ([getattr(result, end) for result in results[name]] for end in ("low", "high"))
        if low != high:
            axes.fill_between(steps, low, high, color=_BLUE, alpha=0.25, linewidth=0, label="95% interval")
        # A style for each baseline, in all panels.
        lines = [(found.get(name), label) for label, found in (baselines or {}).items()]
        for (mean, label), style in zip(lines, ("--", ":", "-."), strict=False):
            if mean is not None:
                axes.axhline(mean.mean, linestyle=style, color="0.25", label=label.replace("_", " "))
        if low != high or lines:
            axes.legend(fontsize=8)
        axes.set(xlabel="inner steps", ylabel=name)
        whole_ticks(axes)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


def whole_ticks(axes: Axes) -> None:
    """Mark whole numbers along the inner steps, so few that none is printed over another."""
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def marker_of(points: int) -> str | None:
    """A mark for each of a few points; of many the line alone."""
    return "o" if points <= _MARKED else None


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
        between = 1 + (last - 1) // _MARKED
        for step, values in enumerate(fit.values.tolist()):
            ends = {0: ("0.35", "--"), last: (_BLUE, "-")}
            colour, style = ends.get(step, ends[last])
            label = {1: "in between", 0: "before", last: f"after {last} step{'s' * (last > 1)}"}.get(step)
            label = label if last else "model"
            if step in ends or step % between == 1 % between:  # of hundreds only some, which can be told apart
                axes.plot(x, values, style, color=colour, alpha=1 if step in ends else 0.25, label=label)
        for (name, points), marker in zip(fit.points.items(), ("^", "."), strict=False):
            axes.plot(*(part.tolist() for part in points), marker, color="black", label=name)
        axes.set(xlabel="input", ylabel="output")
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.suptitle(title)
    figure.savefig(unlinked(path), dpi=120)
