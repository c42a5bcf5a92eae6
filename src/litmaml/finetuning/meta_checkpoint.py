"""Where fine-tuning starts: a meta-checkpoint by any of its names, opened with all that is needed of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat
from litmaml.data.table_format import TableFormat
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.admission import admit_arguments
from litmaml.runs.admitted import NotAdmitted, make
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.checkpoint_names import locate
from litmaml.runs.recipe import build


class MetaCheckpoint(NamedTuple):
    """A meta-learnt learner and where it comes from.

    name: what it was asked for by.
    learner: the learner itself.
    tasks: the recipe of its training tasks, or None.
    file: what it was read from, or None.
    taken: what these took from the training split, see ``TaskDistribution.record``.
    """

    name: str
    learner: MetaLearner
    tasks: Mapping[str, Any] | None = None
    file: Path | None = None
    taken: object = None

    @property
    def table(self) -> TableFormat | None:
        """What the rows of its training became; None if its tasks were no table.

        Raises:
            ValueError: What is recorded is another thing.
        """
        if not isinstance(self.taken, Mapping) or "features" not in self.taken:
            return None
        return TableFormat.of_plain(self.taken, "checkpoint.TaskDataModule.tasks")

    @property
    def image_format(self) -> ImageFormat | None:
        """What the images of its training became; None if they were no images, or of a class not known here."""
        return image_format_of(self.tasks)


def image_format_of(recipe: Mapping[str, Any] | None) -> ImageFormat | None:
    """What the images of tasks become, by their recipe; None if there is none, or they are of no class known here."""
    given = (recipe or {}).get("init_args")
    recorded = given.get("image_format") if isinstance(given, Mapping) else None
    try:
        if isinstance(recorded, Mapping):
            fields = recorded.get("init_args", recorded)
            return ImageFormat(**make(admit_arguments(ImageFormat, fields, "checkpoint.data.tasks.image_format")))
        tasks: ImageTasks = build(recipe, ImageTasks, "tasks")
    except NotAdmitted:
        return None
    return tasks.image_format


def open_checkpoint(named: str | Path | MetaLearner, **parts: Any) -> MetaCheckpoint:
    """The meta-checkpoint of a name. Nothing in the file is executed.

    Args:
        named: A file that ``fit`` wrote; a run's folder (its best checkpoint), or ``RUN/best`` or ``RUN/last``;
            ``wandb://ENTITY/PROJECT/NAME:ALIAS``; ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``; ``zoo:NAME``; or a
            learner itself.
        parts: Arguments of ``MetaLearner`` to use instead of those recorded, such as ``model``.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is damaged, is none of ``fit``, or holds more than plain data.
        ConnectionError: It cannot be fetched.
    """
    if isinstance(named, MetaLearner):
        return MetaCheckpoint("the learner", named)
    path = locate(named)
    saved = read_checkpoint(path)
    tasks, taken = recorded_tasks(saved)
    learner = MetaLearner.load_from_checkpoint(path, **parts)
    return MetaCheckpoint(str(named), learner, tasks, path, taken)


def recorded_tasks(saved: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, object]:
    """What a checkpoint records of its training tasks: their recipe, or None, and what they took from their split."""
    data, state = saved.get("datamodule_hyper_parameters") or {}, saved.get("TaskDataModule")
    tasks = data.get("tasks")
    return tasks if isinstance(tasks, Mapping) else None, state.get("tasks") if isinstance(state, Mapping) else None
