"""How a checkpoint is named, in every command: a file, a run's folder, ``RUN/last``, or one of elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from litmaml.runs import artifact, hub, zoo
from litmaml.runs.checkpoint import checksum_file
from litmaml.runs.folder import BEST, CHECKPOINTS, LAST, existing, folder_of
from litmaml.runs.paths import expanded


def locate(named: str | Path, argument: str = "checkpoint") -> Path:
    """The file of a checkpoint's name, fetched if it lies elsewhere.

    Args:
        named: A file; a run's folder (its best checkpoint), ``RUN/best`` or ``RUN/last``;
            ``wandb://ENTITY/PROJECT/NAME:ALIAS``; ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``; ``zoo:NAME``, of
            those that come with the package.
        argument: What the user called it, for the errors.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ConnectionError: It cannot be fetched.
    """
    if str(named).startswith(artifact.PREFIX):
        return artifact.fetch_artifact(str(named), argument)
    if str(named).startswith(hub.PREFIX):
        return _fetch(str(named), argument)
    if str(named).startswith(zoo.PREFIX):
        return zoo.checkpoint_of(str(named), argument)
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
            f"RUN/last, {artifact.PREFIX}ENTITY/PROJECT/NAME:ALIAS, {hub.PREFIX}USER/NAME or {zoo.PREFIX}NAME"
        )
    last = wanted.with_name(LAST)
    if wanted.name == BEST and not os.path.lexists(wanted) and last.is_file():
        rank_zero_info(f"{argument}: {wanted.parent.parent} has no best checkpoint, so no validation: using {last}")
        return last
    return existing(wanted, argument)


def is_elsewhere(named: str | Path) -> bool:
    """Whether a name is of what lies in no run's folder: it is fetched, or comes with the package."""
    return str(named).startswith((artifact.PREFIX, hub.PREFIX, zoo.PREFIX))


def results_folder(named: str, checkpoint: Path) -> Path:
    """Where results about a checkpoint go: to its run; of one that lies where only reading is, to runs/USER/NAME (the
    Hub) or runs/zoo/NAME."""
    if named.startswith(hub.PREFIX):
        return Path("runs", *named.removeprefix(hub.PREFIX).partition("@")[0].split("/"))
    if named.startswith(zoo.PREFIX):
        return Path("runs", "zoo", checkpoint.stem)
    return folder_of(checkpoint)


def _fetch(named: str, argument: str) -> Path:
    """The best checkpoint in a repository of the Hub, or the last if it has no best."""
    repository = hub.Repository(named, argument)
    for name in (BEST, LAST):
        place = Path(CHECKPOINTS, name)
        path = repository.fetch([place.as_posix(), checksum_file(place).as_posix()]) / place
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{argument}: {named!r} has no meta-checkpoint ({CHECKPOINTS}/{BEST}), as litmaml push writes one of a run; an "
        "adapted model is for litmaml classify --model and litmaml.load"
    )
