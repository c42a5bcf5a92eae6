"""The weights of an adapted model in their file, which somebody else may have made: looked at before they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from litmaml.runs.checkpoint import sha256
from litmaml.shown import one_line

_LARGEST_HEADER = 1 << 19
"""Bytes of the names and shapes of all weights, of some 5,000."""


def map_weights(file: Path) -> dict[str, Tensor]:
    """The weights by name, of which no number is read from the disk before it is used.

    Raises:
        ValueError: The file is none of weights, or has far too many.
    """
    with file.open("rb") as opened:
        header = int.from_bytes(opened.read(8), "little")
    try:
        if header > _LARGEST_HEADER:
            raise ValueError(f"its weights' names and shapes would take {header} bytes")
        return load_file(str(file))
    except Exception as error:  # on a header that lies safetensors raises almost any
        raise _damaged(file, brief(error)) from error


def check_whole(file: Path, weights: Mapping[str, Tensor], needed: Mapping[str, Tensor], digest: str) -> None:
    """Refuse a file that is not the one that was written; one of far more than is needed is not even read.

    Args:
        file: Where they lie.
        weights: What is in it.
        needed: The weights of the model, with each that has several names under all of them.
        digest: The SHA-256 sum of what was written.

    Raises:
        ValueError: It is another one.
    """
    held, most = (sum(weight.numel() for weight in some.values()) for some in (weights, needed))
    if held > most:
        raise _damaged(file, f"it holds {held} numbers, and the model {most}")
    if sha256(file) != digest:
        raise _damaged(file, "its SHA-256 sum is not the one in the configuration beside it")


def brief(error: Exception) -> str:
    """What an error says in one line, without what a terminal would obey: it may quote names from the file."""
    return one_line(" ".join(str(error).split()))[:500]


def _damaged(file: Path, why: str) -> ValueError:
    return ValueError(f"model: {str(file)!r} is damaged or of another model: {why}; copy the folder anew")
