"""The ``config.yaml`` of a run's folder: told apart from a user's own file of that name, and never written over one."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_info

from litmaml.runs.plain_files import NotPlain, read_text
from litmaml.runs.whole_files import write_text

CONFIGURATION = "config.yaml"
_WRITTEN = "# Written by litmaml fit; sha256 of what follows: "


def write_configuration(folder: Path, recorded: Mapping[str, Any]) -> None:
    """Write what a run was made with; another file in its place is kept beside it, and that is said."""
    file = folder / CONFIGURATION
    if os.path.lexists(file) and not written_by_fit(file):
        kept = next(
            path for n in range(1, 10**6) if not os.path.lexists(path := file.with_name(f"{file.stem}.{n}.yaml"))
        )
        file.rename(kept)
        rank_zero_info(f"{file} was not as a fit wrote it: it is now {kept}")
    text = f"# {_versions()}\n{yaml.safe_dump(dict(recorded), sort_keys=False, allow_unicode=True)}"
    write_text(file, f"{_WRITTEN}{_sum(text)}\n{text}")


def check_configuration(folder: Path) -> None:
    """Refuse a folder for a new run in which another file lies where its configuration is to be.

    Raises:
        ValueError: Naming it, and what to do.
    """
    file = folder / CONFIGURATION
    if os.path.lexists(file) and not written_by_fit(file):
        raise ValueError(
            f"trainer.default_root_dir: {str(file)!r} is your own or an adapted model's, and a run would replace it by "
            "what it was made with; name another folder for the run, such as runs/NAME"
        )


def written_by_fit(file: Path) -> bool:
    """Whether a file is as ``fit`` wrote it, so that nothing of the user's is lost with it."""
    if file.is_symlink():
        return False
    try:
        first, _, rest = read_text(file).partition("\n")
    except (NotPlain, OSError):
        return False
    return first == f"{_WRITTEN}{_sum(rest)}"


def _versions() -> str:
    """What the numbers of a run may depend on beside its settings."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("litmaml", "torch", "lightning", "numpy"))
    return f"{packages}, Python {platform.python_version()}"


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
