"""The parts in the order of their worth, what they ran on, and the tests that need the device."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from gpu_checks import gradients, omniglot, others, precision, timings
from gpu_checks.parts import Case, Part, Setting, add_history, run_parts, table
from litmaml.engine.float32 import set_float32_precision

_ROOT = Path(__file__).parents[2]


def of_tests(setting: Setting) -> Iterator[Case]:
    """The tests with the marker gpu, in a process of their own; needs pytest and what the program itself needs."""
    notes: dict[str, Any] = {}
    yield Case("pytest -m gpu", 0, lambda: _failed_tests(setting, notes), notes)


def _failed_tests(setting: Setting, notes: dict[str, Any]) -> float:
    """How many failed; on a GPU one that is skipped counts as failed where all are."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider", "--tb=short"]
        path = os.pathsep.join([str(_ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            done = subprocess.run(
                [*command, "--durations=10", f"--junitxml={report}", "tests/gpu"],
                cwd=_ROOT,
                env=os.environ | {"PYTHONPATH": path},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=max(setting.left, 30),
            )
        except subprocess.TimeoutExpired as error:
            notes["output"] = (error.stdout or b"").decode(errors="replace")[-4000:]
            raise
        notes["output"] = done.stdout[-4000:]
        if not report.is_file():
            raise RuntimeError(f"pytest ended with status {done.returncode} and without a report: {notes['output']}")
        counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            counts = {key: count + int(suite.get(key, 0)) for key, count in counts.items()}
    notes["tests"] = counts
    idle = setting.device.type == "cuda" and counts["tests"] == counts["skipped"]
    return counts["failures"] + counts["errors"] + float(idle or done.returncode != 0)


PARTS = (
    Part("operations", precision.of_operations),
    Part("methods x norms", gradients.of_methods),
    Part("other methods", others.of_kinds),
    Part("tests", of_tests),
    Part("chunks", gradients.of_chunks),
    Part("channels last", gradients.of_channels_last),
    Part("precision", precision.of_gradients),
    Part("rates", timings.of_rates),
    Part("meta-gradients", timings.of_meta_gradients),
    Part("choice of convolutions", timings.of_choices),
    Part("compiled", gradients.of_compiled),
    Part("fit", omniglot.of_fit),
    Part("convolutions", timings.of_convolutions),
    Part("omniglot", omniglot.of_training),
)


def describe(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    about: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": {
            name: value for name, value in os.environ.items() if name.startswith(("CUBLAS_", "TORCH", "CUDA_"))
        },
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver(),
        }
    return about


def _driver() -> str | None:
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def main(arguments: Sequence[str] | None = None, description: str = "") -> int:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ..., or cpu to try the program itself")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="the file to write")
    parser.add_argument("--seconds", type=float, default=450, help="begin nothing after so many")
    parser.add_argument("--history", type=Path, help="a CSV to which a line per timed case is added")
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--data", type=Path, help=omniglot.FOLDER_HELP)
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in PARTS], help="these only")
    parser.add_argument("--only", default="", help="the cases whose name has this in it")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device: torch sees no GPU here; --device cpu --small tries the program itself")
    set_float32_precision("highest")
    setting = Setting(device, given.small, time.monotonic() + given.seconds, omniglot.data_folder(given.data))
    parts = [part.only(given.only) for part in PARTS if given.parts is None or part.name in given.parts]
    found = run_parts(parts, setting, describe(device), given.out)
    if given.history:
        add_history(given.history, found)
    about = found["about"]
    print(f"{about['device']}, torch {about['torch']}, CUDA {about.get('cuda')}, driver {about.get('driver')}")
    print(table(found))
    states = [part["state"] for part in found["parts"].values() if part["state"] != "left out"]
    agreed = states.count("agrees")
    print(f"{agreed} of {len(states)} parts agree; written to {given.out}")
    return int(agreed < len(states))
