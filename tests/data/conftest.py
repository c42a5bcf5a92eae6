"""What several tests of the data need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for the session: the letters are drawn once."""
    return tmp_path_factory.mktemp("cache")
