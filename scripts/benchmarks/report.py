"""Tables on screen, benchmark.json and benchmark.png, and a line on what limits each workload."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from rich.console import Console
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Float64: sums in another order differ by this much at most, relative to the largest entry of the gradient.
TOLERANCE = 1e-9
# Quartiles of the plain loop on two quiet cores lie 1 to 4% apart.
DISTURBED = 0.1
FAST_PEERS = ("learn2learn", "higher", "TorchOpt")
console = Console(width=None if Console().is_terminal else 118, highlight=False)


def opening(results: dict[str, Any]) -> None:
    machine = results["machine"]
    console.print(
        f"{machine['device']}, {machine['cores']} cores, {machine['threads']} threads; "
        f"matrix products in float32: {machine['rate'] / 1e9:.0f} GFLOP/s; Python {machine['python']}, "
        + ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    )
    if results["missing"]:
        console.print(f"not installed, so left out: {', '.join(results['missing'])}")


def workload(name: str, results: dict[str, Any]) -> None:
    """The table of one workload: time, ratio to the fastest peer, and fraction of the limit."""
    found = results["workloads"][name]
    times, limit = found["seconds"], found["flops"] / found["rate"]
    peer = fastest_peer(times)
    table = Table(
        title=f"{name}: {found['model']}, N={found['steps']}, {found['tasks']} tasks; {found['flops'] / 1e9:.3g} "
        f"GFLOP, {1e3 * limit:.3g} ms at the rate of matrix products",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for column in ("ms", "+-", "tasks/s", f"x {peer}", "of limit", "first run, s", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    for contender, took in sorted(times.items(), key=lambda item: item[1]["median"]):
        median = took["median"]
        difference = found["agreement"].get(contender)
        table.add_row(
            contender,
            f"{1e3 * median:.{1 if median > 0.1 else 3}f}",
            f"{(took['high'] - took['low']) / 2 / median:.0%}",
            f"{found['tasks'] / median:.1f}",
            f"{ratio(times[peer], took):.2f}" if peer else "",
            # Other gradients take other operations.
            "" if "first order" in contender or "recompute" in contender else f"{limit / median:.0%}",
            f"{took['first']:.2g}",
            "another" if "first order" in contender else _difference(difference),
        )
    console.print(table)
    console.print(f"  {limiting(found)}", soft_wrap=True)
    if (share := unrest(times)) > DISTURBED:
        console.print(
            f"  Disturbed: the quartiles of the plain loop lie {share:.0%} apart, so that these ratios are doubtful; "
            "measure again on a quiet machine."
        )


def _difference(value: float | None) -> str:
    return "unchecked" if value is None else f"{value:.0e}"


def unrest(times: dict[str, Any]) -> float:
    """How far apart the quartiles of the plain loop lie, as a fraction of its median: what else the machine did."""
    loop = times["PyTorch loop"]
    return float((loop["high"] - loop["low"]) / loop["median"])


def rows(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row of the history for each contender on each workload."""
    machine = results["machine"]
    about = {"device": f"{machine['device']}, {machine['cores']} cores", "torch": machine["versions"]["torch"]}
    for name, found in results["workloads"].items():
        times, peer = found["seconds"], fastest_peer(found["seconds"])
        for contender, took in times.items():
            beside = {"ratio": ratio(times[peer], took), "beside": peer} if peer else {}
            yield (
                about
                | beside
                | {
                    "part": name,
                    "case": contender,
                    "ms": 1e3 * took["median"],
                    "tasks_per_s": found["tasks"] / took["median"],
                    "first_seconds": took["first"],
                    "error": found["agreement"].get(contender),
                    "spread": unrest(times),
                }
            )


def ratio(one: dict[str, Any], other: dict[str, Any]) -> float:
    """How many times as long one takes: the median over the rounds, in each of which both were measured."""
    return statistics.median(a / b for a, b in zip(one["rounds"], other["rounds"], strict=True))


def fastest_peer(times: dict[str, Any]) -> str | None:
    present = [name for name in FAST_PEERS if name in times]
    return min(present, key=lambda name: times[name]["median"]) if present else None


def limiting(found: dict[str, Any]) -> str:
    """What limits a workload, by how near it comes to the machine's rate with and without compilation."""
    times, limit = found["seconds"], found["flops"] / found["rate"]
    eager = limit / times["litmaml"]["median"]
    compiled = times.get("litmaml, compiled")
    gain = ratio(times["litmaml"], compiled) if compiled else None
    if eager > 0.6:
        return f"What limits it: arithmetic; {eager:.0%} of the rate of matrix products is reached."
    if gain is not None and gain > 2:
        return (
            f"What limits it: starting small operations ({eager:.0%} of the limit reached); compile=true makes it "
            f"{gain:.1f} times as fast ({limit / compiled['median']:.0%} of the limit)."
        )
    how = "compiling was not tried" if gain is None else f"compiling makes it {gain:.2f} times as fast"
    return (
        f"What limits it: memory traffic and convolutions slower than matrix products ({eager:.0%} of the limit "
        f"reached; {how}); more tasks at once or a faster device help, less overhead does not."
        if eager > 0.15
        else f"What limits it: small operations and memory traffic ({eager:.0%} of the limit reached; {how})."
    )


def memory(results: dict[str, Any]) -> None:
    found = results["memory"]
    mb = 1e-6
    unrolled, recompute = found["unrolled"]["20"]["peak"], found["recompute"]["20"]["peak"]
    growth = (found["recompute"]["200"]["peak"] - found["recompute"]["20"]["peak"]) / 180
    weights = found["recompute"]["20"]["weights"]
    took = found["seconds"]
    table = Table(
        title="live memory at the peak, Conv4 64 filters 28 x 28, 5-way 1-shot 5 queries", title_justify="left"
    )
    for column in ("", "MB", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("unrolled, N=20, one task", f"{mb * unrolled:.0f}", "")
    table.add_row("recompute, N=20", f"{mb * recompute:.0f}", f"{recompute / unrolled:.0%} of unrolled")
    five = {name: peak["peak"] for name, peak in found["five shots"].items()}
    table.add_row("unrolled, N=20, 5 shots", f"{mb * five['unrolled']:.0f}", "")
    table.add_row(
        "recompute, N=20, 5 shots",
        f"{mb * five['recompute']:.0f}",
        f"{five['recompute'] / five['unrolled']:.0%} of that",
    )
    table.add_row("recompute, N=200", f"{mb * found['recompute']['200']['peak']:.0f}", "")
    table.add_row("  a step adds", f"{mb * growth:.2f}", f"{growth / weights:.2f} of the fast weights' bytes")
    table.add_row(
        "  time of recompute, N=20", "", f"{ratio(took['litmaml, recompute'], took['litmaml']):.2f} of unrolled"
    )
    few, many = (found["tasks"][count]["peak"] for count in ("8", "64"))
    table.add_row(
        "64 tasks in chunks of 8, N=5", f"{mb * many:.0f}", f"{many / few:.2f} of 8 tasks ({mb * few:.0f} MB)"
    )
    for name, peer in found["peers"].items():
        table.add_row(f"{name}, N=5, 4 tasks one by one", f"{mb * peer['peak']:.0f}", "")
    console.print(table)


def sampling(results: dict[str, Any]) -> None:
    found = results["sampling"]
    ours, floats = found["litmaml"]["median"], found["litmaml, as floats"]["median"]
    text = f"sampling 16 tasks, 5-way 1-shot 15 queries: {1e3 * ours:.3g} ms, as floats {1e3 * floats:.3g} ms"
    if theirs := found.get("learn2learn"):
        text += (
            f"; learn2learn {1e3 * theirs['median']:.3g} ms: {ratio(theirs, found['litmaml']):.0f} times as fast, "
            f"as floats {ratio(theirs, found['litmaml, as floats']):.0f} times"
        )
    step = results["workloads"].get("omniglot-1")
    if step:
        text += f"; {floats / step['seconds']['litmaml']['median']:.1%} of the outer gradient of omniglot-1"
    console.print(text)


def fit(results: dict[str, Any]) -> None:
    found = results["fit"]
    step, alone = found["step"]["median"], found["alone"]["median"]
    console.print(
        f"a step of fit, Conv4 N=1, 16 tasks: {1e3 * step:.0f} ms; the meta-gradient alone {1e3 * alone:.0f} ms: "
        f"{step / alone:.2f}"
    )


def processes(results: dict[str, Any]) -> None:
    found = results["processes"]
    if found is None:
        console.print("several processes: there is only one device")
        return
    console.print(
        f"ddp, Conv4 N=1, 16 tasks a process: {found['1']:.1f} tasks/s by one process, {found['2']:.1f} by two: "
        f"{found['2'] / found['1']:.2f}"
    )


def disagreeing(results: dict[str, Any]) -> list[str]:
    """Contenders whose gradient in float64 is another than the plain loop's."""
    return [
        f"{contender} on {name} ({difference:.1e})"
        for name, found in results["workloads"].items()
        for contender, difference in found["agreement"].items()
        if not difference < TOLERANCE
    ]


def closing(results: dict[str, Any], folder: Path) -> None:
    """Write the JSON file and the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps(results, indent=2) + "\n")
    if results["workloads"]:
        _picture(results, folder / "benchmark.png")
    console.print(f"{results['seconds'] / 60:.1f} minutes; written to {folder}: benchmark.json, benchmark.png")


def _picture(results: dict[str, Any], path: Path) -> None:
    """Tasks a second of all contenders, one panel for each workload."""
    found = results["workloads"]
    rows = -(-len(found) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(11, 2.6 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(found) :]:
        axis.remove()
    for axis, (name, one) in zip(axes.flat, found.items(), strict=False):
        ordered = sorted(one["seconds"].items(), key=lambda item: -item[1]["median"])
        speeds = [one["tasks"] / took["median"] for _, took in ordered]
        colours = ["C0" if contender.startswith("litmaml") else "0.7" for contender, _ in ordered]
        bars = axis.barh([contender for contender, _ in ordered], speeds, color=colours)
        axis.bar_label(bars, fmt=lambda value: f"{value:,.0f}" if value > 99 else f"{value:.3g}", padding=2, fontsize=8)
        axis.margins(x=0.12)
        axis.tick_params(labelsize=8)
        axis.set_title(f"{name}: N={one['steps']}, {one['tasks']} tasks", fontsize=9)
        axis.set_xlabel("tasks a second", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"exact outer gradient, {results['machine']['device']}", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)
