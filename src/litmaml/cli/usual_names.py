"""What an option is called here that has another name elsewhere, or was typed without its group."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_ELSEWHERE = {
    **dict.fromkeys(("inner_lr", "fast_lr", "adapt_lr", "task_lr"), "model.inner_optimizer.lr"),
    **dict.fromkeys(("meta_lr", "outer_lr"), "model.optimizer.lr"),
    **dict.fromkeys(("lr", "learning_rate"), "model.optimizer.lr of the outer loop, or model.inner_optimizer.lr"),
    **dict.fromkeys(("batch_size", "meta_batch_size", "tasks_per_batch"), "data.meta_batch"),
    **dict.fromkeys(("adaptation_steps", "num_inner_steps", "update_steps"), "model.inner_steps"),
    **dict.fromkeys(("epochs", "num_epochs"), "trainer.max_epochs"),
    **{name: f"data.tasks.init_args.train.{name}" for name in ("ways", "shots", "queries")},
}
_WITHIN = {"learning_rate": "lr", "alpha": "lr", "rate": "lr"}
"""The same among the arguments of a class."""


def meant_by(key: str, options: Iterable[str], of_class: bool) -> str | None:
    """The option that was meant by one that there is not, if any comes near.

    Args:
        key: As it was typed.
        options: That there are, by their whole names.
        of_class: They are a class's arguments.

    Example:
        >>> meant_by("model.inner_lr", ["model.inner_steps", "model.inner_optimizer"], of_class=False)
        'model.inner_optimizer.lr'
        >>> meant_by("inner_optimizer.lr", ["model.inner_optimizer"], of_class=False)
        'model.inner_optimizer.lr'
    """
    # One that is not taken may stand in a signature all the same, as *args does.
    there = {name for name in options if name != key and not name.endswith(".help")}
    group, _, last = key.rpartition(".")
    if of_class and (own := f"{group}.{_WITHIN.get(last)}") in there:
        return own
    if not of_class:
        is_group = any(name.startswith(f"{group}.") for name in there)
        if not is_group and (grouped := [name for name in sorted(there) if name.endswith(f".{group}")]):
            return f"{grouped[0]}.{last}"
        if group in ("", "model", "data", "trainer") and last in _ELSEWHERE:
            return _ELSEWHERE[last]
    return next(iter(difflib.get_close_matches(key, sorted(there), n=1, cutoff=0.6)), None)
