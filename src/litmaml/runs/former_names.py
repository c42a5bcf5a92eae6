"""What version 0.1 called things otherwise: its modules and classes, and the arguments of its task sources."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

_MOVED = {
    "litmaml.callbacks.wandb_report.ResumableWandbLogger": "litmaml.runs.wandb_logger.ResumableWandbLogger",
    "litmaml.data.linear_regression": "litmaml.problems",
    "litmaml.data.rank_one": "litmaml.problems",
    "litmaml.data.LinearRegression": "litmaml.problems.LinearRegression",
    "litmaml.data.RankOne": "litmaml.problems.RankOne",
    "litmaml.inner_optimizer": "litmaml.inner",
    "litmaml.losses": "litmaml.problems",
    "litmaml.metrics": "litmaml.learner.metrics",
    "litmaml.outer_gradient": "litmaml.outer",
}
"""Modules and classes by where they are now."""
_NUMBERS = ("ways", "shots", "queries", "support_batches", "hessian_batches")
_WITHIN = {name: f"train.{name}" for name in _NUMBERS} | {f"test_{name}": f"test.{name}" for name in _NUMBERS[:3]}
"""Arguments of task sources by the parts of ``train`` and ``test`` that they are now."""


def name_now(name: str) -> str:
    """The name that a class has in this version, of which a file may give an older one."""
    module, _, last = name.rpartition(".")
    return _MOVED.get(name, f"{_MOVED.get(module, module)}.{last}" if module else name)


def argument_now(name: str, known: Container[str]) -> str | None:
    """What an argument of a task source is now; None if it is no former one of a class with these arguments."""
    now = _WITHIN.get(name)
    return now if now and name not in known and now.partition(".")[0] in known else None


def arguments_now(record: Mapping[Any, Any], known: Container[str]) -> dict[Any, Any]:
    """The recorded arguments of a class by the names that they have now."""
    found: dict[Any, Any] = {}
    former: dict[str, dict[str, Any]] = {}
    for name, value in record.items():
        group, _, number = (argument_now(name, known) or "").partition(".")
        if not group:
            found[name] = value
        elif value is not None:
            former.setdefault(group, {})[number] = value
    return {**former, **found}
