"""The sizes of a policy, which its environments say where they were left out."""

from __future__ import annotations

import pkgutil

from jsonargparse import Namespace

from litmaml.cli.recorded import SealedParser
from litmaml.data.task_distribution import TaskDistribution
from litmaml.rl import ControlTasks

_SIZES = ("observations", "actions")


def take_sizes(config: Namespace) -> None:
    """Put the sizes that the tasks of control have in place of those that the model is not given.

    Here, since it is the configuration that a run's checkpoints record, by which the model is made without the tasks.

    Args:
        config: Of a command, with the groups model and data.
    """
    arguments = config.model.model.get("init_args") or {}
    missing = [name for name in _SIZES if name in arguments and arguments[name] is None]
    if not missing or not issubclass(pkgutil.resolve_name(config.data.tasks.class_path), ControlTasks):
        return
    parser = SealedParser(exit_on_error=False)
    parser.add_subclass_arguments(TaskDistribution, "tasks")
    tasks = parser.instantiate_classes(Namespace(tasks=config.data.tasks)).tasks  # type: ignore[no-untyped-call]  # of it
    for name in missing:
        arguments[name] = getattr(tasks, name)
