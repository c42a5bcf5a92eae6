"""What tests of all parts share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from litmaml.data.interop import import_learn2learn


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Test processes run side by side; more threads than cores make them slow."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is read from or left in the user's cache folder, also not by the processes that tests start."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def own_wandb() -> Iterator[None]:
    """wandb keeps a run that was not finished, and the settings it read first, for as long as the process lives."""
    yield
    if wandb := sys.modules.get("wandb"):
        wandb.finish()
        wandb.teardown()


@pytest.fixture(scope="session")
def omniglot() -> Path | None:
    """The folder with the real Omniglot: ``omniglot`` in the folder that LITMAML_DATA names, or None."""
    named = os.environ.get("LITMAML_DATA")
    folder = Path(named).resolve() / "omniglot" if named else None
    return folder if folder is not None and folder.is_dir() else None


@pytest.fixture(scope="session")
def learn2learn() -> ModuleType:
    """learn2learn, which is optional; with LITMAML_REQUIRE_LEARN2LEARN=1 a test does not skip without it."""
    try:
        return import_learn2learn()
    except ImportError as error:
        if os.environ.get("LITMAML_REQUIRE_LEARN2LEARN") == "1":
            pytest.fail(str(error))
        pytest.skip(str(error))
