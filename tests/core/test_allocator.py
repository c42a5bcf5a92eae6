"""Freed memory stays with the process, unless the environment says otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Prints whether malloc agreed, and the page faults of making ten tensors of 12 MB once more.
_PROGRAM = """
import resource, torch
from litmaml.engine.allocator import keep_freed_memory

kept = keep_freed_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(3_000_000) for _ in range(10)]
    del tensors
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
@pytest.mark.parametrize(
    ("environment", "kept"),
    [
        ({}, True),
        pytest.param({"MALLOC_TRIM_THRESHOLD_": "131072"}, False, marks=pytest.mark.slow),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}, False),
    ],
)
def test_memory_is_kept_unless_the_environment_sets_malloc(environment: dict[str, str], kept: bool) -> None:
    ordinary = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name not in ("GLIBC_TUNABLES", "LD_PRELOAD")
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], env=ordinary | environment, capture_output=True, text=True, check=True
    )
    agreed, faults = done.stdout.split()
    assert agreed == str(kept)
    if kept:
        assert int(faults) < 1000  # 120 MB are 29,297 pages
