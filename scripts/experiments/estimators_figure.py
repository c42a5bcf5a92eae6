"""The picture of the estimators: error against directions, weights, probe length, inner steps; noisy probes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.experiment import Row, column, select

COLOURS = {
    "HF": "tab:blue",
    "GGS": "tab:green",
    "ZO ji": "tab:red",
    "ZO stein": "tab:orange",
    "ZO mean": "tab:purple",
}


def draw(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(14, 8), layout="constrained")
    (by_bias, by_samples, by_size), (by_probe, by_steps, by_noise) = figure.subplots(2, 3)

    bias = select(rows, part="bias")
    half = bias[0]["half_trace"]
    names = [row["method"] for row in bias]
    by_bias.bar(names, [row["bias"] / half for row in bias], color=[COLOURS[name] for name in names])
    by_bias.axhline(1, color="black", linewidth=0.8, linestyle=":")
    by_bias.set(ylabel="mean error of the diagonal / (tr H / 2)", title="cubic task, d = 20: the bias of the Hessian")

    for name, colour in COLOURS.items():
        for axes, part, key in ((by_samples, "samples", "samples"), (by_size, "size", "size")):
            line = sorted(select(rows, part=part, method=name), key=lambda row: row[key])
            if line:
                axes.loglog(column(line, key), column(line, "error"), "o-", color=colour, label=name, markersize=4)
        for precision, style in ((32, "--"), (64, "-")):
            scan = select(rows, part="probe", method=name, precision=precision)
            if scan:
                label = f"{name}, float{precision}"
                by_probe.loglog(column(scan, "probe"), column(scan, "error"), style, color=colour, label=label)
    q = np.array(sorted({row["samples"] for row in select(rows, part="samples")}))
    by_samples.loglog(q, (21 / q) ** 0.5, ":", color="black", label="√((d+1)/Q)")
    by_samples.set(
        xlabel="Q, directions", ylabel="RMS of |Hop(v) − Hv| / |Hv|", title="cubic task, d = 20: against directions"
    )
    d = np.array(sorted({row["size"] for row in select(rows, part="size")}))
    by_size.loglog(d, ((d + 1) / 10) ** 0.5, ":", color="black", label="√((d+1)/Q)")
    by_size.set(xlabel="d, weights", ylabel="RMS of |Hop(v) − Hv| / |Hv|", title="cubic task, Q = 10: against weights")
    by_probe.set(
        xlabel="probe length (r of HF, μ of GGS and ZO)",
        ylabel="RMS of |Hop(v) − Hv| / |Hv|",
        title="log-cosh task, d = 20, Q = 10: against the probe",
        ylim=(1e-13, 1e4),
    )
    for rate, colour in (("alpha L = 1/2", "tab:red"), ("alpha = 1/(8NL)", "tab:blue")):
        line = select(rows, part="steps", rate=rate)
        steps, label = column(line, "inner_steps"), rate.replace("alpha", "α")
        by_steps.loglog(steps, column(line, "hf_error"), "o-", color=colour, label=f"HF, float32, {label}")
        by_steps.loglog(steps, column(line, "fo_error"), "s--", color=colour, label=f"FO, {label}")
    by_steps.set(
        xlabel="N, inner steps",
        ylabel="relative error of the meta-gradient",
        title="quadratic task, d = 20: against inner steps",
    )

    styles = {
        "MAML": ("tab:green", "-"),
        "HF, same batch": ("tab:blue", "--"),
        "HF, different batches": ("tab:red", "-"),
    }
    noise = select(rows, part="noise", seed=0)
    for method, (colour, style) in styles.items():
        line = select(noise, method=method)
        by_noise.semilogy(column(line, "iteration"), column(line, "norm"), style, color=colour, label=method)
        if not line[-1]["finite"]:
            by_noise.plot(0.5, 3e3, "^", color=colour)
            by_noise.annotate("diverges at once", (6, 3e3), color=colour, va="center", fontsize=9)
    by_noise.set(xlabel="outer steps", ylabel="‖∇F‖", title="noisy rank-one tasks, probe length 1e-4", ylim=(1e-3, 1e4))
    for axes in (by_samples, by_size, by_probe, by_steps, by_noise):
        axes.legend(fontsize=7.5)
        axes.grid(alpha=0.3)
    return figure
