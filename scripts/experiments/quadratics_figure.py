"""The picture of the quadratics: two tasks with every method's point, the attenuated curvature, a convex trap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.experiment import Row, column, select
from experiments.two_tasks import HESSIANS, OPTIMA

COLOURS = {
    "joint": "tab:gray",
    "midpoint": "black",
    "FO-MAML": "tab:orange",
    "MAML": "tab:blue",
    "Reptile": "tab:purple",
    "ZO-MAML (ji)": "tab:red",
}


def draw(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    plane, attenuation, convexity = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    _plane(plane, select(rows, part="two tasks"))
    for steps, colour in ((1, "tab:blue"), (2, "tab:green"), (5, "tab:purple")):
        curve = select(rows, part="attenuation", inner_steps=steps)
        x = np.linspace(0, 1, 200)
        attenuation.plot(x, x * (1 - x) ** (2 * steps), color=colour, label=f"N = {steps}")
        attenuation.plot(column(curve, "x"), column(curve, "y"), ".", color=colour, markersize=4)
        attenuation.axvline(1 / (2 * steps + 1), color=colour, linewidth=0.7, linestyle=":")
    attenuation.set(
        xlabel="α λ",
        ylabel="αλ (1 − αλ)²ᴺ",
        title="Weight of a task of curvature λ in F\n(dots measured, dotted lines 1/(2N + 1))",
    )
    attenuation.legend()
    curve = select(rows, part="convexity")
    convexity.plot(column(curve, "x"), column(curve, "before"), color="tab:gray", label="f″ before adaptation")
    convexity.plot(column(curve, "x"), column(curve, "y"), color="tab:blue", label="F″ after one step, α = 0.9/L")
    convexity.fill_between(column(curve, "x"), np.minimum(column(curve, "y"), 0), color="tab:red", alpha=0.3)
    convexity.axhline(0, color="black", linewidth=0.7)
    convexity.set(xlabel="x", ylabel="second derivative", title="f is convex,\nthe MAML objective F is not")
    convexity.legend(loc="upper left", fontsize=8)
    convexity.set_ylim(-0.3, 2)
    return figure


def _plane(axes: Axes, rows: Sequence[Row]) -> None:
    x, y = np.meshgrid(np.linspace(-1.6, 1.7, 200), np.linspace(-1.4, 0.95, 200))
    for k, colour in enumerate(("tab:green", "tab:brown")):
        a, c = HESSIANS[k].numpy(), OPTIMA[k].numpy()
        apart = np.stack([x - c[0], y - c[1]], axis=-1)
        values = 0.5 * np.einsum("...i,ij,...j->...", apart, a, apart)
        axes.contour(x, y, values, levels=[0.02, 0.08, 0.2, 0.4, 0.8], colors=colour, linewidths=0.6, alpha=0.7)
        axes.plot(*c, "*", color=colour, markersize=13, label=f"optimum of task {k + 1}")
    for row in rows:
        if row.get("x") is None or (row["method"] == "midpoint" and row["inner_steps"] != 1):
            continue
        colour, steps = COLOURS[row["method"]], row["inner_steps"]
        multi = steps > 1
        name = f"{row['method']}" + (f", N = {steps}" if row["method"] not in ("joint", "midpoint") else "")
        axes.plot(row["x"], row["y"], "s" if multi else "o", color=colour, markersize=7, label=name, zorder=3)
        if row["method"] in ("MAML", "midpoint"):
            for k in (0, 1):
                axes.annotate(
                    "",
                    (row[f"x{k}"], row[f"y{k}"]),
                    (row["x"], row["y"]),
                    arrowprops={"arrowstyle": "->", "color": colour, "linestyle": "--" if multi else "-"},
                )
    axes.set(
        xlabel="w₁",
        ylabel="w₂",
        title="Two tasks: each method's fixed point\n(arrows: N inner steps from it on either task)",
    )
    axes.legend(fontsize=7.5, loc="lower left", ncols=2)
