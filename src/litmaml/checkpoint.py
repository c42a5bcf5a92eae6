"""Reading checkpoints: plain data only, and an error that says what is wrong with the file."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint that ``fit`` wrote. Nothing in the file is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds more than plain data, or is no checkpoint of a MetaLearner.
    """
    saved = load_plain(path, map_location)
    if not isinstance(saved, dict) or "state_dict" not in saved or "hyper_parameters" not in saved:
        raise ValueError(f"checkpoint: {str(path)!r} was not written by litmaml fit: it has no weights with a recipe")
    return saved


def load_plain(path: str | Path, map_location: Any = "cpu") -> Any:
    """Tensors and plain data from a file, whose content has to fit its checksum where one lies beside it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or holds more than plain data.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file {str(path)!r}")
    known = checksums(path)
    if known and sha256(path) not in known:
        raise ValueError(f"checkpoint: {str(path)!r} is damaged: its content does not fit {checksum_file(path).name}")
    try:
        with warnings.catch_warnings():
            # torch speaks of a pickle's protocol before it refuses the pickle.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"checkpoint: {str(path)!r} holds more than tensors and plain data, or is damaged; it was not "
            "loaded, since that could run code"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"checkpoint: {str(path)!r} is damaged or no checkpoint ({error})") from error


def checksum_file(path: Path) -> Path:
    """Where the SHA-256 of a checkpoint stands, as ``sha256sum`` writes and checks it."""
    return path.with_name(path.name + ".sha256")


def checksums(path: Path) -> list[str]:
    """The SHA-256 that stands beside a checkpoint: none, one, or two while the file is being replaced."""
    beside = checksum_file(path)
    return [line.split()[0] for line in beside.read_text().splitlines()] if beside.is_file() else []


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
