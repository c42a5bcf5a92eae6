"""Files that are made once and kept: tensors with their metadata, never pickled, never half written."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from litmaml.runs.paths import expanded


def cache_folder(named: str | None) -> Path:
    """The folder for made and downloaded data: the named one, else litmaml in the user's cache folder."""
    if named is not None:
        return expanded(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litmaml"


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file that is complete or not there. A folder that cannot be written only warns."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as folder:
            made = Path(folder) / path.name
            save_file(tensors, made, metadata)
            os.replace(made, path)
    except (OSError, SafetensorError) as error:
        warnings.warn(f"cannot keep {path}, it will be made again next time: {error}", stacklevel=2)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and metadata of a file that ``write_tensors`` made, or None if it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception:  # on a header that lies it raises almost any
        return None
