"""The run: which measurements, in which order, in which processes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import history, measure, report, training
from benchmarks.contenders import ANOTHER_GRADIENT, CONTENDERS, PEERS, Run, missing, names, ours
from benchmarks.workloads import MODELS, WORKLOADS, Workload, make
from litmaml.outer import SecondOrder

SURROUNDINGS = ("memory", "sampling", "fit", "processes")
# Compiling more than one inner step of a convolutional network or a transformer takes minutes.
SLOW_TO_COMPILE = {"omniglot-5", "mini-imagenet-5", "transformer-5"}


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        _part(json.loads(sys.argv[2]))
        return
    # Where the process that the others are forked from finds this package.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))
    options = _options()
    began = time.perf_counter()
    device = options.device
    results: dict[str, Any] = {"machine": _machine(device), "missing": missing(), "workloads": {}}
    report.opening(results)
    for workload in _chosen(options):
        compile = options.compile == "all" or (options.compile == "quick" and workload.name not in SLOW_TO_COMPILE)
        common = {"workload": asdict(workload), "device": device, "compile": compile}
        # JAX takes its precision from the environment.
        found = _fresh("agreement", common, JAX_ENABLE_X64="1")
        runs = {
            name: (_contender, workload, device, name)
            for name in names(workload.model, device, compile)
            if found["agreement"].get(name, 0.0) < report.TOLERANCE
        }
        found["seconds"] = _undisturbed(runs, device, options.budget)
        results["workloads"][workload.name] = asdict(workload) | found
        report.workload(workload.name, results)
    for name in options.workloads or ([] if options.model else SURROUNDINGS):
        if name in SURROUNDINGS:
            results[name] = globals()[f"_{name}"](device)
            getattr(report, name)(results)
    results["seconds"] = time.perf_counter() - began
    report.closing(results, options.out)
    if options.history:
        history.add(options.history, report.rows(results))
    if wrong := report.disagreeing(results):
        sys.exit(f"these do not compute the same gradient, and were not timed: {', '.join(wrong)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python scripts/benchmark.py")
    add = parser.add_argument
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add(
        "--workloads",
        nargs="+",
        choices=[*(workload.name for workload in WORKLOADS), *SURROUNDINGS],
        help="by default all",
    )
    add("--model", choices=MODELS, help="one workload with this model, of --tasks and --steps")
    add("--tasks", type=int, help="T, tasks of one outer gradient, in every workload")
    add("--steps", type=int, help="N, inner steps, in every workload")
    add(
        "--compile",
        default="quick",
        choices=["quick", "all", "none"],
        help="what is measured compiled too: what takes a minute to compile (default), all, or nothing",
    )
    add("--budget", type=float, default=10.0, help="seconds of timing for each workload (default: 10)")
    add("--history", type=Path, help="a CSV to which a line per contender and workload is added")
    add("--out", type=Path, default=Path("runs/benchmark"), help="folder of benchmark.json and benchmark.png")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[Workload]:
    chosen = [w for w in WORKLOADS if not options.workloads or w.name in options.workloads]
    if options.model:
        chosen = [w for w in WORKLOADS if w.model == options.model][-1:]
    changes = {key: getattr(options, key) for key in ("tasks", "steps") if getattr(options, key)}
    return [replace(w, **changes, name=f"{w.name} {changes}" if changes else w.name) for w in chosen]


def _fresh(kind: str, arguments: dict[str, Any], **env: str) -> Any:
    """The result of a part, from a process of its own."""
    command = [sys.executable, sys.argv[0], "--part", json.dumps({"kind": kind, **arguments})]
    done = subprocess.run(command, env=os.environ | env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _part(arguments: dict[str, Any]) -> None:
    result = globals()[f"_measure_{arguments.pop('kind')}"](**arguments)
    if result is not None:
        print(json.dumps(result))


def _in_turns(runs: dict[str, tuple[Any, ...]], device: str, budget: float) -> dict[str, dict[str, Any]]:
    """Each run, given by what makes it and the arguments of that, in a process of its own."""
    with ExitStack() as stack:
        apart = {name: stack.enter_context(closing(measure.Apart(*made, device=device))) for name, made in runs.items()}
        for run in apart.values():
            run.wait()
        return measure.in_turns(apart, budget)


def _undisturbed(runs: dict[str, tuple[Any, ...]], device: str, budget: float) -> dict[str, dict[str, Any]]:
    """The same, again and at most twice where something else disturbed it; the least disturbed."""
    tries = [_in_turns(runs, device, budget)]
    while len(tries) < 3 and (share := report.unrest(tries[-1])) > report.DISTURBED:
        report.console.print(f"  disturbed ({share:.0%} between quartiles of the plain loop): measured again")
        tries.append(_in_turns(runs, device, budget))
    return min(tries, key=report.unrest)


def _contender(workload: Workload, device: str, name: str) -> Run:
    return CONTENDERS[name](make(workload, device))


# Parts: what runs in a fresh process


def _measure_agreement(workload: dict[str, Any], device: str, compile: bool) -> dict[str, Any]:
    # A few tasks suffice. Compiling again, in float64, would take minutes for all but the small network: there the
    # project's tests stand in.
    chosen = Workload(**workload)
    small = replace(chosen, tasks=min(chosen.tasks, 2 if chosen.model != "mlp" else 25))
    taking_part = names(small.model, device, compile and small.model == "mlp")
    same = {name: CONTENDERS[name] for name in taking_part if name != ANOTHER_GRADIENT}
    both = {name: CONTENDERS[name] for name in ("PyTorch loop", "litmaml")}
    return {
        "agreement": measure.disagreements(same, make(small, device, torch.float64), "PyTorch loop"),
        "float32": measure.disagreements(both, make(small, device), "PyTorch loop")["litmaml"],
        "flops": measure.operations(both["PyTorch loop"](make(chosen, device))),
        "rate": measure.matrix_rate(device),
    }


def _measure_peak(workload: dict[str, Any], device: str, contender: str, chunk: int | None = None) -> dict[str, int]:
    chosen = Workload(**workload)
    warm = make(replace(chosen, steps=1, tasks=1), device)
    known = {"unrolled": ours(chunk=chunk), "recompute": ours(SecondOrder(recompute=True), chunk=chunk)} | PEERS
    known[contender](warm)()  # libraries' own buffers
    problem = make(chosen, device)
    run = known[contender](problem)
    weights = sum(p.numel() * p.element_size() for p in problem.model.parameters())
    return {"peak": measure.peak_bytes(run, device), "weights": weights}


def _measure_fit(processes: int, device: str, alone: bool, steps: int) -> Any:
    return training.fit(processes, device, alone, steps)


# Groups of parts


def _deep(steps: int, tasks: int = 1, shots: int = 1) -> Workload:
    return Workload(f"conv4, N={steps}", "conv4", steps, tasks, shots, queries=5)


def _memory(device: str) -> dict[str, Any]:
    # Freed blocks go back to the system at once, so that the high-water mark is that of live tensors.
    env = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}

    def peak(workload: Workload, contender: str, chunk: int | None = None) -> Any:
        part = {"workload": asdict(workload), "device": device, "contender": contender, "chunk": chunk}
        return _fresh("peak", part, **env)

    absent = missing()
    return {
        "unrolled": {str(n): peak(_deep(n), "unrolled") for n in (5, 20)},
        "five shots": {name: peak(_deep(20, shots=5), name) for name in ("unrolled", "recompute")},
        "recompute": {str(n): peak(_deep(n), "recompute") for n in (5, 20, 200)},
        "tasks": {str(t): peak(_deep(5, t), "unrolled", chunk=8) for t in (8, 64)},
        "peers": {name: peak(_deep(5, tasks=4), name) for name in PEERS if name not in absent and name != "JAX"},
        "seconds": _in_turns(
            {name: (_contender, _deep(20), device, name) for name in ("litmaml", "litmaml, recompute")}, device, 10
        ),
    }


def _sampling(device: str) -> Any:
    runs = {
        "litmaml": (training.ours_sampling, 16, False),
        "litmaml, as floats": (training.ours_sampling, 16, True),
        "learn2learn": (training.learn2learn_sampling, 16),
    }
    return _in_turns({name: run for name, run in runs.items() if name not in missing()}, "cpu", budget=5)


def _fit(device: str) -> Any:
    return _fresh("fit", {"processes": 1, "device": device, "alone": True, "steps": 10})


def _processes(device: str) -> Any:
    available = torch.cuda.device_count() if device == "cuda" else os.cpu_count() or 1
    if available < 2:
        return None
    part = {"device": device, "alone": False, "steps": 12}
    return {str(count): _fresh("fit", part | {"processes": count})["tasks_per_second"] for count in (1, 2)}


def _machine(device: str) -> dict[str, Any]:
    packages = ("torch", "lightning", "learn2learn", "higher", "torchopt", "jax")
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except ModuleNotFoundError:
            versions[package] = None
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
        "rate": measure.matrix_rate(device),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()
