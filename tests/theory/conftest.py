"""The experiments are scripts: they are imported from their folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Not yet timed on a quiet machine: with -m slow until they are known to fit into the ordinary run."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
