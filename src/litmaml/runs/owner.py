"""The owner of a run's folder: one process at a time, told apart from one that died.

While ``fit`` runs, ``FOLDER/.owner`` says which process writes there, is locked, and is touched every 15 seconds.
Another ``fit`` takes the folder over where the owner is dead:

* On the same machine the kernel frees the lock of a process that ended, however it ended: at once. Where the file
  system has no locks, the process is looked up by its number and the time it began.
* A requeued SLURM job takes over from its own earlier start at once: SLURM never runs the two together.
* On another machine, or after a reboot, an owner is dead if it has not touched the file for two minutes, by the clock
  of the file system. One that is late is watched until then, so the wait is two minutes at most, whatever that clock
  does meanwhile.

An owner that was only suspended, and lost its folder meanwhile, finds out before it writes (``check``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_info

from litmaml.runs.paths import unlinked

OWNER = ".owner"
BEAT = 15.0
"""Seconds between two signs of life."""
STALE = 120.0
"""Seconds without one after which an owner that cannot be asked is dead."""

_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL}


class FolderInUse(OSError):
    """Another run writes into the folder."""


class _Process(NamedTuple):
    """Which process it is, anywhere and ever.

    token: made up for one ownership. boot: the kernel's id since it booted. pids: the namespace of process numbers.
    started: when the process began, in the kernel's ticks. job, restart: SLURM's, where it is one.
    """

    token: str
    host: str
    boot: str
    pids: str
    pid: int
    started: str
    job: str
    restart: str
    since: str

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


class FolderOwner:
    """Holds a run's folder until it is released or the process ends. Made by ``claim``."""

    def __init__(self, folder: Path, descriptor: int, process: _Process) -> None:
        self.folder, self.token = folder, process.token
        self._descriptor = descriptor
        self._process = os.getpid()
        self._ended = threading.Event()
        _held.add(descriptor)
        threading.Thread(target=self._beat, name="owner", daemon=True).start()

    def check(self) -> None:
        """Refuse to write where another run does by now, or where the folder is no longer.

        Raises:
            FolderInUse: Naming the other.
        """
        other = _read(self.folder / OWNER)
        if other is None or other.token != self.token:
            what = "was moved away or deleted" if other is None else f"was taken over by {other}"
            raise FolderInUse(
                f"trainer.default_root_dir: {str(self.folder)!r} {what} while this run was going on; nothing more is "
                "written, resume from its last checkpoint"
            )

    def release(self, moved: Path | None = None) -> None:
        """Give the folder up, which may have been ``moved``; a second time is harmless."""
        if self._ended.is_set() or os.getpid() != self._process:
            return
        self._ended.set()
        file = (moved or self.folder) / OWNER
        known = _read(file)
        if known is not None and known.token == self.token:
            file.unlink(missing_ok=True)
        _held.discard(self._descriptor)
        os.close(self._descriptor)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a full disk or a lost network: the next one may do
                os.utime(self._descriptor)


_held: set[int] = set()


def _let_go() -> None:
    """In a forked worker, which would hold the locks for as long as it outlives a killed run."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def claim(folder: Path) -> FolderOwner:
    """Own a folder, which is made if need be; the previous owner may be dead, see above.

    Raises:
        FolderInUse: It has a living owner, which is named.
    """
    file = folder / OWNER
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(unlinked(file, hard=False), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        try:
            locked = _lock(descriptor)
            known = _read(file)
            if locked is False or (known is not None and _lives(known, file, locked)):
                raise FolderInUse(
                    f"trainer.default_root_dir: {str(folder)!r} is in use by another run ({known or 'it just began'}); "
                    "wait for its end, stop it, or name another folder"
                )
            # The last owner may have deleted the file, or moved the folder, since it was opened.
            with contextlib.suppress(FileNotFoundError):
                mine = os.path.samestat(os.fstat(descriptor), os.stat(file))
                if mine and os.fstat(descriptor).st_nlink > 1:  # it may be another file of the user's, too
                    file.unlink()
                elif mine:
                    process = _this_process()
                    try:
                        _write(descriptor, process)
                    except OSError as error:
                        raise _cannot_write(folder, error) from error
                    if not locked:
                        _let_the_last_one_win(file, folder, process)
                    return FolderOwner(folder, descriptor, process)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def living_owner(folder: Path) -> str | None:
    """Who owns a folder, which is left as it is; None where nobody does, or one that is dead."""
    file = folder / OWNER
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # there is none, or something that is no owner's
        return None
    try:
        locked, known = _lock(descriptor), _read(file)
        if locked is False or (known is not None and _lives(known, file, locked)):
            return str(known or "it just began")
        return None
    finally:
        os.close(descriptor)


def _cannot_write(folder: Path, error: OSError) -> OSError:
    return OSError(
        f"trainer.default_root_dir: cannot write to {str(folder)!r}: {error.strerror or error}; name another folder, "
        "or make room in this one"
    )


def _lock(descriptor: int) -> bool | None:
    """Whether the lock was to be had; None where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno == errno.EWOULDBLOCK:
            return False
        raise
    return True


def _lives(known: _Process, file: Path, locked: bool | None) -> bool:
    here = _this_process()
    if known.boot == here.boot:
        if locked:
            return False
        if known.pids == here.pids and known.started:
            return _started(known.pid) == known.started
    if known.job and known.job == here.job and known.restart != here.restart:
        return False
    return _beats(known, file)


def _beats(known: _Process, file: Path) -> bool:
    """Whether an owner that cannot be asked gives a sign of life before it counts as dead."""
    first, began, told = file.stat().st_mtime_ns, time.monotonic(), False
    while True:
        # Opened anew, which makes a network file system ask its server.
        with file.open("rb") as opened:
            if os.fstat(opened.fileno()).st_mtime_ns != first or _read(file) != known:
                return True
        with tempfile.TemporaryFile(dir=file.parent) as clock:  # without a name: a kill leaves nothing behind
            silent = os.fstat(clock.fileno()).st_mtime - first / 1e9
        # A clock that was set back would put its end off for ever.
        if max(silent, time.monotonic() - began) > STALE:
            return False
        if not told:
            rank_zero_info(
                f"{file.parent} was last in use by {known}: waiting up to {STALE:.0f} s for a sign of its life"
            )
            told = True
        time.sleep(min(1.0, BEAT / 4))


def _let_the_last_one_win(file: Path, folder: Path, process: _Process) -> None:
    """Without locks two may come at once: both write, both look again, and one of them finds the other."""
    time.sleep(1.0)
    other = _read(file)
    if other is None or other.token != process.token:
        raise FolderInUse(f"trainer.default_root_dir: {str(folder)!r} is in use by another run that began just now")


def _this_process() -> _Process:
    return _Process(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        boot=_text("/proc/sys/kernel/random/boot_id") or socket.gethostname(),
        pids=_link("/proc/self/ns/pid"),
        pid=os.getpid(),
        started=_started(os.getpid()),
        job=os.environ.get("SLURM_JOB_ID", ""),
        restart=os.environ.get("SLURM_RESTART_COUNT", "0"),
        since=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def _started(pid: int) -> str:
    """When a process began; empty where there is none, or only what its parent has not yet taken note of."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return "" if not fields or fields[0] in "ZX" else fields[19]


def _read(file: Path) -> _Process | None:
    try:
        return _Process(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none, or one that died in the middle of writing it
        return None


def _write(descriptor: int, process: _Process) -> None:
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(process._asdict()) + "\n").encode(), 0)
    os.fsync(descriptor)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
