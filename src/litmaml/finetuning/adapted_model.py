"""What fine-tuning leaves: an ordinary module with its preprocessing and class names, and the folder it is kept in."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from litmaml.data.images import ImageFormat, read_images
from litmaml.finetuning.frozen_norm import hold_statistics
from litmaml.finetuning.head import replace_head
from litmaml.finetuning.kept_weights import brief, check_whole, map_weights
from litmaml.inner.places import all_places
from litmaml.learner.trial.agreement import off, rounding_share, sizes
from litmaml.runs.admission import admit, admit_arguments
from litmaml.runs.admitted import make, short
from litmaml.runs.checkpoint import sha256
from litmaml.runs.paths import expanded, unlinked
from litmaml.runs.plain_files import NotPlain, read_json, read_yaml
from litmaml.runs.proportion import check_size
from litmaml.runs.recipe import made
from litmaml.runs.weights_record import check_kinds, tie, wrong_ties
from litmaml.shown import first_line
from litmaml.statistics.plots import Fit, grid_over, plot_fits

WEIGHTS, CONFIG, CLASSES = "model.safetensors", "config.yaml", "classes.json"
_READ_AT_ONCE, _PIXELS_AT_ONCE = 256, 1 << 24


class Recipe(NamedTuple):
    """What an adapted network is rebuilt by.

    model: its class and arguments, as in meta-training.
    head: the name of the layer that was replaced, or None.
    outputs: the width of that layer.
    source: where the weights come from, in plain words, for the reader.
    """

    model: Any
    head: str | None
    outputs: int
    source: Mapping[str, Any]


class Prediction(NamedTuple):
    """The likeliest class of an image and its probability."""

    file: Path
    label: str
    probability: float


class AdaptedModel(nn.Module):
    """A network adapted to one task, in eval mode: what it predicts for an input depends on that input alone.

    Called with inputs as the meta-trained network takes them it returns what that returns: logits (n, classes), or
    values. ``preprocess`` makes inputs of image files, ``classify`` names their classes.

    Args:
        network: The adapted network.
        classes: The classes' names in the order of the logits; None in regression.
        image_format: What image files become; None if it takes no images.
        recipe: What rebuilds the network; without it the model cannot be saved.
        example: A few inputs (n, ...), on which what is saved has to predict the same once it is loaded.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str] | None = None,
        image_format: ImageFormat | None = None,
        recipe: Recipe | None = None,
        example: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = None if classes is None else list(classes)
        self.image_format = image_format
        self.recipe = recipe
        self._example = example
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        predictions: Tensor = self.network(inputs)
        return predictions

    @torch.no_grad()
    def plot(self, path: str | Path, inputs: Tensor, targets: Tensor) -> None:
        """Write a picture of a function of one variable over the points (n, 1) that it was adapted to.

        Raises:
            ValueError: The model or the points are of more variables.
        """
        if inputs.shape != targets.shape or inputs.shape[1:] != (1,):
            raise ValueError(
                f"inputs: only functions of one variable can be drawn, with inputs and targets (n, 1); got "
                f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
            )
        x = grid_over(inputs)
        plot_fits(Path(path), [Fit(x, self(x[:, None]).T, {"support": (inputs[:, 0], targets[:, 0])})], "")

    def preprocess(self, *files: str | Path) -> Tensor:
        """Image files as inputs (n, channels, size, size).

        Raises:
            ValueError: A file is no image that can be read; all such are named.
        """
        if self.image_format is None:
            raise ValueError("this model takes no image files: its checkpoint names no image format")
        pixels, errors = read_images({str(file): file for file in dict.fromkeys(files)}, self.image_format)
        if errors:
            raise ValueError("\n".join(errors))
        return self.image_format.to_float(pixels)

    def probabilities(self, inputs: Tensor) -> Tensor:
        """The probability of each class (n, classes), without a graph."""
        with torch.no_grad():
            return torch.softmax(self(inputs), dim=1)

    def classify(self, *files: str | Path) -> Iterator[Prediction]:
        """The likeliest class of each image file, a few hundred in memory at a time.

        Raises:
            ValueError: A file is no image that can be read, or the model is no classifier.
        """
        if self.classes is None:
            raise ValueError("this model is no classifier: it has no classes")
        device = next(self.parameters()).device
        size = 1 if self.image_format is None else self.image_format.channels * self.image_format.size**2
        at_once = max(1, min(_READ_AT_ONCE, _PIXELS_AT_ONCE // size))
        for start in range(0, len(files), at_once):
            some = files[start : start + at_once]
            best = self.probabilities(self.preprocess(*some).to(device)).max(1)
            for file, probability, label in zip(some, best.values, best.indices, strict=True):
                yield Prediction(Path(file), self.classes[int(label)], float(probability))

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, ``config.yaml`` and ``classes.json``, from which ``load`` makes the model.

        Raises:
            ValueError: The network's class cannot be rebuilt from plain data, what is rebuilt predicts otherwise, or
                the folder has a configuration that is no adapted model's.
        """
        if self.recipe is None or self.recipe.model is None:
            raise ValueError(
                "the model cannot be saved to be loaded again: its checkpoint could not describe the class and "
                "arguments of the network; keep each argument of its constructor as an attribute of the same name"
            )
        folder = expanded(folder)
        _check_place(folder / CONFIG)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS, CONFIG, CLASSES):
            unlinked(folder / name)
        save_model(copy.deepcopy(self.network).cpu(), str(folder / WEIGHTS))
        (folder / WEIGHTS).chmod(0o644)  # as other files; safetensors writes for the owner only
        config = {
            "model": self.recipe.model,
            "head": self.recipe.head,
            "outputs": self.recipe.outputs,
            "tied": all_places(self.network),
            "image_format": None if self.image_format is None else asdict(self.image_format),
            "sha256": sha256(folder / WEIGHTS),
            "source": dict(self.recipe.source),
        }
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
        (folder / CLASSES).write_text(json.dumps(self.classes, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        self._check_saved(folder)

    @torch.no_grad()
    def _check_saved(self, folder: Path) -> None:
        """Take away what would be loaded as another model."""
        if self._example is None:
            return
        example = self._example.to(next(self.parameters()).device)
        own = self(example)
        try:
            found = load(folder).to(example.device)(example)
            apart = off(found, own, rounding_share(own.dtype) * sizes(own))
            why = f"it predicts otherwise by {apart:.2g}" if apart else ""
        except Exception as error:  # whatever somebody's class does
            why = first_line(error)
        if why:
            for name in (WEIGHTS, CONFIG, CLASSES):
                (folder / name).unlink()
            raise ValueError(
                f"model: it cannot be saved, since what is loaded would be another one ({why}); keep each argument of "
                "the network's constructor as an attribute of the same name, and what changes later in a registered "
                "buffer"
            )


def load(folder: str | Path) -> AdaptedModel:
    """The adapted model that ``litmaml finetune`` or ``AdaptedModel.save`` wrote, on the CPU and in eval mode.

    Nothing in the folder is executed; only classes of litmaml, of torch and of modules that are imported already
    are made.

    Args:
        folder: ``--output`` of ``litmaml finetune``.

    Raises:
        FileNotFoundError: The folder lacks one of its files.
        ValueError: A file is damaged, or the model's class is not known.
    """
    folder = expanded(folder)
    for name in (WEIGHTS, CONFIG, CLASSES):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"model: {str(folder)!r} has no {name}; give a folder that litmaml finetune wrote (its --output)"
            )
    try:
        config, classes = _read_config(folder / CONFIG), _read_classes(folder / CLASSES)
        recipe = Recipe(config["model"], config["head"], config["outputs"], config["source"])
        given = admit_arguments(ImageFormat, config["image_format"] or {}, "image_format")
        image_format = ImageFormat(**make(given)) if config["image_format"] else None
        if classes is not None and len(classes) != recipe.outputs:
            raise NotPlain(f"has {len(classes)} names of {recipe.outputs} classes")
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"model: {CONFIG} or {CLASSES} in {str(folder)!r} is damaged ({error}); copy the folder anew"
        ) from error
    weights = map_weights(folder / WEIGHTS)
    admitted = admit(recipe.model, (nn.Module,), "model")
    check_size({"model": admitted}, weights, "")
    network: nn.Module = made(admitted, "model")
    with _fitting(folder):
        if recipe.head is not None:
            rows = [len(weights[name]) for name in (f"{recipe.head}.weight",) if name in weights]
            if rows != [recipe.outputs]:
                raise ValueError(f"{recipe.head} has no weights of {recipe.outputs} outputs")
            replace_head(network, recipe.head, recipe.outputs)
        tie(network, config.get("tied", {}))
        hold_statistics(network)
        check_kinds(network.state_dict(), weights)
    check_whole(folder / WEIGHTS, weights, network.state_dict(), config["sha256"])
    with _fitting(folder):
        if len(precision := {weight.dtype for weight in weights.values() if weight.is_floating_point()}) == 1:
            network.to(dtype=precision.pop())
        load_model(network, str(folder / WEIGHTS))
    return AdaptedModel(network, classes, image_format, recipe)


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Tell that the weights do not fit the model, whatever shows it."""
    try:
        yield
    except (SafetensorError, RuntimeError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"model: the weights in {str(folder)!r} do not fit its {CONFIG}: {brief(error)}") from error


_KINDS: dict[str, tuple[type, ...]] = {
    "model": (dict,),
    "head": (str, type(None)),
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
    if wrong := wrong_ties(config.get("tied", {})):  # which older folders lack
        raise NotPlain(wrong)
    return config


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
