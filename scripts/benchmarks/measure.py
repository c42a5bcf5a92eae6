"""Measuring: agreement, time in turns, peak memory, floating-point operations, and what the machine can do."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

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
    """Of one of so many runs in a row; of three and more, after a third more that wake threads and caches."""
    for _ in range(times // 3):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


class Apart:
    """A run in a process of its own, with its own memory, threads and compiled programs, for as long as it is open."""

    def __init__(self, make: Callable[..., Callable[[], object]], *arguments: Any, device: str) -> None:
        self._pipe, other = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_serve, args=(other, make, arguments, device), daemon=True)
        self._process.start()
        other.close()

    def wait(self) -> None:
        """Until it is ready to run."""
        self._receive()

    def __call__(self, times: int) -> float:
        """Seconds of one of so many runs in a row."""
        self._pipe.send(times)
        return self._receive()

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        self._process.terminate()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError("a process of the benchmark died; its own message stands above") from None


# Forked from a process that has imported what they need (see suite.main) and computed nothing.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["benchmarks.suite"])


def _serve(
    pipe: Connection, make: Callable[..., Callable[[], object]], arguments: tuple[Any, ...], device: str
) -> None:
    run = make(*arguments)
    pipe.send(None)
    with suppress(EOFError, BrokenPipeError):  # the other end was closed
        while True:
            pipe.send(seconds(run, pipe.recv(), device))


def in_turns(runs: Mapping[str, Callable[[int], float]], budget: float, rounds: int = 15) -> dict[str, dict[str, Any]]:
    """Seconds of each run: all take turns, in another order each time, so that what disturbs one disturbs all alike.

    Args:
        runs: What to time: functions of a number of runs that give the seconds of one.
        budget: Seconds after which no further round begins, from three rounds on.
        rounds: At most so many.

    Returns:
        By name ``first`` (compilation included), ``median``, ``low`` and ``high`` (quartiles), and all ``rounds``.
    """
    first: dict[str, float] = {}
    times: dict[str, int] = {}
    samples: dict[str, list[float]] = {}
    for name, run in runs.items():
        first[name] = run(1)
        took, times[name] = run(1), 1
        # As many in a row as a third of a second has: the system needs that to give each thread a core.
        # Not by the second run alone, which may still set something up.
        while took * times[name] < 0.3 or (times[name] == 1 and took < 1):
            times[name] *= 2
            took = run(times[name])
        samples[name] = [took] if times[name] == 1 else []
    if max(times.values()) > 1:
        samples = {name: [] for name in runs}  # a single run of something short is no measurement
    order = random.Random(0)
    began = time.perf_counter()
    while min(map(len, samples.values())) < rounds:
        if min(map(len, samples.values())) >= 3 and time.perf_counter() - began > budget:
            break
        for name in order.sample(list(runs), len(runs)):
            samples[name].append(runs[name](times[name]))
    return {name: {"first": first[name], **spread(values), "rounds": values} for name, values in samples.items()}


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
        product = functools.partial(torch.mm, a, b, out=out)
        seconds(product, 2, device)
        took = min(seconds(product, 3, device) for _ in range(5))
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
