"""Pictures of results, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from litmaml.evaluation import Interval


def plot_adaptation(path: Path, results: Mapping[str, Sequence[Interval]], title: str) -> None:
    """Every metric after 0, 1, ... inner steps, with its 95% interval."""
    names = [name for name in results if name != "loss"] + ["loss"]
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        steps = range(len(results[name]))
        means = [result.mean for result in results[name]]
        widths = [result.half_width for result in results[name]]
        axes.plot(steps, means, marker="o", color="tab:blue")
        low = [m - w for m, w in zip(means, widths, strict=True)]
        high = [m + w for m, w in zip(means, widths, strict=True)]
        axes.fill_between(steps, low, high, color="tab:blue", alpha=0.25, linewidth=0)
        axes.set(xlabel="inner steps", ylabel=name, xticks=list(steps))
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
