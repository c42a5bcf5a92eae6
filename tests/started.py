"""Processes that a test starts, none of which outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

_started: list[subprocess.Popen[str]] = []


def start_process(command: Sequence[str], **env: str) -> subprocess.Popen[str]:
    """A process in a group of its own, with what it says in one stream."""
    process = subprocess.Popen(
        command,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_signals,
    )
    _started.append(process)
    return process


def hear_signals() -> None:
    """In a new process: what ``nohup`` or a shell's ``&`` made the tests deaf to is no longer ignored."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def clear_up() -> None:
    """End what a test has left running: a process that was killed leaves those that it had started."""
    while _started:
        process = _started.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(ValueError):  # a failing test has read all that it said
            process.communicate()
