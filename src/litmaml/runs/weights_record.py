"""What a checkpoint records beside values: which weights are adapted, trained, frozen, one; which parts evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from litmaml.inner.loop import InnerLoop
from litmaml.inner.places import all_places
from litmaml.shown import listed

WEIGHTS_KEY = "litmaml_weights"
_LATER = {"evaluated", "begun"}
"""What is not in older files, or not in all."""


def record_of(inner_loop: InnerLoop, evaluated: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint records.

    fast, slow: the names of the weights that are adapted, and only trained. begun: of the fast ones that start in each
    task anew, if there are some. tied: of the places that share one.
    evaluated: of the inner loop's parts that are in evaluation while it trains.
    """
    tied = all_places(inner_loop.model)
    return {
        "fast": inner_loop.fast_names,
        "slow": inner_loop.slow_names,
        "tied": tied,
        "evaluated": [*evaluated],
        **({"begun": [*inner_loop.begun]} if inner_loop.begun else {}),
    }


def wrong_record(record: Any) -> str | None:
    """What of a record in a file is of another form."""
    if not isinstance(record, Mapping) or record.keys() | _LATER != {"fast", "slow", "tied", *_LATER}:
        return "its record of weights is none"
    kinds = {"fast": "fast weights", "slow": "slow weights", "evaluated": "parts in evaluation", "begun": "heads"}
    for name, kind in kinds.items():
        names = record.get(name, [])
        if not isinstance(names, list) or not all(isinstance(part, str) for part in names):
            return f"its record of {kind} is no list of names"
    return wrong_ties(record["tied"])


def wrong_ties(ties: Any) -> str | None:
    """What of a record of shared weights in a file is of another form."""
    if isinstance(ties, Mapping) and all(isinstance(name, str) for pair in ties.items() for name in pair):
        return None
    return "its record of shared weights is no dictionary of names"


def restore(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Freeze and tie the weights of a model that was made anew as they were; older files record nothing of it.

    Raises:
        ValueError: Weights have other names, or such as are to be one other shapes, or are one where they were not.
    """
    if WEIGHTS_KEY not in saved:
        return
    record = saved[WEIGHTS_KEY]
    tie(model, record["tied"])
    _check_names(model, saved)
    trained = {*record["fast"], *record["slow"]}
    for name, weight in model.named_parameters():
        if weight.is_floating_point() or weight.is_complex():
            weight.requires_grad_(name in trained or _rows_of(name) in saved["state_dict"])


def _rows_of(name: str) -> str:
    """Where a checkpoint has the rows for each inner step of a weight, which ``per_step_weights`` asks for anew."""
    return "inner_loop.learnt.weights/" + name.replace(".", "/")


def evaluated_parts(inner_loop: InnerLoop, saved: Mapping[str, Any]) -> list[str] | None:
    """The parts that the checkpoint has in evaluation while it trains; None where it records nothing of it.

    Of another loss than the one that was trained with there may be none.

    Raises:
        ValueError: The model has no such part.
    """
    evaluated: list[str] | None = saved.get(WEIGHTS_KEY, {}).get("evaluated")
    parts = {name for name, _ in inner_loop.named_modules()}
    if unknown := [name for name in evaluated or () if name not in parts and name.partition(".")[0] != "loss"]:
        raise ValueError(
            f"model: it has no part {unknown[0][:80]!r}, which the checkpoint keeps in evaluation; give it the model "
            "that was trained"
        )
    return evaluated


def evaluated_of_model(saved: Mapping[str, Any]) -> list[str]:
    """The same by their names in the model; none where the checkpoint records nothing of it."""
    parts = [name.partition(".") for name in saved.get(WEIGHTS_KEY, {}).get("evaluated") or ()]
    return [inside for part, _, inside in parts if part == "model"]


def other_modes(here: Sequence[str], there: Sequence[str]) -> str:
    """Which parts are in evaluation in one of the two, a learner and a checkpoint, and not in the other; in words."""
    more, less = ([name for name in one if name not in other] for one, other in ((there, here), (here, there)))
    words = [f"{listed(more, 3)} in evaluation in the checkpoint and not here"] if more else []
    words += [f"{listed(less, 3)} in evaluation here and not in the checkpoint"] if less else []
    return ", ".join(words)


def tie(model: nn.Module, ties: Mapping[str, str]) -> None:
    """Let places of a model share one weight: each name the one that it is given.

    Raises:
        ValueError: There are no such places, their shapes differ, or others share a weight already.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    for place, own in ties.items():
        if place not in weights or own not in weights or weights[place].shape != weights[own].shape:
            raise ValueError(
                f"model: {place[:80]!r} and {own[:80]!r} cannot be one weight in the model that is recorded"
            )
        path, _, name = place.rpartition(".")
        if weights[place] is not weights[own]:
            setattr(model.get_submodule(path), name, weights[own])
    _check_ties(model, ties)


def check_weights(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Refuse to load into a model of which other weights are frozen or one than in the checkpoint.

    Raises:
        ValueError: Naming them, with the remedy.
    """
    check_ties(model, saved)
    if other := other_trained(model, saved):
        raise ValueError(
            f"model: {other}, so that the learner would adapt and train other weights; freeze them alike before the "
            "MetaLearner is made (requires_grad_), or let MetaLearner.load_from_checkpoint(path) make it, as it was"
        )


def other_trained(model: nn.Module, saved: Mapping[str, Any]) -> str:
    """Which weights are trainable here and frozen in the checkpoint, or the reverse; nothing for older files."""
    if WEIGHTS_KEY not in saved:
        return ""
    record = saved[WEIGHTS_KEY]
    there = {*record["fast"], *record["slow"]}
    # What starts in each task anew is held still by the inner loop; what only one of the two has is no frozen weight.
    weights = {
        name: weight
        for name, weight in model.named_parameters()
        if name not in record.get("begun", ()) and f"inner_loop.model.{name}" in saved["state_dict"]
    }
    thawed = [name for name, weight in weights.items() if weight.requires_grad and name not in there]
    frozen = [name for name, weight in weights.items() if not weight.requires_grad and name in there]
    parts = [f"{listed(thawed, 3)} is frozen in the checkpoint and not here"] if thawed else []
    parts += [f"{listed(frozen, 3)} is frozen here and not in the checkpoint"] if frozen else []
    return ", ".join(parts)


def check_ties(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Refuse to load into a model in which other weights are one than in the checkpoint, or that has not all of them.

    Raises:
        ValueError: Naming the first two, with the remedy.
    """
    if WEIGHTS_KEY in saved:
        _check_ties(model, saved[WEIGHTS_KEY]["tied"])
        _check_names(model, saved)


def _check_names(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """Refuse names that stand for nothing, here or there. (Another architecture is told when it is loaded.)"""
    own = dict(model.named_parameters(remove_duplicate=False))
    for name in (*saved[WEIGHTS_KEY]["fast"], *saved[WEIGHTS_KEY]["slow"]):
        if name not in own and f"inner_loop.model.{name}" not in saved["state_dict"]:
            raise ValueError(
                f"model: the checkpoint records a weight {name[:80]!r}, and the model has none of this name"
            )


def with_own_loss(saved: Mapping[str, Any], own: Mapping[str, Any], loss: nn.Module) -> dict[str, Any]:
    """A checkpoint's state with the buffers that a loss of torch has here: they are arguments, of a record or typed.

    Args:
        saved: By name, as a learner has it.
        own: The same of the learner that it is loaded into.
        loss: Of this learner; one that is not of torch keeps what is saved, which may have been computed.
    """
    if not type(loss).__module__.startswith("torch.nn."):
        return dict(saved)
    kept, ours = ({name for name in state if name.startswith("inner_loop.loss.")} for state in (saved, own))
    return {name: value for name, value in saved.items() if name not in kept} | {name: own[name] for name in ours}


def check_kinds(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Refuse numbers that loading would cut: the imaginary part of complex ones, the fraction of real ones.

    Raises:
        ValueError: Naming the first.
    """
    for name, tensor in own.items():
        other = saved.get(name)
        if isinstance(other, Tensor) and isinstance(tensor, Tensor) and _kind(other) > _kind(tensor):
            raise ValueError(f"model: {name} holds {tensor.dtype}, and the checkpoint has {other.dtype} for it")


def _kind(tensor: Tensor) -> int:
    return 2 if tensor.is_complex() else int(tensor.is_floating_point())


def _check_ties(model: nn.Module, ties: Mapping[str, str]) -> None:
    here = all_places(model)
    if other := sorted(place for place in {*here, *ties} if here.get(place) != ties.get(place)):
        here_or_there = "here and not in the checkpoint" if other[0] in here else "in the checkpoint and not here"
        raise ValueError(
            f"model: {other[0]} is one weight with {(here | dict(ties))[other[0]]} {here_or_there}; tie or part them "
            "before the MetaLearner is made, as they were in training"
        )
