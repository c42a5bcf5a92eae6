"""The folder that an adapted network is kept in: its weights, and in plain data what it is rebuilt by."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from litmaml.data.images import ImageFormat
from litmaml.data.table_format import TableFormat
from litmaml.finetuning.frozen_norm import hold_statistics
from litmaml.finetuning.kept_weights import brief, check_whole, map_weights
from litmaml.inner.batch_norms import POLICIES, Policy, settle
from litmaml.inner.head import replace_head
from litmaml.inner.model_call import Output
from litmaml.inner.places import all_places
from litmaml.runs import hub
from litmaml.runs.admission import admit, admit_arguments
from litmaml.runs.admitted import make, short
from litmaml.runs.checkpoint import sha256
from litmaml.runs.paths import expanded, unlinked
from litmaml.runs.plain_files import NotPlain, read_json, read_yaml
from litmaml.runs.proportion import check_size
from litmaml.runs.recipe import made
from litmaml.runs.weights_record import check_kinds, tie, wrong_ties

WEIGHTS, CONFIG, CLASSES = "model.safetensors", "config.yaml", "classes.json"


class Recipe(NamedTuple):
    """What an adapted network is rebuilt by.

    model: its class and arguments, as in meta-training; None if they are not known.
    heads: the names of the layers that were replaced, none or mostly one.
    outputs: the width of these layers.
    source: where the weights come from, in plain words, for the reader.
    batch_norm: what the model's batch norms were made to normalise by, see ``settle``.
    """

    model: Any
    heads: Sequence[str]
    outputs: int
    source: Mapping[str, Any]
    batch_norm: Policy | None = None


class Kept(NamedTuple):
    """What a folder holds: the arguments of the adapted model that was saved there.

    network: in eval mode, on the CPU.
    classes, image_format, output, table: as that model has them.
    recipe: what the network was rebuilt by.
    """

    network: nn.Module
    classes: list[str] | None
    image_format: ImageFormat | None
    recipe: Recipe
    output: Output
    table: TableFormat | None = None


def write_folder(folder: str | Path, kept: Kept) -> Path:
    """Write ``model.safetensors``, ``config.yaml`` and ``classes.json``.

    Returns:
        The folder.

    Raises:
        ValueError: The folder has a configuration that is no adapted model's.
    """
    folder = expanded(folder)
    _check_place(folder / CONFIG)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, CONFIG, CLASSES):
        unlinked(folder / name)
    save_model(copy.deepcopy(kept.network).cpu(), str(folder / WEIGHTS))
    (folder / WEIGHTS).chmod(0o644)  # as other files; safetensors writes for the owner only
    config = {
        "model": kept.recipe.model,
        "batch_norm": kept.recipe.batch_norm,
        "output": kept.output,
        "head": heads[0] if len(heads := [*kept.recipe.heads]) == 1 else heads or None,
        "outputs": kept.recipe.outputs,
        "tied": all_places(kept.network),
        "image_format": None if kept.image_format is None else asdict(kept.image_format),
        **({} if kept.table is None else {"table": kept.table.plain()}),
        "sha256": sha256(folder / WEIGHTS),
        "source": dict(kept.recipe.source),
    }
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    (folder / CLASSES).write_text(json.dumps(kept.classes, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return folder


def take_away(folder: Path) -> None:
    """Remove what ``write_folder`` has written."""
    for name in (WEIGHTS, CONFIG, CLASSES):
        (folder / name).unlink()


def read_folder(folder: str | Path, network: nn.Module | None = None) -> Kept:
    """What ``write_folder`` wrote; nothing in it is executed.

    Args:
        folder: The folder, or ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``, which is fetched.
        network: What the weights are loaded into a copy of; by default what the folder's recipe makes.

    Raises:
        FileNotFoundError: The folder lacks one of its files.
        ValueError: A file is damaged, or the model's class is not known.
    """
    folder = _fetched(str(folder)) if str(folder).startswith(hub.PREFIX) else expanded(folder)
    config, classes = read_description(folder)
    try:
        heads = _heads(config["head"])
        recipe = Recipe(config["model"], heads, config["outputs"], config["source"], config.get("batch_norm"))
        given = admit_arguments(ImageFormat, config["image_format"] or {}, "image_format")
        image_format = ImageFormat(**make(given)) if config["image_format"] else None
        table = None if config.get("table") is None else TableFormat.of_plain(config["table"], "table")
        if classes is not None and len(classes) != recipe.outputs:
            raise NotPlain(f"has {len(classes)} names of {recipe.outputs} classes")
    except (ValueError, TypeError) as error:
        raise _damaged(folder, error) from error
    weights = map_weights(folder / WEIGHTS)
    network = _made(recipe, weights) if network is None else copy.deepcopy(network)
    with _fitting(folder):
        settle(network, recipe.batch_norm)
        for head in recipe.heads:
            rows = [len(weights[name]) for name in (f"{head}.weight".lstrip("."),) if name in weights]
            if rows != [recipe.outputs]:
                raise ValueError(f"{head} has no weights of {recipe.outputs} outputs")
            replace_head(network, head, recipe.outputs)
        tie(network, config.get("tied", {}))
        hold_statistics(network)
        check_kinds(network.state_dict(), weights)
    check_whole(folder / WEIGHTS, weights, network.state_dict(), config["sha256"])
    with _fitting(folder):
        if len(precision := {weight.dtype for weight in weights.values() if weight.is_floating_point()}) == 1:
            network.to(dtype=precision.pop())
        load_model(network, str(folder / WEIGHTS))
    return Kept(network.eval(), classes, image_format, recipe, config.get("output"), table)


def read_description(folder: Path) -> tuple[dict[str, Any], list[str] | None]:
    """The settings of an adapted network in its folder, by name, and the names of its classes, without its weights.

    Raises:
        FileNotFoundError: The folder lacks one of its files.
        ValueError: One is damaged.
    """
    for name in (WEIGHTS, CONFIG, CLASSES):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"model: {str(folder)!r} has no {name}; give a folder that litmaml finetune wrote (its --output); of a "
                "checkpoint of a run litmaml.adapt makes a model, and MetaLearner.load_from_checkpoint the learner"
            )
    try:
        return _read_config(folder / CONFIG), _read_classes(folder / CLASSES)
    except ValueError as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> ValueError:
    return ValueError(f"model: {CONFIG} or {CLASSES} in {str(folder)!r} is damaged ({error}); copy the folder anew")


def _fetched(named: str) -> Path:
    """The folder of an adapted network on the Hub, in the library's cache."""
    folder = hub.Repository(named, "model").fetch([WEIGHTS, CONFIG, CLASSES])
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"model: {named!r} has no {WEIGHTS}, as litmaml push writes one of an adapted model; a meta-checkpoint is "
            "for litmaml finetune --checkpoint"
        )
    return folder


def _made(recipe: Recipe, weights: Mapping[str, Tensor]) -> nn.Module:
    if recipe.model is None:
        raise ValueError(
            "model: it does not say how its network is made; give that: -c RUN/config.yaml of the run that it comes "
            "from, or in Python litmaml.load(folder, network=...)"
        )
    admitted = admit(recipe.model, (nn.Module,), "model")
    check_size({"model": admitted}, weights, "")
    network: nn.Module = made(admitted, "model")
    return network


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Tell that the weights do not fit the model, whatever shows it."""
    try:
        yield
    except (SafetensorError, RuntimeError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"model: the weights in {str(folder)!r} do not fit its {CONFIG}: {brief(error)}") from error


_KINDS: dict[str, tuple[type, ...]] = {
    "model": (dict, type(None)),
    "head": (str, list, type(None)),
    "outputs": (int,),
    "image_format": (dict, type(None)),
    "sha256": (str,),
    "source": (dict,),
}


def _read_config(path: Path) -> dict[str, Any]:
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise NotPlain("holds no settings by name")
    for name, kinds in _KINDS.items():
        if name not in config or not isinstance(config.get(name), kinds) or isinstance(config.get(name), bool):
            raise NotPlain(f"has no {name}" if name not in config else f"{name}: cannot be {short(config[name])}")
    if not all(isinstance(name, str) for name in _heads(config["head"])):
        raise NotPlain(f"head: cannot be {short(config['head'])}")
    # Which older folders lack.
    if wrong := wrong_ties(config.get("tied", {})):
        raise NotPlain(wrong)
    if type(config.get("output")) not in (str, int, type(None)):
        raise NotPlain(f"output: cannot be {short(config['output'])}")
    if config.get("batch_norm") not in (None, *POLICIES):
        raise NotPlain(f"batch_norm: cannot be {short(config['batch_norm'])}")
    return config


def _heads(recorded: str | list[str] | None) -> list[str]:
    return [recorded] if isinstance(recorded, str) else recorded or []


def _check_place(path: Path) -> None:
    """Refuse to write over a configuration of another kind, such as a run's."""
    if path.is_symlink() or not path.is_file():
        return
    try:
        _read_config(path)
    except NotPlain as error:
        raise ValueError(
            f"folder: {str(path)!r} is no adapted model's ({error}), and would be written over; name another folder"
        ) from error


def _read_classes(path: Path) -> list[str] | None:
    classes = read_json(path)
    if classes is None or (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        return classes
    raise NotPlain("holds no list of names")
