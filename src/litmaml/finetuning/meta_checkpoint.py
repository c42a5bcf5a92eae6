"""Where fine-tuning starts: a meta-checkpoint by any of its names, opened with all that is needed of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.admission import admit_arguments
from litmaml.runs.admitted import NotAdmitted, make
from litmaml.runs.artifact import PREFIX, fetch_artifact
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.folder import BEST, CHECKPOINTS, LAST, existing
from litmaml.runs.paths import expanded
from litmaml.runs.recipe import build
from litmaml.runs.weights_record import check_ties, evaluated_parts, other_modes, other_trained


class MetaCheckpoint(NamedTuple):
    """A meta-learnt learner and where it comes from.

    name: what it was asked for by.
    learner: the learner itself.
    tasks: the recipe of its training tasks, or None.
    file: what it was read from, or None.
    """

    name: str
    learner: MetaLearner
    tasks: Mapping[str, Any] | None = None
    file: Path | None = None

    @property
    def image_format(self) -> ImageFormat | None:
        """What the images of its training became; None if they were no images, or of a class not known here."""
        given = (self.tasks or {}).get("init_args")
        recorded = given.get("image_format") if isinstance(given, Mapping) else None
        try:
            if isinstance(recorded, Mapping):
                fields = recorded.get("init_args", recorded)
                return ImageFormat(**make(admit_arguments(ImageFormat, fields, "checkpoint.data.tasks.image_format")))
            tasks: ImageTasks = build(self.tasks, ImageTasks, "tasks")
        except NotAdmitted:
            return None
        return tasks.image_format


def open_checkpoint(named: str | Path | MetaLearner) -> MetaCheckpoint:
    """The meta-checkpoint of a name. Nothing in the file is executed.

    Args:
        named: A file that ``fit`` wrote; a run's folder (its best checkpoint), or ``RUN/best`` or ``RUN/last``;
            ``wandb://ENTITY/PROJECT/NAME:ALIAS``; or a learner itself.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is damaged, is none of ``fit``, or holds more than plain data.
        ConnectionError: The artifact cannot be fetched.
    """
    if isinstance(named, MetaLearner):
        return MetaCheckpoint("the learner", named)
    path = locate(named)
    data = read_checkpoint(path).get("datamodule_hyper_parameters") or {}
    tasks = data.get("tasks")
    return MetaCheckpoint(
        str(named), MetaLearner.load_from_checkpoint(path), tasks if isinstance(tasks, Mapping) else None, path
    )


def start_from(learner: MetaLearner, named: str) -> None:
    """Give a learner the weights and learnt inner rates of a meta-checkpoint, to go on with meta-training.

    Unlike resuming, the outer optimizer, its schedule and the count of tasks begin afresh.

    Args:
        learner: Is changed.
        named: As in ``open_checkpoint``.

    Raises:
        ValueError: The checkpoint is of another architecture, or weights are one in it that here are not.
    """
    saved = read_checkpoint(locate(named, "init_weights"))
    check_ties(learner.inner_loop.model, saved)
    if other := other_trained(learner.inner_loop.model, saved):
        rank_zero_warn(f"init_weights: {other}; this run trains what its own configuration says")
    evaluated = evaluated_parts(learner.inner_loop, saved)
    if evaluated is not None and (other := other_modes(learner.evaluated, evaluated)):
        rank_zero_warn(f"init_weights: {other}; this run keeps its own modes")
    learner.load_state_dict(saved["state_dict"])


def locate(named: str | Path, argument: str = "checkpoint") -> Path:
    """The file of a checkpoint's name, fetched if it is an artifact; see ``open_checkpoint``.

    Args:
        named: As there.
        argument: What the user called it, for the errors.
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
