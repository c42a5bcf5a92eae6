"""A checkpoint's own configuration, for the command line: admitted, and with no text in it that the parser reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from litmaml.admission import admit_arguments, write
from litmaml.data import TaskDataModule
from litmaml.meta_learner import MetaLearner
from litmaml.proportion import check_size
from litmaml.sealed import seal, unseal
from litmaml.typed import what_was_typed

_MOST_WORKERS = 256


def configuration(saved: Mapping[str, Any], arguments: Sequence[str], data: bool = True) -> dict[str, Any]:
    """What a checkpoint records of its learner and its task data, without what was typed in its place.

    Args:
        saved: The checkpoint's content.
        arguments: What was typed.
        data: Whether the task data are wanted, too.

    Raises:
        ValueError: It records something else than how to make a learner and task data.
    """
    typed = what_was_typed(arguments)
    learner = admit_arguments(MetaLearner, saved["hyper_parameters"], "checkpoint.model", typed.within("model"))
    check_size(learner, saved["state_dict"], "checkpoint.model.")
    recorded = {"model": write(learner, seal)}
    if data and "datamodule_hyper_parameters" in saved:
        what = saved["datamodule_hyper_parameters"]
        tasks = admit_arguments(TaskDataModule, what, "checkpoint.data", typed.within("data"))
        if tasks.get("num_workers", 0) > _MOST_WORKERS:
            raise ValueError(f"checkpoint.data.num_workers: starts {tasks['num_workers']} processes; type another")
        recorded["data"] = write(tasks, seal)
    return recorded


class SealedParser(LightningArgumentParser):
    """Makes objects with the texts that a checkpoint records, which it did not get to see itself."""

    def instantiate_classes(self, cfg: Namespace, **kwargs: Any) -> Namespace:
        made: Namespace = self.instantiate(cfg, instantiators=[(_unsealed, object, True)], **kwargs)
        return made


def _unsealed(kind: type, *args: Any, **kwargs: Any) -> Any:
    return kind(*args, **unseal(kwargs))
