"""Measuring: agreement, time in turns, peak memory, floating-point operations, and what the machine can do."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contenders import Contender, Run
from benchmarks.workloads import Problem


def disagreements(contenders: Mapping[str, Contender], problem: Problem, reference: str) -> dict[str, float]:
    """The largest difference of each contender's gradient from the reference's, relative to its largest entry."""
    expected = contenders[reference](problem)()
    scale = max(float(gradient.abs().max()) for gradient in expected)
    return {
        name: max(
            float((mine - theirs).abs().max()) / scale
            for mine, theirs in zip(contender(problem)(), expected, strict=True)
        )
        for name, contender in contenders.items()
    }


def seconds(run: Callable[[], object], times: int, device: str) -> float:
    """Of one of so many runs in a row."""
    began = time.perf_counter()
    for _ in range(times):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def in_turns(runs: Mapping[str, Run], device: str, budget: float, rounds: int = 15) -> dict[str, dict[str, float]]:
    """Seconds of each run: all take turns, so that what disturbs the machine disturbs all alike.

    Args:
        runs: What to time.
        device: Where it runs.
        budget: Seconds after which no further round begins, from three rounds on.
        rounds: At most so many.

    Returns:
        By name ``first`` (compilation included), and ``median``, ``low`` and ``high`` (quartiles) of the rounds.
    """
    first: dict[str, float] = {}
    times: dict[str, int] = {}
    samples: dict[str, list[float]] = {}
    for name, run in runs.items():
        first[name] = seconds(run, 1, device)
        second = seconds(run, 1, device)
        # Long enough to be measured well, also where one run takes a tenth of a millisecond.
        times[name] = max(1, round(0.05 / second))
        samples[name] = [second] if times[name] == 1 else []
    began = time.perf_counter()
    while min(map(len, samples.values())) < rounds:
        if min(map(len, samples.values())) >= 3 and time.perf_counter() - began > budget:
            break
        for name, run in runs.items():
            samples[name].append(seconds(run, times[name], device))
    return {name: {"first": first[name], **spread(values)} for name, values in samples.items()}


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "low": low, "high": high}


def operations(run: Run) -> int:
    """Floating-point operations of the matrix products and convolutions of a run, counted as they are called."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def matrix_rate(device: str) -> float:
    """Floating-point operations a second of the best of many float32 products of square matrices."""
    best = 0.0
    for size in (512, 1024, 2048) if device == "cpu" else (4096, 8192):
        a, b = torch.rand(2, size, size, device=device)
        out = torch.empty_like(a)
        seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 2, device)
        took = min(seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 3, device) for _ in range(5))
        best = max(best, 2 * size**3 / took)
    return best


def peak_bytes(run: Run, device: str) -> int:
    """What a run adds to the memory in use at its highest. The process is to be fresh."""
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
