"""How a checkpoint is named, in every command: a file, a run's folder, ``RUN/last``, an artifact of W&B."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from litmaml.runs.artifact import PREFIX, fetch_artifact
from litmaml.runs.folder import BEST, CHECKPOINTS, LAST, existing
from litmaml.runs.paths import expanded


def locate(named: str | Path, argument: str = "checkpoint") -> Path:
    """The file of a checkpoint's name, fetched if it is an artifact.

    Args:
        named: A file; a run's folder (its best checkpoint), ``RUN/best`` or ``RUN/last``; or
            ``wandb://ENTITY/PROJECT/NAME:ALIAS``.
        argument: What the user called it, for the errors.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ConnectionError: The artifact cannot be fetched.
    """
    if str(named).startswith(PREFIX):
        return fetch_artifact(str(named), argument)
    path = expanded(named)
    if path.is_file():
        return path
    if path.is_dir():
        wanted = path / CHECKPOINTS / BEST
    elif path.name in ("best", "last") and path.parent.is_dir():
        wanted = path.parent / CHECKPOINTS / f"{path.name}.ckpt"
    else:
        raise FileNotFoundError(
            f"{argument}: {str(named)!r} is neither a file nor a run's folder; give a file, RUN (its best checkpoint), "
            f"RUN/last or {PREFIX}ENTITY/PROJECT/NAME:ALIAS"
        )
    last = wanted.with_name(LAST)
    if wanted.name == BEST and not os.path.lexists(wanted) and last.is_file():
        rank_zero_info(f"{argument}: {wanted.parent.parent} has no best checkpoint, so no validation: using {last}")
        return last
    return existing(wanted, argument)
