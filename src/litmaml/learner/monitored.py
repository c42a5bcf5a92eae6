"""The metrics that a checkpoint, a schedule or an early stop can watch, by their names in the logs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def metric_of(monitor: str, metrics: Iterable[str]) -> tuple[str, int | None] | None:
    """The loss or metric that a name of the logs is of, and the inner step; None if there is no such metric.

    >>> metric_of("val/accuracy_step_3", ["accuracy"]), metric_of("val/loss", []), metric_of("val_loss", [])
    (('accuracy', 3), ('loss', None), None)
    """
    found = re.fullmatch(r"(?:val|train)/(.+?)(?:_step_(\d+)|_before)?", monitor)
    if not found or found[1] not in ("loss", *metrics):
        return None
    return found[1], None if found[2] is None else int(found[2])


def no_such_metric(argument: str, monitor: str, metrics: Iterable[str]) -> ValueError:
    """The error that names the metrics there are."""
    known = [f"val/{name}" for name in ("loss", *metrics)]
    near = difflib.get_close_matches(monitor.replace("_", "/", 1), known, n=1, cutoff=0.5)
    return ValueError(
        f"{argument}: there is no metric {monitor!r}; "
        + (f"did you mean {near[0]}? " if near else "")
        + f"There are {', '.join(known)}, and each with _step_K after K inner steps"
    )
