"""Checkpoints kept as artifacts of Weights & Biases. wandb is imported when one is fetched, not before."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

PREFIX = "wandb://"
_WORD = r"(?!\.+[/:]|\.+$)[\w.-]+(?: [\w.-]+)*"
_REFERENCE = re.compile(rf"{PREFIX}{_WORD}/{_WORD}/{_WORD}:{_WORD}")
"""Words and spaces only: other signs mean something in an address."""


def fetch_artifact(reference: str, argument: str = "checkpoint") -> Path:
    """The checkpoint in an artifact, downloaded once to wandb's cache and checked by wandb's own sums.

    Args:
        reference: ``wandb://ENTITY/PROJECT/NAME:ALIAS``.
        argument: What the user called it, for the errors.

    Raises:
        ValueError: It is no such reference, or the artifact does not hold just one checkpoint.
        ConnectionError: It cannot be fetched: no network, no login, or no such artifact.
    """
    if not _REFERENCE.fullmatch(reference):
        raise ValueError(
            f"{argument}: {reference!r} is no artifact; write {PREFIX}ENTITY/PROJECT/NAME:ALIAS, for example "
            f"{PREFIX}me/omniglot/model-RUNID:best with the id of the run that logged it"
        )
    wandb = importlib.import_module("wandb")
    try:
        artifact = wandb.Api().artifact(reference.removeprefix(PREFIX))
        folder = Path(artifact.download())
    except (wandb.Error, OSError, ValueError) as error:
        raise ConnectionError(
            f"{argument}: cannot fetch {reference!r} from Weights & Biases ({error}); see that there is a network, run "
            "wandb login, or download the file yourself and name it"
        ) from error
    files = sorted(folder.rglob("*.ckpt"))
    if len(files) != 1:
        raise ValueError(f"{argument}: {reference!r} holds {len(files)} files *.ckpt, not one")
    return files[0]
