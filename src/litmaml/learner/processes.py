"""The processes of a run: how many there may be, and what they do together, lest one waits for another for ever."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.utilities import rank_zero_warn

_MOST_ON_A_CORE = 4
"""Processes on each core of a CPU: enough to try out on a laptop what is to run on eight GPUs."""


def own_cores() -> int:
    """How many cores this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_devices(trainer: Trainer) -> None:
    """Refuse to start far more processes than there are cores, each of which takes half a gigabyte; warn of more.

    Raises:
        ValueError: Naming how many there may be.
    """
    cores = own_cores()
    if not isinstance(trainer.accelerator, CPUAccelerator) or trainer.num_devices <= cores:
        return
    said = f"trainer.devices: on a CPU it is the number of processes, and there are {cores} cores"
    if trainer.num_devices > max(8, _MOST_ON_A_CORE * cores):
        raise ValueError(f"{said}, got {trainer.num_devices}; set it to at most {cores}")
    rank_zero_warn(f"{said}, got {trainer.num_devices}: set it to at most {cores}, unless it is to try things out")


def check_backend(trainer: Trainer) -> None:
    """Refuse a way for processes to talk to each other that torch does not have, before they are started.

    Raises:
        ValueError: Naming those that there are.
    """
    named = getattr(trainer.strategy, "process_group_backend", None)
    if named is None or not torch.distributed.is_available():
        return
    known = torch.distributed.Backend.backend_list
    # Such as gloo, or cpu:gloo,cuda:nccl.
    if other := [part for part in named.split(",") if part.rpartition(":")[2].lower() not in known]:
        raise ValueError(
            f"trainer.strategy.process_group_backend: there is no {other[0][:80]!r}; leave it out, or take one of "
            f"{', '.join(known[1:])}"
        )


def end_others(trainer: Trainer, patience: float = 10.0) -> None:
    """End the processes that this one started and that do not end by themselves, as where one hangs.

    They would hold their memory and devices until somebody noticed.
    """
    until = time.monotonic() + patience
    for process in getattr(trainer.strategy.launcher, "procs", []):
        if isinstance(process, subprocess.Popen):
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def failing_together(processes: int) -> Iterator[None]:
    """Do something on every process that may fail on one; then all fail, with its error.

    Raises:
        ValueError: On the others, with the message of the first.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as own:
        error = own
    if processes > 1:
        messages: list[str | None] = [None] * processes
        torch.distributed.all_gather_object(messages, None if error is None else str(error))
        told = next((message for message in messages if message is not None), None)
        if error is None and told is not None:
            error = ValueError(told)
    if error is not None:
        raise error
