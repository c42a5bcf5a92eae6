"""Freed memory that stays with the process, where the C library is glibc."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

# Parameters of mallopt(3) and their values.
_TRIM_THRESHOLD, _NEVER = -1, -1
_MMAP_THRESHOLD, _32_MIB = -3, 2**25  # as far as glibc raises it by itself


@functools.cache
def keep_freed_memory() -> bool:
    """Ask malloc to keep freed blocks of up to 32 MiB for the next request; returns whether it agreed.

    Each task's graph is freed before the next one is built. By default glibc returns much of it to the system, which
    hands it out again page by page, cleared: up to a fifth of the time of a convolutional network. The process then
    holds for good what it needed at its highest, blocks above 32 MiB apart. Where the environment sets malloc
    (``MALLOC_*``, ``GLIBC_TUNABLES``, ``LD_PRELOAD``) its settings stand.
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")]
    if sys.platform != "linux" or chosen:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    # Setting either stops malloc from adapting the other.
    return bool(mallopt(_MMAP_THRESHOLD, _32_MIB) and mallopt(_TRIM_THRESHOLD, _NEVER))
