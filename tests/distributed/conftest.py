"""What the tests of several processes share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from started import clear_up


@pytest.fixture(autouse=True)
def saboteur(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes started here, and this one, can name the callbacks in saboteur.py; none outlives its test."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    clear_up()
