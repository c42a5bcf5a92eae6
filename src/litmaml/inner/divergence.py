"""Tasks whose inner loop leaves the finite numbers in a model that raises an error where others give NaN."""

from __future__ import annotations

import torch

from litmaml.inner.loop import InnerLoop
from litmaml.tasks import Tasks


def diverges(inner_loop: InnerLoop, task: Tasks, steps: int, error: Exception) -> bool:
    """Whether an error is a task's own, as numbers are that are not finite, and no fault of the model.

    ``torch.linalg`` raises one on NaN and on a singular matrix, ``BCELoss`` and ``torch.distributions`` on NaN alone:
    such a task's weights, or its predictions by them, are not finite after one of the inner steps.

    Args:
        inner_loop: What raised it.
        task: The single task that it was raised on.
        steps: Inner steps that the task takes.
        error: What was raised.
    """
    if isinstance(error, torch.linalg.LinAlgError):  # type: ignore[attr-defined]  # which torch leaves out
        return True
    inputs = [batch.inputs for batch in (*task.support, task.query)]
    try:
        with torch.no_grad():
            for fast in inner_loop.path(task, steps):
                if not all(bool(weight.isfinite().all()) for weight in fast.values()):
                    return True
                if not all(bool(inner_loop.predict(fast, x).isfinite().all()) for x in inputs):
                    return True
    except Exception:  # the error itself, at numbers that are finite
        return False
    return False
