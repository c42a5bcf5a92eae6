"""The picture of the sinusoids: MSE against inner steps for every estimator, and the curves fitted to one task."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments.experiment import Row, column, mean_of, select

COLOURS = {
    "MAML": "tab:green",
    "HF-MAML": "tab:blue",
    "GGS-MAML": "tab:cyan",
    "FO-MAML": "tab:orange",
    "ZO-MAML (ji)": "tab:red",
    "ZO-MAML (mean)": "tab:purple",
    "joint": "tab:gray",
}
PANELS = (("tanh", 1), ("tanh", 5), ("relu", 1), ("relu", 5))


def draw(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(16, 8), layout="constrained")
    above, below = figure.subplots(2, 4)
    for axes, (activation, steps) in zip(above, PANELS, strict=True):
        for method, colour in COLOURS.items():
            mine = [
                row
                for row in select(rows, activation=activation, steps=steps, method=method)
                if row.get("mse") is not None
            ]
            if mine:
                x = sorted({row["inner_step"] for row in mine})
                y = [mean_of(mine, "mse", inner_step=step) for step in x]
                style = "--" if method == "HF-MAML" else "-"
                axes.semilogy(x, y, style, color=colour, marker="o", markersize=3, label=method)
        axes.axvline(steps, color="black", linewidth=0.7, linestyle=":")
        axes.set(
            xlabel="inner steps (dotted: in training)",
            title=f"{activation}, N = {steps}: mean of seeds",
            ylim=(0.1, 8),
            yticks=(0.1, 0.2, 0.5, 1, 2, 5),
        )
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    above[0].set_ylabel("MSE on 6000 test tasks")
    for axes, method in zip(below, ("MAML", "HF-MAML", "FO-MAML", "joint"), strict=True):
        mine = select(rows, activation="tanh", steps=1, method=method, seed=0)
        for step, colour in ((0, "tab:gray"), (1, "tab:blue"), (10, "tab:green")):
            line = select(mine, curve=step)
            axes.plot(column(line, "x"), column(line, "y"), color=colour, label=f"after {step} inner steps")
        for kind, marker in (("query", "x"), ("support", "o")):
            points = select(mine, curve=kind)
            axes.plot(column(points, "x"), column(points, "y"), marker, color="black", label=kind, markersize=5)
        axes.set(xlabel="x", title=f"one test task, tanh, N = 1: {method}", ylim=(-5.5, 5.5))
        axes.grid(alpha=0.3)
    below[0].legend(fontsize=8)
    below[0].set_ylabel("prediction")
    return figure
