"""Record the meta-gradients of many small problems, to compare them with those of another commit bit for bit.

    python scripts/record_gradients.py gradients.pt                     # on the one commit
    python scripts/record_gradients.py other.pt --against gradients.pt  # on the other

Every outer gradient is crossed with inner optimizers, with tasks looped and at once, with all weights and the head
alone adapted, with and without batch norm, in float32 and float64; some are compiled too. One thread, so that sums
have one order. A gradient is compared by its place among the trained tensors, since names may change. Where the head
alone is adapted, a body that is computed once rounds otherwise: ``--without features`` computes it in each step.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import pkgutil
import warnings
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

import litmaml

SAMPLED = ("GaussianSmoothing", "ZerothOrder")
OUTER: dict[str, dict[str, Any]] = {
    "SecondOrder": {},
    "SecondOrder recompute": {"recompute": True},
    "FirstOrder": {},
    "FiniteDifference": {},
    "GaussianSmoothing": {"samples": 3},
    "ZerothOrder": {"samples": 3},
}
INNER: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1},
    "SGD momentum": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "SGD one": {"lr": 0.1, "learn": "one"},
    "SGD tensor per step": {"lr": 0.1, "learn": "tensor", "per_step": True},
    "SGD parameter": {"lr": 0.1, "learn": "parameter"},
    "HigherOptimizer": {"optimizer": "torch.optim.Adam", "options": {"lr": 0.05}, "learn": "one"},
}
CHUNKS = {"one by one": 1, "two": 2, "together": 4}
TASKS, STEPS = 4, 3


def class_named(name: str) -> Any:
    """A class of litmaml by its name alone, since modules may have moved between two commits."""
    for module in pkgutil.walk_packages(litmaml.__path__, "litmaml."):
        if module.name.split(".")[1] in ("types", "tasks", "outer_gradient", "inner_optimizer", "outer", "inner"):
            found = getattr(importlib.import_module(module.name), name, None)
            if found is not None:
                return found
    raise LookupError(f"litmaml has no {name}")


def model(kind: str) -> nn.Module:
    """A small network with a layer named head."""
    if kind == "mlp":
        layers = {"body": nn.Linear(3, 8), "bend": nn.Tanh(), "head": nn.Linear(8, 2)}
    else:
        layers = {
            "body": nn.Conv2d(1, 4, 3, padding=1),
            "norm": nn.BatchNorm2d(4, track_running_stats=False),
            "bend": nn.Softplus(),
            "pool": nn.AdaptiveAvgPool2d(2),
            "flat": nn.Flatten(),
            "head": nn.Linear(16, 2),
        }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


def tasks(kind: str) -> Any:
    """Four classification tasks of two classes."""
    batch, many = class_named("Batch"), class_named("Tasks")
    shape = (3,) if kind == "mlp" else (1, 6, 6)
    support = batch(torch.randn(TASKS, 4, *shape), torch.randint(2, (TASKS, 4)))
    query = batch(torch.randn(TASKS, 6, *shape), torch.randint(2, (TASKS, 6)))
    return many((support,), query, torch.arange(TASKS))


def gradient(
    outer: str, inner: str, chunk: int, fast: str, kind: str, dtype: torch.dtype, compile: bool
) -> list[Tensor]:
    """The losses, and the gradient by every trained tensor."""
    torch.set_default_dtype(dtype)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what suits no long run
        learner = litmaml.MetaLearner(
            model(kind),
            class_named(inner.split()[0])(**INNER[inner]),
            class_named(outer.split()[0])(**OUTER[outer]),
            inner_steps=STEPS,
            fast_weights=[fast],
            tasks_per_chunk=chunk,
            compile=compile,
        )
    found = learner.meta_gradient(tasks(kind))
    return [found.losses, *found.gradients.values()]


def record(only: str = "") -> dict[str, list[Tensor]]:
    """The gradients of all problems, or of those whose description has these words, by the description."""
    found = {}
    choices = (OUTER, INNER, CHUNKS, ("*", "head.*"), ("mlp", "norm"), (torch.float32, torch.float64))
    for outer, inner, chunk, fast, kind, dtype in itertools.product(*choices):
        name = f"{outer}, {inner}, {chunk}, {fast}, {kind}, {dtype}"
        if only in name:
            found[name] = gradient(outer, inner, CHUNKS[chunk], fast, kind, dtype, compile=False)
    for outer, dtype in itertools.product(OUTER, (torch.float32, torch.float64)):
        name = f"{outer}, SGD, together, *, mlp, {dtype}, compiled"
        if only in name:
            found[name] = gradient(outer, "SGD", TASKS, "*", "mlp", dtype, compile=True)
    return found


def compare(here: dict[str, list[Tensor]], there: dict[str, list[Tensor]]) -> list[str]:
    """What differs, a line each: compiled ones by more than their tolerance, sampled ones left out."""
    differing = []
    for name, ours in here.items():
        theirs = there.get(name)
        if theirs is None or name.split(",")[0] in SAMPLED:
            continue
        apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
        tolerance = 0.0 if "compiled" not in name else 1e-12 if "float64" in name else 1e-5
        if not apart <= tolerance:
            differing.append(f"{name}: {apart:.1e}")
    return differing


def main() -> int:
    """Record, and compare if a record is given; 1 where something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", help="where the record is written")
    parser.add_argument("--against", help="the record of another commit")
    parser.add_argument("--only", default="", help="words in the description of a problem")
    parser.add_argument("--without", nargs="+", default=[], metavar="PART", help="parts of the engine to switch off")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with ExitStack() as off:
        if arguments.without:  # which older commits do not have
            off.enter_context(importlib.import_module("litmaml.engine.switches").without(*arguments.without))
        found = record(arguments.only)
    torch.save(found, arguments.file)
    print(f"{len(found)} problems recorded in {arguments.file}")
    if arguments.against is None:
        return 0
    theirs = torch.load(arguments.against, weights_only=True)
    differing = compare(found, theirs)
    for line in differing:
        print(line)
    compared = sum(name in theirs and name.split(",")[0] not in SAMPLED for name in found)
    print(f"{compared} compared, {len(differing)} differ")
    return int(bool(differing))


if __name__ == "__main__":
    raise SystemExit(main())
