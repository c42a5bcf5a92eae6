"""A folder of the user's own, as it is for a program that is installed: nothing in it is on Python's path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "finetune"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; what a test adds to the path and imports from there is gone afterwards."""
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    for name, module in list(sys.modules.items()):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    return tmp_path
