"""Loggers that may fail in the middle of a run without ending or holding it up."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_warn

PATIENCE = 60.0
"""Seconds after which a call that has not come back counts as failed."""

_CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")


def guard(logger: Logger) -> None:
    """Give a logger up, with one warning, when one of its calls fails or hangs; the run goes on without it.

    A network that is gone, a quota or a full disk would otherwise end the run, or hold it up for as long as it lasts.
    Calls are made in a thread of the logger's own, one after the other, and waited for.
    """
    worker = _Worker(type(logger).__name__)
    for name in _CALLS:
        setattr(logger, name, worker.guarded(getattr(logger, name)))


class _Worker:
    def __init__(self, logger: str) -> None:
        self._logger = logger
        self._given_up = False
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def guarded(self, call: Callable[..., Any]) -> Callable[..., None]:
        def guarded(*arguments: Any, **named: Any) -> None:
            if self._given_up:
                return
            if threading.current_thread() is self._thread:  # one call that makes another
                call(*arguments, **named)
                return
            if self._thread is None:
                # A daemon, so that the program can end while it hangs.
                self._thread = threading.Thread(target=self._work, name=f"{self._logger}", daemon=True)
                self._thread.start()
            done, failed = threading.Event(), []

            def job() -> None:
                try:
                    call(*arguments, **named)
                except Exception as error:
                    failed.append(error)
                done.set()

            self._jobs.put(job)
            if not done.wait(PATIENCE):
                self._give_up(f"{call.__name__} has not come back for {PATIENCE:.0f} seconds")
            elif failed:
                self._give_up(f"{type(failed[0]).__name__}: {' '.join(str(failed[0]).split())}")

        return guarded

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def _give_up(self, why: str) -> None:
        self._given_up = True
        rank_zero_warn(f"{self._logger} failed, and the run goes on without it: {why}")
