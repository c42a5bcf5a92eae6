"""What the processes of a run have to do together, lest one waits for another for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
