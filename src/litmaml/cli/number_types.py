"""Whole numbers before others, where the Trainer takes either."""

from __future__ import annotations

import inspect
from typing import Union, get_args

from lightning.pytorch import Trainer


def take_whole_numbers_first() -> None:
    """Put int before float in the annotations of the Trainer, of which the parser takes the first that fits.

    ``limit_test_batches=1`` is one batch, and 1.0 all of them. ``typing`` has one object for the unions of the same
    types, in the order of whichever module asked first: it depends on what else was imported.
    """
    annotations = inspect.unwrap(Trainer.__init__).__annotations__
    for name, annotation in annotations.items():
        if {int, float} <= {*(kinds := get_args(annotation))}:
            others = tuple(kind for kind in kinds if kind not in (int, float))
            annotations[name] = Union[(int, float, *others)]  # not by |, which would make the same object again
