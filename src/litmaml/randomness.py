"""Random streams that belong to tasks: whatever is drawn is a function of seed, split and task number alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

from litmaml.tasks import SPLITS, Split
from litmaml.weights import Params

Streams = Iterable[np.random.Generator]
"""The stream of each of T tasks in turn."""

Purpose = Literal["examples", "directions", "layers", "protocol", "rounds", "rollouts"]
_PURPOSES: tuple[Purpose, ...] = ("examples", "directions", "layers", "protocol", "rounds", "rollouts")


def task_streams(
    seed: int, split: Split, numbers: Iterable[int], purpose: Purpose = "examples", block: int = 0
) -> Iterator[np.random.Generator]:
    """The random stream of each task in turn: one generator, to be drawn from before the next task is taken.

    A counter-based generator (Philox) keyed by (seed, split) and started at the purpose and the task's number: the
    stream is the same in whichever process, worker, batch or order the task is taken, and no two share any part.
    Setting the generator back takes a tenth of the time of making a new one.

    Args:
        seed: At least 0.
        split: Of the tasks.
        numbers: The tasks' numbers, at least 0.
        purpose: What is drawn: a task's examples, the directions of a sampled outer gradient, random layers, the source
            and the sizes of a task, which task a round takes, or trajectories.
        block: A part of the stream that shares nothing with the others, such as that of an inner step.

    Raises:
        ValueError: ``seed`` or a number is negative.
    """
    if seed < 0:
        raise ValueError(f"seed: has to be at least 0, got {seed}")
    philox = np.random.Philox(key=np.array([seed, SPLITS.index(split)], dtype=np.uint64))
    generator, state = np.random.Generator(philox), philox.state
    for number in numbers:
        if number < 0:
            raise ValueError(f"task number: has to be at least 0, got {number}")
        # The generator counts up the first word; the task's number stands in the last.
        state["state"]["counter"][1:] = block, _PURPOSES.index(purpose), number
        philox.state = state
        yield generator


def task_stream(seed: int, split: Split, number: int) -> np.random.Generator:
    """The random stream of one task's examples; see ``task_streams``."""
    return next(task_streams(seed, split, [number]))


def normal_directions(like: Params, count: int, streams: Streams, steps: int) -> tuple[Params, ...]:
    """Standard normal directions for each inner step, by name (T, ``count``, ...).

    They are drawn on the CPU, so that a GPU takes the same.

    Args:
        like: Tensors of one task, for shapes, types and device.
        count: Q, the number of directions in a step.
        streams: Of each of the T tasks.
        steps: N, the number of inner steps.
    """
    sizes = [weight.numel() for weight in like.values()]
    exact = any(torch.finfo(weight.dtype).bits > 32 for weight in like.values())
    kind = np.float64 if exact else np.float32
    drawn: torch.Tensor = torch.stack(
        [torch.from_numpy(s.standard_normal((steps, count, sum(sizes)), kind)) for s in streams]
    )
    device = next(iter(like.values())).device
    by_step = drawn.to(device).unbind(1)
    return tuple(
        {
            name: part.reshape(*part.shape[:2], *weight.shape).to(weight.dtype)
            for (name, weight), part in zip(like.items(), torch.split(flat, sizes, dim=2), strict=True)
        }
        for flat in by_step
    )


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw torch's random numbers from a stream of its own, and leave the global ones where they were."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        # Not by torch.manual_seed, which seeds the devices of others too, and takes a millisecond to note who asked.
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def global_generators_seeded(stream: np.random.Generator) -> Iterator[None]:
    """Seeds Python's, numpy's and torch's global generators from a stream and puts them back afterwards.

    For what is somebody else's and draws from these.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - others use these
    seeds = stream.integers(2**32, size=3)
    with torch.random.fork_rng(devices=[]):
        random.seed(int(seeds[0]))
        np.random.seed(int(seeds[1]))  # noqa: NPY002 - as above
        torch.manual_seed(int(seeds[2]))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002 - as above


def generator_states(device: torch.device) -> list[torch.Tensor]:
    """The states of torch's global generators that something on this device may draw from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def put_back_generators(states: list[torch.Tensor], device: torch.device) -> None:
    """The reverse of ``generator_states``."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


@contextmanager
def drawing_for(seed: int, split: Split, number: int, device: torch.device) -> Iterator[None]:
    """Let the layers of a model draw from a task's own stream.

    On a CPU torch's generator takes 32 bits of the key, on a GPU 64.
    """
    (stream,) = (int(each.integers(2**63)) for each in task_streams(seed, split, [number], "layers"))
    with seeded(stream, device):
        yield
