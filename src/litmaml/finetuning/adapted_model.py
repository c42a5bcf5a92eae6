"""What fine-tuning leaves: an ordinary module with its preprocessing and class names, and the folder it is kept in."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from litmaml.checkpoint import sha256
from litmaml.data.images import ImageFormat, read_images
from litmaml.finetuning.frozen_norm import hold_statistics
from litmaml.finetuning.head import replace_head
from litmaml.plots import Fit, grid_over, plot_fits
from litmaml.recipe import build

WEIGHTS, CONFIG, CLASSES = "model.safetensors", "config.yaml", "classes.json"
_READ_AT_ONCE = 256


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
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str] | None = None,
        image_format: ImageFormat | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = None if classes is None else list(classes)
        self.image_format = image_format
        self.recipe = recipe
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
        for start in range(0, len(files), _READ_AT_ONCE):
            some = files[start : start + _READ_AT_ONCE]
            best = self.probabilities(self.preprocess(*some).to(device)).max(1)
            for file, probability, label in zip(some, best.values, best.indices, strict=True):
                yield Prediction(Path(file), self.classes[int(label)], float(probability))

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, ``config.yaml`` and ``classes.json``, from which ``load`` makes the model.

        Raises:
            ValueError: The network's class cannot be rebuilt from plain data.
        """
        if self.recipe is None or self.recipe.model is None:
            raise ValueError(
                "the model cannot be saved to be loaded again: its checkpoint could not describe the class and "
                "arguments of the network; keep each argument of its constructor as an attribute of the same name"
            )
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        save_model(copy.deepcopy(self.network).cpu(), str(folder / WEIGHTS))
        (folder / WEIGHTS).chmod(0o644)  # as other files; safetensors writes for the owner only
        config = {
            "model": self.recipe.model,
            "head": self.recipe.head,
            "outputs": self.recipe.outputs,
            "image_format": None if self.image_format is None else asdict(self.image_format),
            "sha256": sha256(folder / WEIGHTS),
            "source": dict(self.recipe.source),
        }
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
        (folder / CLASSES).write_text(json.dumps(self.classes, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


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
    folder = Path(folder).expanduser()
    for name in (WEIGHTS, CONFIG, CLASSES):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"model: {str(folder)!r} has no {name}; give a folder that litmaml finetune wrote (its --output)"
            )
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        classes = json.loads((folder / CLASSES).read_text(encoding="utf-8"))
        recipe = Recipe(config["model"], config["head"], int(config["outputs"]), config["source"])
        image_format = ImageFormat(**config["image_format"]) if config["image_format"] else None
        digest = config["sha256"]
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(
            f"model: {CONFIG} or {CLASSES} in {str(folder)!r} is damaged ({error!r}); copy the folder anew"
        ) from error
    if digest != sha256(folder / WEIGHTS):
        raise ValueError(
            f"model: {str(folder / WEIGHTS)!r} is damaged or of another model: its SHA-256 sum is not the one in "
            f"{CONFIG}; copy the folder anew"
        )
    network = build(recipe.model, nn.Module, "model")
    if recipe.head is not None:
        replace_head(network, recipe.head, recipe.outputs)
    hold_statistics(network)
    try:
        load_model(network, str(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"model: the weights in {str(folder)!r} do not fit its {CONFIG}: {error}") from error
    return AdaptedModel(network, classes, image_format, recipe)
