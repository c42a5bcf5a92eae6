"""The environment of ``litmaml finetune --env MAKER --task NAME=VALUE,...``."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any

import yaml

from litmaml.cli.own_modules import where_modules_are_found
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint
from litmaml.rl.control_tasks import ControlTasks
from litmaml.rl.gymnasium_tasks import GymnasiumTasks
from litmaml.runs.admitted import NotAdmitted
from litmaml.runs.recipe import build
from litmaml.shown import first_line


def family_of(start: MetaCheckpoint, env: str | None, task: str | None) -> tuple[ControlTasks, str]:
    """The family of the one environment that was asked for, and it in words.

    Args:
        start: The checkpoint, whose tasks say how long trajectories are, and which environments they are of.
        env: The import path of what makes another, or None.
        task: Its parameters as ``name=value,name=value``.

    Raises:
        ValueError: There is no such maker or parameter, or the checkpoint does not say what is left out.
    """
    named = _parameters(task)
    recorded: Any = (start.tasks or {}).get("init_args") or {}
    if env is not None:
        if not named:
            raise ValueError("task: has to say the parameters of the environment, got none; such as velocity=1.4")
        horizon = recorded.get("horizon")
        if not isinstance(horizon, int):
            raise ValueError("checkpoint: does not say how long its trajectories are; take one of tasks of control")
        return GymnasiumTasks(_maker(env), [named], horizon), _words(env, named)
    try:
        source = build(start.tasks, ControlTasks, "tasks")
    except NotAdmitted as error:
        raise ValueError(f"{first_line(error)}; name what makes the environment by --env") from error
    return source.only(named), _words(type(source).__name__, named)


def _parameters(task: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in (task or "").split(","):
        name, equals, value = part.partition("=")
        if part.strip() and not (equals and name.strip().isidentifier()):
            raise ValueError(f"task: has to be name=value,name=value, got {task!r}")
        if name.strip() in found:
            raise ValueError(f"task: says {name.strip()} twice, got {task!r}")
        if part.strip():
            try:
                found[name.strip()] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise ValueError(f"task: {name.strip()} has to be a number or a word, got {value!r}") from error
    return found


def _maker(env: str) -> Callable[..., Any]:
    try:
        made = pkgutil.resolve_name(env)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"env: there is no {env!r} ({first_line(error)}); {where_modules_are_found(env)}") from error
    if not callable(made):
        raise ValueError(f"env: has to make an environment, got {env!r}, which cannot be called")
    return made  # type: ignore[no-any-return]  # of whatever was named


def _words(name: str, named: dict[str, Any]) -> str:
    return name + (" with " + ", ".join(f"{key} {value}" for key, value in named.items()) if named else "")
