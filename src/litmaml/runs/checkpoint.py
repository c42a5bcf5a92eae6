"""Reading checkpoints: plain data only, and an error that says what is wrong with the file."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from litmaml.runs.archive import NotTensors, check_archive
from litmaml.runs.paths import expanded
from litmaml.runs.plain_files import count_values
from litmaml.runs.training_form import wrong_progress
from litmaml.runs.weights_record import WEIGHTS_KEY, wrong_record
from litmaml.shown import one_line

FORMAT = 1
"""The number of this format; to be raised when a checkpoint of today could no longer be read as it is."""
FORMAT_KEY = "litmaml_format"
_MOST_VALUES = 1_000_000
"""Plain values in a checkpoint, where each is counted as often as it is referred to."""
_TRIES = 5
"""To read a file that is replaced meanwhile."""


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint that ``fit`` wrote. Nothing in the file is executed.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds more than plain data, is no checkpoint of a MetaLearner, or is one of a
            later version.
    """
    saved: dict[str, Any] = load_plain(path, map_location)
    check_form(saved, repr(str(path)))
    return saved


def check_form(saved: Any, name: str) -> None:
    """Refuse what was read of a file where it is no checkpoint of a MetaLearner.

    Args:
        saved: What was read.
        name: What the file is called in errors.

    Raises:
        ValueError: It is none, or one of a later version.
    """
    if not isinstance(saved, dict) or "state_dict" not in saved or "hyper_parameters" not in saved:
        raise ValueError(f"checkpoint: {name} was not written by litmaml fit: it has no weights with a recipe")
    written = saved.get(FORMAT_KEY, 0)  # none before there was a number
    if type(written) is not int or not 0 <= written <= FORMAT:
        raise ValueError(
            f"checkpoint: {name} is of the format {str(written)[:20]!r}, and this litmaml reads those up to {FORMAT}; "
            "install a later one"
        )
    if wrong := _wrong_part(saved):
        raise ValueError(f"checkpoint: {name} was not written by litmaml fit: {wrong}")


def load_plain(path: str | Path, map_location: Any = "cpu") -> Any:
    """Tensors and plain data from a file.

    The content has to fit the checksum that lies beside it, or else the archive's own sums. What is checked is what is
    loaded, also where the file is replaced meanwhile.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or holds more than plain data.
    """
    path = expanded(path)
    if not path.is_file():  # nor a pipe, at which one would wait
        is_other = os.path.lexists(path)
        raise FileNotFoundError(
            f"checkpoint: {str(path)!r} is no file" if is_other else f"checkpoint: there is no file {str(path)!r}"
        )
    for tries_left in reversed(range(_TRIES)):
        with path.open("rb") as file:
            known = checksums(path)
            if not known or hashlib.file_digest(file, "sha256").hexdigest() in known:
                return _load(file, path, map_location, sums=not known)
            replaced = not os.path.samestat(os.fstat(file.fileno()), path.stat())
        if not replaced or not tries_left:  # else by a run under way, between the file and its sum
            break
    raise ValueError(f"checkpoint: {str(path)!r} is damaged: its content does not fit {checksum_file(path).name}")


def _load(file: IO[bytes], path: Path, map_location: Any, sums: bool) -> Any:
    try:
        check_archive(file, sums)
        file.seek(0)
        with warnings.catch_warnings():
            # torch speaks of a pickle's protocol before it refuses the pickle.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            loaded = torch.load(file, map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, NotTensors) as error:
        raise ValueError(
            f"checkpoint: {str(path)!r} holds more than tensors and plain data, or is damaged; it was not "
            f"loaded, since that could run code ({_first_line(error)})"
        ) from error
    except Exception as error:  # torch raises almost any on a damaged file
        raise ValueError(f"checkpoint: {str(path)!r} is damaged or no checkpoint ({_first_line(error)})") from error
    if count_values(loaded, _MOST_VALUES) > _MOST_VALUES:
        raise ValueError(
            f"checkpoint: {str(path)!r} stands for more than {_MOST_VALUES} values, or too deep ones; it was not read"
        )
    return loaded


def checksum_file(path: Path) -> Path:
    """Where the SHA-256 of a checkpoint stands, as ``sha256sum`` writes and checks it."""
    return path.with_name(path.name + ".sha256")


def checksums(path: Path) -> list[str]:
    """The SHA-256 that stand beside a checkpoint: none, one, or more while the file is being replaced.

    Raises:
        ValueError: What lies there is no such file, or says nothing.
    """
    beside = checksum_file(path)
    if not os.path.lexists(beside):
        return []
    found: list[str] = []
    if beside.is_file():
        with beside.open("rb") as file:
            text = file.read(1 << 16).decode("ascii", "replace")
        found = [line.split(maxsplit=1)[0] if line.strip() else "" for line in text.splitlines()]
    if not found or not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in found):
        raise ValueError(
            f"checkpoint: {str(beside)!r} is damaged: it holds no SHA-256 sum; copy it anew, or remove it where the "
            "checkpoint is known to be whole"
        )
    return found


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong_part(saved: Mapping[Any, Any]) -> str | None:
    """What of a checkpoint's content is of another form than Lightning writes it."""
    weights = saved["state_dict"]
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(weight, Tensor) and weight.layout == torch.strided
        for name, weight in weights.items()
    ):
        return "its state_dict is no dictionary of tensors"
    if WEIGHTS_KEY in saved and (wrong := wrong_record(saved[WEIGHTS_KEY])):
        return wrong
    averages = ("current_model_state", "averaging_state")  # of Lightning's WeightAveraging
    for name in ("hyper_parameters", "datamodule_hyper_parameters", "callbacks", "loops", *averages):
        if name in saved and not isinstance(saved[name], Mapping):
            return f"its {name} are no dictionary"
    if _leads_out(saved.get("callbacks", {})):
        return "its callbacks name files by way of '..', which they might remove"
    return wrong_progress(saved)


def _leads_out(value: Any) -> bool:
    if isinstance(value, str):
        return ".." in Path(value).parts
    if isinstance(value, Mapping):
        return any(map(_leads_out, [*value.keys(), *value.values()]))
    return isinstance(value, list | tuple) and any(map(_leads_out, value))


def _first_line(error: Exception) -> str:
    text = one_line(str(error).partition("\n")[0])
    return text if len(text) <= 200 else text[:197] + "..."
