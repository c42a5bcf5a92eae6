"""What fine-tuning leaves: an ordinary module with its preprocessing and class names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from litmaml.data.image_files import Unreadable, tell_of_unreadable
from litmaml.data.images import ImageFormat, read_images
from litmaml.data.table_format import TableFormat
from litmaml.finetuning.labelled_rows import Rows, read_rows
from litmaml.finetuning.model_folder import Kept, Recipe, read_folder, take_away, write_folder
from litmaml.finetuning.predictor import Predictor
from litmaml.inner.model_call import Output
from litmaml.learner.screen.summary import size_of
from litmaml.learner.trial.agreement import off, rounding_share, sizes
from litmaml.shown import first_line, listed
from litmaml.statistics.plots import Fit, grid_over, plot_fits
from litmaml.tasks import Tree, tree_map

_READ_AT_ONCE, _PIXELS_AT_ONCE = 256, 1 << 24
Files = str | Path | Iterable[str | Path]
"""A file, or several in a list or from a generator such as ``Path.glob``."""


class Prediction(NamedTuple):
    """The likeliest class of an image and its probability."""

    file: Path
    label: str
    probability: float


class AdaptedModel(Predictor):
    """A network adapted to one task, in eval mode: what it predicts for an input depends on that input alone.

    Called with inputs as the meta-trained network takes them, a tensor, a dict or a tuple, it returns what that
    predicts: logits (n, classes), or values. ``preprocess`` makes inputs of image files, ``classify`` names their
    classes.

    Args:
        network: The adapted network.
        classes: The classes' names in the order of the logits; None in regression.
        image_format: What image files become; None if it takes no images.
        recipe: What rebuilds the network; without it the model cannot be saved.
        example: A few inputs (n, ...), on which what is saved has to predict the same once it is loaded.
        output: Which of the network's outputs are the predictions, where it returns several.
        table: What rows of a table become; None if it takes none.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str] | None = None,
        image_format: ImageFormat | None = None,
        recipe: Recipe | None = None,
        example: Tree = None,
        output: Output = None,
        table: TableFormat | None = None,
    ) -> None:
        super().__init__(network, output)
        self.classes = None if classes is None else list(classes)
        self.image_format = image_format
        self.recipe = recipe
        self.table = table
        self._example = example
        self.eval()

    def __repr__(self) -> str:
        classes = "" if self.classes is None else f", {len(self.classes)} classes: {listed(self.classes, 5)}"
        taken = "" if self.image_format is None else f"; {self.image_format!r}"
        return f"{type(self).__name__}({size_of(self.network)}{classes}{taken})"

    def forward(self, inputs: Any) -> Tensor:
        """Predictions (n, ...) of inputs as ``adapt`` takes them: arrays and lists are made tensors first."""
        if isinstance(inputs, list | np.ndarray):
            like = next(self.parameters())
            made = torch.as_tensor(inputs)
            inputs = made.to(like.device, like.dtype if made.is_floating_point() else made.dtype)
        return super().forward(inputs)

    @torch.no_grad()
    def plot(self, path: str | Path, inputs: Tensor, targets: Tensor) -> None:
        """Write a picture of a function of one variable over the points (n, 1) that it was adapted to.

        Raises:
            ValueError: The model or the points are of more variables.
        """
        given = [tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}" for x in (inputs, targets)]
        if given[0] != given[1] or given[0][1:] != (1,):
            raise ValueError(
                f"inputs: only functions of one variable can be drawn, with inputs and targets (n, 1); got {given[0]} "
                f"and {given[1]}"
            )
        x = grid_over(inputs)
        plot_fits(Path(path), [Fit(x, self(x[:, None]).T, {"support": (inputs[:, 0], targets[:, 0])})], "")

    def preprocess(self, *files: Files) -> Tensor:
        """Image files as inputs (n, channels, size, size).

        Args:
            files: Paths, and lists of such.

        Raises:
            ValueError: A file is no image that can be read; all such are named.
        """
        inputs, errors = self._read(_paths(files))
        if errors:
            raise ValueError("\n".join(errors.values()))
        return inputs

    def _read(self, files: Sequence[Path]) -> tuple[Tensor, dict[str, str]]:
        """The images that can be read as inputs, and what is wrong with the others by file."""
        if self.image_format is None:
            raise ValueError("this model takes no image files: its checkpoint names no image format")
        once = {str(file): file for file in files}
        pixels, errors = read_images(once, self.image_format)
        places = {name: place for place, name in enumerate(name for name in once if name not in errors)}
        if len(once) < len(files):
            pixels = pixels[[places[str(file)] for file in files if str(file) in places]]
        return self.image_format.to_float(pixels), errors

    def probabilities(self, inputs: Tree) -> Tensor:
        """The probability of each class (n, classes), without a graph."""
        with torch.no_grad():
            return torch.softmax(self(inputs), dim=1)

    def classify(self, *files: Files, unreadable: Unreadable = "refuse") -> Iterator[Prediction]:
        """The likeliest class of each image file, a few hundred in memory at a time.

        Args:
            files: Paths, and lists of such.
            unreadable: What is done about files that cannot be read: ``refuse`` raises an error, ``skip`` leaves them
                out.

        Raises:
            ValueError: A file is no image that can be read, or the model is no classifier.

        Warns:
            UserWarning: In the end, with the number and the names of what was left out.
        """
        if self.classes is None:
            raise ValueError("this model is no classifier: it has no classes")
        device = next(self.parameters()).device
        size = 1 if self.image_format is None else self.image_format.channels * self.image_format.size**2
        at_once = max(1, min(_READ_AT_ONCE, _PIXELS_AT_ONCE // size))
        paths, wrong = _paths(files), dict[str, str]()
        for start in range(0, len(paths), at_once):
            some = paths[start : start + at_once]
            inputs, errors = self._read(some)
            if errors and unreadable == "refuse":
                raise ValueError("\n".join(errors.values()))
            wrong |= errors
            best = self.probabilities(inputs.to(device)).max(1)
            read = [file for file in some if str(file) not in errors]
            for file, probability, label in zip(read, best.values, best.indices, strict=True):
                yield Prediction(file, self.classes[int(label)], float(probability))
        tell_of_unreadable(wrong, len(paths), "images")

    def predict_rows(self, path: str | Path, argument: str = "path") -> tuple[Rows, Tensor]:
        """The rows of a table of one task, and the predictions for them (n, outputs), on the CPU.

        Those of values are standardised as in training: ``model.table.unscaled`` makes them the table's own units.

        Args:
            path: CSV, TSV or Parquet with the columns of the features.
            argument: What the path was given for, for the errors.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The model takes no rows of tables, or these cannot be read.
        """
        if self.table is None:
            raise ValueError(
                f"{argument}: this model takes no rows of tables, got {str(path)!r}; its checkpoint was not trained on "
                "TableTasks"
            )
        rows = read_rows(str(path), self.table, argument)
        device = next(self.parameters()).device
        with torch.no_grad():
            parts = [self(part.to(device)).cpu() for part in torch.split(rows.inputs, _READ_AT_ONCE)]
        return rows, torch.cat(parts)

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors``, ``config.yaml`` and ``classes.json``, from which ``load`` makes the model.

        Where the checkpoint could not describe the class and arguments of the network, ``load`` has to be given one.

        Raises:
            ValueError: The model comes from no checkpoint, what is rebuilt predicts otherwise, or the folder has a
                configuration that is no adapted model's.
        """
        if self.recipe is None:
            raise ValueError("the model cannot be saved to be loaded again: it comes from no checkpoint")
        if self.recipe.model is None:
            warnings.warn(
                "the folder will not say how the network is made, which its checkpoint could not describe: load it by "
                "litmaml.load(folder, network=...), or keep each argument of the network's constructor as an attribute "
                "of the same name",
                stacklevel=2,
            )
        folder = write_folder(folder, self._kept(self.recipe))
        self._check_saved(folder)

    def _kept(self, recipe: Recipe) -> Kept:
        return Kept(self.network, self.classes, self.image_format, recipe, self.output, self.table)

    @torch.no_grad()
    def _check_saved(self, folder: Path) -> None:
        """Take away what would be loaded as another model."""
        if self._example is None:
            return
        device = next(self.parameters()).device
        example = tree_map(lambda part: part.to(device), self._example)
        own = self(example)
        try:
            network = self.network if self.recipe is None or self.recipe.model is None else None
            found = load(folder, network).to(device)(example)
            apart = off(found, own, rounding_share(own.dtype) * sizes(own))
            why = f"it predicts otherwise by {apart:.2g}" if apart else ""
        except Exception as error:  # whatever somebody's class does
            why = first_line(error)
        if why:
            take_away(folder)
            raise ValueError(
                f"model: it cannot be saved, since what is loaded would be another one ({why}); keep each argument of "
                "the network's constructor as an attribute of the same name, and what changes later in a registered "
                "buffer"
            )


def _paths(files: Sequence[Files]) -> list[Path]:
    """The paths among files and lists of files, in order."""
    return [Path(each) for some in files for each in ([some] if isinstance(some, str | Path) else some)]


def load(folder: str | Path, network: nn.Module | None = None) -> AdaptedModel:
    """The adapted model that ``litmaml finetune`` or ``AdaptedModel.save`` wrote, on the CPU and in eval mode.

    Nothing in the folder is executed; only classes of litmaml, of torch and of modules that are imported already
    are made.

    Args:
        folder: ``--output`` of ``litmaml finetune``, or ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``, where
            ``litmaml push`` wrote it.
        network: One made as for meta-training, of which a copy gets the weights; needed only where the folder does not
            say how it is made.

    Raises:
        FileNotFoundError: The folder lacks one of its files.
        ValueError: A file is damaged, or the model's class is not known.
        ConnectionError: It cannot be fetched.
    """
    kept = read_folder(folder, network)
    return AdaptedModel(
        kept.network, kept.classes, kept.image_format, kept.recipe, output=kept.output, table=kept.table
    )
