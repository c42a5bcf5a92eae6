"""A run's first step compiles: it is said, and torch's compiler made ready, while the run is set up."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import rank_zero_info

from litmaml.engine.compiler import make_ready


def announce_compiling(device: torch.device) -> None:
    """Tell why the first step will take long, and begin what it will wait for on this device."""
    rank_zero_info(
        "compile: the first step makes a program for tasks of its form: in seconds where an earlier run has left it in "
        "torch's cache, else in up to minutes"
    )
    make_ready(device)
