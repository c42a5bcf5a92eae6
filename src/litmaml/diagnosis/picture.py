"""A diagnosis as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from litmaml.diagnosis.diagnose import Diagnosis
from litmaml.diagnosis.gradient_choice import PROBES_ARE_TRUE
from litmaml.runs.paths import unlinked
from litmaml.statistics.plots import plain_style, whole_ticks


@plain_style()
def plot_diagnosis(found: Diagnosis, path: Path) -> None:
    """Three panels: the curvature along the inner path, the error of finite differences against their probe length,
    and error against cost of every outer gradient."""
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    curvature, probes, estimators = figure.subplots(1, 3)
    _plot_curvature(curvature, found)
    _plot_probes(probes, found)
    _plot_estimators(estimators, found)
    setting = found.setting
    figure.suptitle(
        f"{setting['model']}: N = {setting['inner_steps']} inner steps at {setting['inner_rate']:.3g}, "
        f"{setting['tasks']} tasks"
    )
    figure.savefig(unlinked(path), dpi=120)


def _plot_curvature(axes: Axes, found: Diagnosis) -> None:
    points, means = found.curvature.points, found.curvature.by_point
    values = [mean.value or 0.0 for mean in means]
    below = [value - (mean.low or 0.0) for value, mean in zip(values, means, strict=True)]
    above = [(mean.high or 0.0) - value for value, mean in zip(values, means, strict=True)]
    axes.errorbar(points, values, yerr=[below, above], marker="o", capsize=4, label="mean over tasks, 95%")
    size = found.curvature.smoothness.value
    if size is not None:
        axes.axhline(size, color="tab:blue", linestyle=":", label=f"L = {size:.3g}")
    rate = found.advice.rates.configured
    axes.axhline(2 / rate, color="tab:red", linestyle="--", label=f"2/inner rate = {2 / rate:.3g}")
    axes.set(
        xlabel="inner steps",
        ylabel="largest curvature",
        yscale="log",
        title="Below the red line steps are stable",
    )
    whole_ticks(axes)
    axes.legend()


def _plot_probes(axes: Axes, found: Diagnosis) -> None:
    axes.set(title="Finite differences by probe length")
    scan = found.probes
    if scan is None:
        axes.text(0.5, 0.5, "refused on this model", ha="center", transform=axes.transAxes)
        return
    axes.loglog(scan.lengths, [min(max(error, 1e-16), 1e3) for error in scan.errors], marker="o")
    axes.axvline(scan.default, color="tab:green", linestyle="--", label=f"default, {scan.default:.2g}")
    axes.axhline(PROBES_ARE_TRUE, color="tab:red", linestyle=":", label="reliable below")
    axes.set(xlabel="probe length r", ylabel="relative error of one task")
    axes.legend()


def _plot_estimators(axes: Axes, found: Diagnosis) -> None:
    axes.set(
        title="Outer gradients: error and cost", xlabel="time, FirstOrder = 1", ylabel="relative error of one task"
    )
    for row in found.estimators:
        if row.time is None or row.error is None:
            continue
        exact = row.error < 1e-12
        axes.plot(row.time, max(row.error, 1e-8), marker="v" if exact else "o", linestyle="none", label=row.name)
    axes.set(yscale="log", xscale="log")
    axes.legend(fontsize="small", title="a triangle is exact", title_fontsize="small")
