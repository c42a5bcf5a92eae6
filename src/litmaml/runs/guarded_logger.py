"""Loggers that may fail in the middle of a run without ending or holding it up."""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn

PATIENCE = 60.0
"""Seconds after which a call that has not come back counts as failed."""

_CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")


def guard(logger: Logger) -> Guard:
    """Give a logger up, with one warning, when one of its calls fails or hangs; the run goes on without it.

    A network that is gone, a quota or a full disk would otherwise end the run, or hold it up for as long as it lasts.

    Returns:
        The logger's guard, for whatever else is shown by it; the same one each time.
    """
    known: Guard | None = vars(logger).get("guard")
    if known is None:
        known = Guard(type(logger).__name__)
        for name in _CALLS:
            setattr(logger, name, functools.partial(known.call, getattr(logger, name)))
        vars(logger)["guard"] = known
    return known


class Guard:
    """Makes what a logger shows, until that fails or hangs; after that, nothing."""

    def __init__(self, logger: str) -> None:
        self._logger = logger
        self._given_up = False
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, show: Callable[..., object], *arguments: Any, **named: Any) -> None:
        """Do what may wait for a network, in a thread of the logger's own, one after the other, and wait for it."""
        if self._given_up:
            return
        if threading.current_thread() is self._thread:  # one call that makes another
            show(*arguments, **named)
            return
        if self._thread is None:
            # A daemon, so that the program can end while it hangs.
            self._thread = threading.Thread(target=self._work, name=self._logger, daemon=True)
            self._thread.start()
        done, failed = threading.Event(), []

        def job() -> None:
            try:
                show(*arguments, **named)
            except Exception as error:
                failed.append(error)
            done.set()

        self._jobs.put(job)
        if not done.wait(PATIENCE):
            self._give_up(f"{getattr(show, '__name__', 'a call')} has not come back for {PATIENCE:.0f} seconds")
        elif failed:
            self._give_up(_line(failed[0]))

    def compute(self, show: Callable[..., object], *arguments: Any) -> None:
        """Do what takes the model, in this thread: torch's modes are of one."""
        if self._given_up:
            return
        try:
            show(*arguments)
        except Exception as error:
            self._give_up(_line(error))

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def _give_up(self, why: str) -> None:
        self._given_up = True
        rank_zero_warn(f"{self._logger} failed, and the run goes on without it: {why}")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
