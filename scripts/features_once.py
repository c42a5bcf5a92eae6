"""Time of head-only adaptation beside the features computed once by hand, and beside litmaml without that.

    OMP_NUM_THREADS=1 python scripts/features_once.py
    python scripts/features_once.py --models conv4-64 --steps 5 --rounds 15
    python scripts/features_once.py --models resnet18 vit_tiny_patch16_224 --size 64 --tasks 2     of timm

By hand: for each task the body's output once with its graph, N steps of the head with their graphs, one gradient of the
query's loss. All compute the exact outer gradient, which is compared in float64 before anything is timed; then they
take turns in one process. Times are the process's own on a CPU, so that other processes matter little.
"""

from __future__ import annotations

import argparse
import importlib
import random
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from litmaml.engine.allocator import keep_freed_memory
from litmaml.engine.switches import without
from litmaml.inner import SGD
from litmaml.inner.channels_last import to_channels_last
from litmaml.inner.loop import InnerLoop
from litmaml.models import Conv4
from litmaml.outer import SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks

WAYS, RATE = 5, 0.1
Run = Callable[[], list[Tensor]]


class Network(NamedTuple):
    """A model with what comes before its head, the head's name, and the shape of an image."""

    model: Any
    body: Callable[[Tensor], Tensor]
    head: str
    image: tuple[int, int, int]


def network(name: str, size: int) -> Network:
    """A Conv4 by its filters, or a model of timm with random weights, its batch norms by the batch."""
    if name.startswith("conv4-"):
        conv4 = Conv4(WAYS, filters=int(name.removeprefix("conv4-")))
        return Network(conv4, conv4.body, "head", (1, 28, 28))
    timm = importlib.import_module("timm")

    model: Any = timm.create_model(name, num_classes=WAYS, **({"img_size": size} if "vit" in name else {}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    (head,) = (path for path, module in model.named_modules() if module is model.get_classifier())

    def body(images: Tensor) -> Tensor:
        features: Tensor = model.forward_head(model.forward_features(images), pre_logits=True)
        return features

    return Network(model, body, head, (3, size, size))


def by_hand(net: Network, tasks: Tasks, steps: int) -> Run:
    """As anyone would write it who knows that only the head is adapted."""
    head, weights = net.model.get_submodule(net.head), [*net.model.parameters()]

    def run() -> list[Tensor]:
        total: list[Tensor] = []
        for k in range(tasks.size):
            support, query = tasks.support[0].task(k), tasks.query.task(k)
            features, weight, bias = net.body(support.inputs), head.weight, head.bias
            for _ in range(steps):
                loss = functional.cross_entropy(functional.linear(features, weight, bias), support.targets)
                by_weight, by_bias = torch.autograd.grad(loss, [weight, bias], create_graph=True)
                weight, bias = weight - RATE * by_weight, bias - RATE * by_bias
            logits = functional.linear(net.body(query.inputs), weight, bias)
            loss = functional.cross_entropy(logits, query.targets) / tasks.size
            gradient = torch.autograd.grad(loss, weights)
            total = [t + g for t, g in zip(total, gradient, strict=True)] if total else [*gradient]
        return total

    return run


def by_litmaml(net: Network, tasks: Tasks, steps: int) -> Run:
    """As ``MetaLearner`` computes it."""
    loop = InnerLoop(net.model, nn.CrossEntropyLoss(), SGD(RATE), [f"{net.head}.*"], steps)
    gradient = MetaGradientOf(loop, SecondOrder(), steps)

    def run() -> list[Tensor]:
        found = gradient(tasks).gradients
        return [found[f"model.{name}"] for name, _ in net.model.named_parameters()]

    return run


def switched_off(run: Run) -> Run:
    """The run with the whole model computed in each step."""

    def off() -> list[Tensor]:
        with without("features"):
            return run()

    return off


def contenders(name: str, steps: int, dtype: torch.dtype, options: argparse.Namespace) -> dict[str, Run]:
    """What is timed, on the same weights and tasks."""
    torch.manual_seed(0)
    net, tasks = network(name, options.size), options.tasks
    net.model.to(dtype)
    if options.channels_last:
        to_channels_last(net.model)

    def batch(each: int) -> Batch:
        targets = torch.arange(WAYS * each).expand(tasks, -1) % WAYS
        return Batch(torch.rand(tasks, WAYS * each, *net.image, dtype=dtype), targets)

    made = Tasks((batch(1),), batch(options.queries), torch.arange(tasks))
    ours = by_litmaml(net, made, steps)
    return {"by hand": by_hand(net, made, steps), "litmaml": ours, "switched off": switched_off(ours)}


def agreement(runs: dict[str, Run]) -> float:
    """The largest difference of any gradient from that by hand, in parts of its largest entry."""
    expected, *others = [run() for run in runs.values()]
    scale = max(float(part.abs().max()) for part in expected)
    return max(float((a - b).abs().max()) for other in others for a, b in zip(expected, other, strict=True)) / scale


def in_turns(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Seconds of each round, in another order each time."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    for k in range(rounds + 1):
        for name in order.sample([*runs], len(runs)):
            began = time.process_time()
            runs[name]()
            if k:
                seconds[name].append(time.process_time() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python scripts/features_once.py")
    parser.add_argument("--models", nargs="+", default=["conv4-32", "conv4-64"])
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--queries", type=int, default=5, help="of each class")
    parser.add_argument("--size", type=int, default=96, help="pixels of the images that models of timm get")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    titles = ("litmaml / by hand", "switched off / by hand")
    print(f"{'model':>20} {'N':>3} {'by hand, ms':>12} {titles[0]:>22} {titles[1]:>24} {'apart':>9}")
    for name in options.models:
        for steps in options.steps:
            apart = agreement(contenders(name, steps, torch.float64, options))
            taken = in_turns(contenders(name, steps, torch.float32, options), options.rounds)
            told = []
            for other in ("litmaml", "switched off"):
                ratios = [a / b for a, b in zip(taken[other], taken["by hand"], strict=True)]
                low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
                told.append(f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
            hand = 1e3 * statistics.median(taken["by hand"])
            print(f"{name:>20} {steps:>3} {hand:>12.0f} {told[0]:>22} {told[1]:>24} {apart:>9.0e}", flush=True)


if __name__ == "__main__":
    main()
