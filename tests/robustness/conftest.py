"""Short runs, in this process where that is possible."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import TINY

from started import clear_up


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder with tiny.yaml in it, and this folder's modules for configurations to name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    (tmp_path / "tiny.yaml").write_text(TINY)
    yield tmp_path
    clear_up()
