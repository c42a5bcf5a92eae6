"""What a process does that no file may make it do: start programs, connect, import, take time and memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_EVENTS = {
    *(
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "os.forkpty",
        "os.spawn",
        "os.startfile",
        "subprocess.Popen",
    ),
    *("socket.connect", "socket.getaddrinfo", "urllib.Request", "ftplib.connect", "webbrowser.open", "pty.spawn"),
    *("ctypes.dlopen", "os.chmod", "os.link", "os.symlink", "import"),
}
_MODULES = {"antigravity", "canary", "canary_net", "idlelib", "this", "turtle", "torchvision", "transformers"}


@dataclass
class Watch:
    """What was seen.

    events: of the kinds above.
    seconds, megabytes: taken of processors and memory, the latter beyond the most that the process had held.
    """

    events: list[str] = field(default_factory=list)
    seconds: float = 0.0
    megabytes: float = 0.0


_watching: list[Watch] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or event not in _EVENTS:
        return
    # torch asks another Python for its path, and ctypes opens the program itself, when torch is first used.
    own = "json.dumps(sys.path)" in str(arguments) or arguments[:1] == (None,)
    if not own and (event != "import" or str(arguments[0]).partition(".")[0] in _MODULES):
        _watching[-1].events.append(f"{event} {arguments[:2]}"[:200])


sys.addaudithook(_hook)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch what happens within."""
    watch = Watch()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.pop()
        watch.seconds = time.process_time() - began
        watch.megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def told(run: Callable[[], object]) -> str:
    """What the user is told where it is refused, in one line; nothing where it runs."""
    try:
        run()
    except SystemExit as stopped:
        if stopped.code in (0, None):
            return ""
        return str(stopped.code)
    except (ValueError, FileNotFoundError, FileExistsError, ConnectionError, FloatingPointError) as error:
        return str(error)
    return ""
