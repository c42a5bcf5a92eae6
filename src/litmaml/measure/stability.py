"""Whether the inner loop, as it is configured, holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from litmaml.inner.loop import InnerLoop
from litmaml.tasks import Batch, Tasks, chunks
from litmaml.weights import Params

FURTHER = 20
"""Inner steps beyond the N configured, in which a slow divergence shows."""


@dataclass(frozen=True)
class Stability:
    """Shares of the tasks: whose support loss falls in N steps, whose query loss does, and whose support loss is
    below its start still after 20 steps more."""

    support_falls: float
    query_falls: float
    holds: float


def stability(inner_loop: InnerLoop, tasks: Tasks, steps: int) -> Stability:
    """Runs the inner loop and compares losses; that of the support is the mean over its batches."""
    falls = []
    for chunk in chunks(tasks, inner_loop.default_chunk(tasks)):
        measured = []
        for j, fast in enumerate(inner_loop.path(chunk, steps + FURTHER)):
            if j not in (0, steps, steps + FURTHER):
                continue
            with torch.no_grad():
                of_support = [_losses(inner_loop, fast, batch) for batch in chunk.support]
                measured.append(torch.stack([torch.stack(of_support).mean(0), _losses(inner_loop, fast, chunk.query)]))
        start, adapted, later = measured
        falls.append(torch.stack([adapted[0] < start[0], adapted[1] < start[1], later[0] < start[0]]))
    shares = torch.cat(falls, 1).double().mean(1).tolist()
    return Stability(*shares)


def _losses(inner_loop: InnerLoop, fast: Params, batch: Batch) -> Tensor:
    return inner_loop.loss_of(inner_loop.predict(fast, batch.inputs), batch.targets)
