"""How far iMAML's gradient is from the one through the same inner steps, by the strength of the proximal term.

    python scripts/implicit_cosines.py [--seeds 5] [--images]

Sinusoids of ten points, a network 1-40-40-1 of tanh at its random start, 16 inner steps of rate 0.02 within
``Proximal`` (0.015 from strength 20 on), five steps of conjugate gradients, float64. Prints the cosine between the
meta-gradients of 25 tasks by ``Implicit`` and by ``SecondOrder``, the residual that training logs, and the tasks that
are not finite and in neither gradient, as means over the seeds with their least and largest value. With ``--images`` of
four tasks of Glyphs, 5-way 1-shot, by Conv4 with 32 filters.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from torch import nn

from litmaml.data import Episode, Glyphs, Sinusoid, TaskDistribution
from litmaml.inner import SGD, InnerOptimizer, Proximal
from litmaml.inner.loop import InnerLoop
from litmaml.models import MLP, Conv4
from litmaml.outer import Implicit, SecondOrder
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Tasks, select
from litmaml.weights import Params

STEPS, ITERATIONS = 16, 5
Made = Callable[[InnerOptimizer, int], tuple[InnerLoop, Tasks]]
# Strengths and inner rates.
ON_SINUSOIDS = ((0.5, 0.02), (2.0, 0.02), (5.0, 0.02), (10.0, 0.02), (20.0, 0.015))
ON_IMAGES = ((10.0, 0.02), (30.0, 0.02), (100.0, 0.01), (100.0, 0.003), (300.0, 0.003))


def sinusoids(inner: InnerOptimizer, seed: int) -> tuple[InnerLoop, Tasks]:
    loop = InnerLoop(MLP(inputs=1, outputs=1, hidden=[40, 40]), nn.MSELoss(), inner, ["*"], STEPS)
    return loop, sampled(Sinusoid(Episode(shots=10, queries=10)), 25, seed)


def images(inner: InnerOptimizer, seed: int) -> tuple[InnerLoop, Tasks]:
    loop = InnerLoop(Conv4(ways=5, filters=32), nn.CrossEntropyLoss(), inner, ["*"], STEPS)
    return loop, sampled(Glyphs(Episode(ways=5, shots=1, queries=5)), 4, seed)


def sampled(source: TaskDistribution, count: int, seed: int) -> Tasks:
    source.prepare()
    source.load("train")
    found = source.sample("train", range(count), seed)
    assert isinstance(found, Tasks)
    return source.render(found)


def cosine(one: Params, other: Params) -> float:
    a, b = (torch.cat([gradients[name].flatten() for name in one]) for gradients in (one, other))
    return float(nn.functional.cosine_similarity(a, b, dim=0))


def measured(made: Made, strength: float, rate: float, seed: int) -> tuple[float, float, float]:
    """The cosine, the mean over tasks of the share that the end is from a minimiser, and how many are not finite."""
    torch.manual_seed(seed)
    loop, tasks = made(Proximal(SGD(rate), strength), seed)
    implicit = MetaGradientOf(loop, Implicit(ITERATIONS), STEPS)
    exact = MetaGradientOf(loop, SecondOrder(), STEPS)
    left, found = implicit.residuals(tasks)["stationarity"], implicit(tasks)
    kept = found.finite.nonzero().flatten().tolist()
    if not kept:
        return math.nan, float(left.mean()), tasks.size
    return cosine(found.gradients, exact(select(tasks, kept)).gradients), float(left.mean()), tasks.size - len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", action="store_true")
    given = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    print("| strength | rate | cosine | stationarity | not finite |\n| ---: | ---: | ---: | ---: | ---: |")
    for strength, rate in ON_IMAGES if given.images else ON_SINUSOIDS:
        made = images if given.images else sinusoids
        found = [measured(made, strength, rate, seed) for seed in range(given.seeds)]
        cells = [
            f"{sum(part) / len(part):.3f} ({min(part):.3f} to {max(part):.3f})" for part in zip(*found, strict=True)
        ]
        print(f"| {strength:g} | {rate:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
