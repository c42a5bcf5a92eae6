"""What is typed when a run is resumed, against what its checkpoint restores."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from litmaml.callbacks.counted import begin_anew, by_class, keep_typed
from litmaml.callbacks.training_state import check_callbacks, check_training_state
from litmaml.learner.meta_learner import MetaLearner
from litmaml.learner.outer_optimizer import RATES
from litmaml.runs.training_form import cannot_go_on
from litmaml.shown import one_line

_PLACES = (
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "report",
    "preemption",
)
"""What says where and how a run is shown, not what it computes."""


class Resumption(Callback):
    """Obeys what is typed and differs from the checkpoint, or refuses it; what differs is said.

    Weights, the optimizer's state, a schedule's and learnt inner rates are restored. An option of the optimizer that is
    typed anew counts from now on, and so do the settings of callbacks. What cannot be changed in the middle is refused:
    another optimizer or schedule, its length included, the rate under a schedule, and where learnt inner rates begin.

    ``configuration``: of this run, as it is recorded.
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self.configuration = configuration

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return
        before, now = checkpoint["hyper_parameters"], dict(pl_module.hparams)
        check_resumed(before, now, restored=_restored(checkpoint["state_dict"]))
        if trainer.max_epochs not in (None, -1) and checkpoint["epoch"] > trainer.max_epochs:
            raise ValueError(
                f"trainer.max_epochs: the checkpoint is of epoch {checkpoint['epoch']} (the first is 0), got "
                f"{trainer.max_epochs}; set it to at least {checkpoint['epoch'] + 1}"
            )
        if not checkpoint.get("loops"):
            raise cannot_go_on("loops", "has none")
        check_callbacks(trainer.callbacks, checkpoint.get("callbacks", {}))  # type: ignore[attr-defined]  # Lightning sets it outside the class
        if isinstance(pl_module, MetaLearner):
            check_training_state(pl_module, checkpoint)
        for name, (_, value) in _changed(before, now, "optimizer").items():
            for state in checkpoint["optimizer_states"]:
                for group in state["param_groups"]:
                    if name != "lr" or group.get("name") != RATES:  # whose rate is rates_lr
                        group[name] = tuple(value) if isinstance(value, list) else value
        if (rate := now.get("rates_lr")) is not None and rate != before.get("rates_lr"):
            for state in checkpoint["optimizer_states"]:
                for group in state["param_groups"]:
                    group["lr"] = rate if group.get("name") == RATES else group["lr"]
        recorded = checkpoint.get("configuration")
        begin_anew(trainer, pl_module, checkpoint)
        before, now = (
            by_class((run or {}).get("trainer", {}).get("callbacks")) for run in (recorded, self.configuration)
        )
        keep_typed(trainer, checkpoint["callbacks"], before, now)
        if recorded and (differences := list(_differences(recorded, self.configuration))):
            rank_zero_info(one_line("resumed with other settings: " + ", ".join(differences))[:2000])


def _restored(keys: Iterable[str]) -> set[str]:
    """The arguments of inner optimizers whose learnt values a checkpoint has, by the names of its tensors."""
    found: set[str] = set()
    for key in keys:
        if ".learnt.rate" in key or ".optimizer.rates." in key:  # of version 0.1, where the optimizer held them
            found |= {"lr", "learn", "per_step"}
        elif key.endswith(".learnt.strength"):
            found |= {"strength", "learn"}
    return found


def check_resumed(before: Mapping[str, Any], now: Mapping[str, Any], restored: Collection[str]) -> None:
    """Refuse what cannot be changed in the middle of a run.

    Args:
        before: The arguments of the learner that the checkpoint records.
        now: Those that are set by now.
        restored: The arguments of inner optimizers whose learnt values the checkpoint has.

    Raises:
        ValueError: Naming the option, both values, and what to do.
    """
    instead = "leave it out, or begin a new run from these weights with --init_weights"
    for name in ("optimizer", "lr_scheduler"):
        old, new = before.get(name), now.get(name)
        if name in before and _class(old) != _class(new):  # a run that was begun in Python records neither
            raise ValueError(
                f"model.{name}: the run has {_class(old)} with a state of its own, got {_class(new)}; {instead}"
            )
    if now.get("lr_scheduler") is not None:
        schedule = {f"lr_scheduler.{name}": pair for name, pair in _changed(before, now, "lr_scheduler").items()}
        interval = before.get("lr_scheduler_interval"), now.get("lr_scheduler_interval")
        for name, (old, new) in {**schedule, "lr_scheduler_interval": interval}.items():
            if old is not None and old != new:
                raise ValueError(f"model.{name}: the schedule is under way with {old!r}, got {new!r}; {instead}")
        old, new = (_arguments(learner, "optimizer").get("lr") for learner in (before, now))
        if old != new:
            raise ValueError(f"model.optimizer.lr: the schedule has it, begun with {old!r}, got {new!r}; {instead}")
    if "rates_lr" in before and (before["rates_lr"] is None) != (now.get("rates_lr") is None):
        raise ValueError(
            f"model.rates_lr: the run has {before['rates_lr']} and weights in groups by it, got {now.get('rates_lr')}; "
            f"{instead}"
        )
    if restored:
        optimizers = [_flat(_arguments(learner, "inner_optimizer")) for learner in (before, now)]
        for name, (old, new) in _differing(*optimizers).items():
            if name.rpartition(".")[2] in restored:
                what = "it was" if name.endswith("strength") else "the rates were"
                verb = "is" if name.endswith("strength") else "are"
                raise ValueError(
                    f"model.inner_optimizer.{name}: {what} learnt on from {old!r} and {verb} restored, got "
                    f"{new!r}; {instead}"
                )
        per_step = any(value for name, value in optimizers[1].items() if name.rpartition(".")[2] == "per_step")
        if per_step and before["inner_steps"] != now["inner_steps"]:
            raise ValueError(
                f"model.inner_steps: rates were learnt for each of {before['inner_steps']} steps, got "
                f"{now['inner_steps']}; {instead}"
            )


def _class(recipe: Any) -> str | None:
    return str(recipe["class_path"]) if isinstance(recipe, Mapping) and "class_path" in recipe else recipe


def _arguments(learner: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    recipe = learner.get(part)
    return dict(recipe.get("init_args") or {}) if isinstance(recipe, Mapping) else {}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], part: str) -> dict[str, tuple[Any, Any]]:
    """The arguments that a part of the learner has in both, where they differ: the old value and the new."""
    return _differing(_arguments(before, part), _arguments(now, part))


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an inner optimizer with those of the one that it is around, under ``optimizer.``."""
    within = arguments.get("optimizer")
    if not isinstance(within, Mapping):
        return dict(arguments)
    inner = _flat(dict(within.get("init_args") or {}))
    return {**arguments, **{f"optimizer.{name}": value for name, value in inner.items()}}


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (old[name], value) for name, value in new.items() if name in old and old[name] != value}


def _differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    if key.startswith(_PLACES):
        return
    if key == "trainer.callbacks":
        old, new = by_class(old), by_class(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif old != new:
        yield f"{key.replace('.init_args', '')} {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    return _class(value) or "" if isinstance(value, Mapping) else str(value)
