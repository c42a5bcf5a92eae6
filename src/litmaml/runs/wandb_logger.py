"""A W&B logger whose run goes on when training is resumed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

import wandb
from litmaml.runs.folder import checkpoints_in
from litmaml.runs.paths import unlinked
from litmaml.runs.plain_files import NotPlain, read_text

ID_FILE = "wandb_id"
_MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")


def remembered_id(file: Path) -> str:
    """The id in a run's folder.

    Raises:
        ValueError: It is none.
    """
    try:
        text = read_text(file).strip()
    except NotPlain as error:
        raise ValueError(f"{str(file)!r}: {error}; remove it to begin a new W&B run") from error
    if not re.fullmatch(r"[\w-]{1,128}", text):
        raise ValueError(f"{str(file)!r} holds no id of a W&B run; remove it to begin a new one")
    return text


class ResumableWandbLogger(WandbLogger):
    """Lightning's WandbLogger, with a W&B run that goes on when training is resumed or its checkpoint tested.

    The run's id stands in ``wandb_id`` in the run's folder and counts while there are checkpoints beside it: a new fit
    begins a new W&B run. If W&B cannot be reached, or nobody is logged in, the run is kept offline, for ``wandb sync``.

    Args:
        save_dir: Where the id and W&B's own files go; if empty, the run's folder.
        project: By default what WANDB_PROJECT says, or litmaml.
        name: Of the W&B run; by default W&B makes one up.
        entity: The user or team; by default your own.
        group: Runs that belong together, such as the seeds of one experiment.
        job_type: What the run does, to tell it from others of its project.
        tags: To find the run by.
        id: Of the W&B run to go on with, in place of the remembered one.
        offline: Write to the disk only; so does WANDB_MODE=offline.
    """

    def __init__(
        self,
        save_dir: str = "",
        project: str | None = None,
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] = (),
        id: str | None = None,
        offline: bool = False,
    ) -> None:
        if (mode := os.environ.get("WANDB_MODE") or "online") not in _MODES:
            raise ValueError(f"WANDB_MODE: got {mode!r}; one of {', '.join(_MODES)}")
        super().__init__(
            save_dir=save_dir or ".",
            project=project or os.environ.get("WANDB_PROJECT") or "litmaml",
            name=name,
            id=id,
            offline=offline,
            entity=entity,
            group=group,
            job_type=job_type,
            tags=list(tags) or None,  # an empty list would win over WANDB_TAGS
        )
        del self._wandb_init["anonymous"]  # wandb warns of it, even if it is None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, begun when it is first asked for."""
        if self._experiment is not None:
            return self._experiment
        folder = Path(self.save_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        remembered = folder / ID_FILE
        if self._wandb_init["id"] is None and remembered.is_file() and checkpoints_in(folder):
            self._wandb_init["id"] = remembered_id(remembered)
        try:
            run = super().experiment
        except wandb.Error as error:
            rank_zero_warn(
                f"W&B cannot be used ({error}): this run is kept offline; send it later with "
                f"wandb sync {folder / 'wandb' / 'offline-run-*'}"
            )
            self._wandb_init["mode"] = "offline"
            run = super().experiment
        if not run.disabled:
            unlinked(remembered).write_text(run.id + "\n", encoding="utf-8")
        return run
