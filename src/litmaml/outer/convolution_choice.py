"""How a GPU computes convolutions whose kernels are each task's own: grouped or by patches, whichever is faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from litmaml.engine.convolution import Grouped
from litmaml.engine.cuda_graph import recorded
from litmaml.engine.float32 import convolutions_round, float32_flags
from litmaml.engine.switches import is_on
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.randomness import seeded
from litmaml.tasks import Tasks, select

_RUNS, _LONG = 6, 2.0
"""Runs of each way, the fastest of which counts, since the first chooses kernels and takes memory; fewer, but at least
two, where they take so many seconds together."""


class Timed(NamedTuple):
    """Seconds of the gradient of so many tasks, by grouped convolutions and by patches."""

    tasks: int
    grouped: float
    patches: float


class ConvolutionChoice:
    """Which way is taken in each precision, where it was measured.

    A run that goes on from a checkpoint takes the choice over: the two ways round differently.
    """

    def __init__(self) -> None:
        self._grouped: dict[str, bool] = {}

    def state(self) -> dict[str, bool]:
        """What a checkpoint keeps: whether grouped convolutions were chosen, by precision; or nothing."""
        return dict(self._grouped)

    def take(self, state: Any) -> None:
        """Go on as the run that this is the state of; of another form nothing is taken."""
        given = state.items() if isinstance(state, dict) else ()
        self._grouped = {name: way for name, way in given if isinstance(name, str) and isinstance(way, bool)}

    def choose(
        self, compute: MetaGradientOf, tasks: Tasks, agree: Callable[[Callable[[], Timed | None]], Timed | None]
    ) -> Timed | None:
        """Let the inner loop compute them by the faster way; what was measured for it now, if anything was.

        On a CPU nothing is measured, nor where torch is to be deterministic: the way would hang on the clock.

        Args:
            compute: Takes the meta-gradients of the run.
            tasks: Of its first batch.
            agree: Gives all processes what one of them has measured, by the function that it is given.
        """
        device, loop = tasks.query.device, compute.inner_loop
        convolves = any(isinstance(module, nn.Conv2d) for module in loop.model.modules())
        if not (_on_gpu(device) and convolves and is_on("convolution")):
            return None
        found, key = None, _precision(compute, device)
        # Of float32 only grouped ones would be rounded then, which is not for the clock to choose.
        uneven = convolutions_round() and key.startswith("torch.float32,")
        if key not in self._grouped and not uneven and not torch.are_deterministic_algorithms_enabled():
            loop.grouped = False
            found = agree(partial(_measured, compute, tasks))
            if found is not None:
                self._grouped[key] = found.grouped < found.patches
        loop.grouped = self._grouped.get(key, False)
        return found


def _on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


def _replays(compute: MetaGradientOf) -> bool:
    """Whether kernels are started as one graph, where what Python does between them takes no time."""
    return compute.compile and is_on("program") and is_on("cuda_graph")


def _precision(compute: MetaGradientOf, device: torch.device) -> str:
    """What the numbers are computed in, and whether compiled."""
    cast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if cast else next(compute.inner_loop.parameters()).dtype
    return ", ".join(map(str, (dtype, *float32_flags(), "compiled" if _replays(compute) else "eager")))


def _measured(compute: MetaGradientOf, tasks: Tasks) -> Timed | None:
    """Of tasks that the run takes at once; None where no kernels are their own, or none of it can be computed."""
    try:
        tasks = compute.inner_loop.with_classes(tasks)
        compute.of_chunk.look(tasks)
        few = compute.with_directions(select(tasks, slice(compute.chunk_size(tasks))))
        run = partial(compute.of_chunk, compute.inner_loop.trained(), few)
        device = few.query.device
        with seeded(0, device), torch.no_grad():
            with Grouped() as inside:
                run()
                if not inside.met:
                    return None
                grouped = seconds(run, device, _replays(compute))
            return Timed(few.size, grouped, seconds(run, device, _replays(compute)))
    except Exception:  # which is for the step to tell of
        return None


def seconds(run: Callable[[], Any], device: torch.device, replayed: bool) -> float:
    """Of one run; ``replayed``: as one CUDA graph, where it can be recorded."""
    if replayed:
        try:
            graph, _ = recorded(run, device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an operation that waits for the device: its program is not recorded either
            pass
        else:
            run = graph.replay
    taken = [_once(run, device) for _ in range(2)]
    while len(taken) < _RUNS and sum(taken) < _LONG:
        taken.append(_once(run, device))
    return min(taken)


def _once(run: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
