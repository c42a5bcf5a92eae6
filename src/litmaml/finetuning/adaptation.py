"""From a meta-checkpoint and a few examples to a model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from litmaml.data.images import ImageFormat
from litmaml.finetuning.adapted_model import AdaptedModel, Recipe
from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint, open_checkpoint
from litmaml.meta_learner import MetaLearner
from litmaml.types import Params


def adapt(
    checkpoint: str | Path | MetaLearner,
    inputs: Tensor,
    targets: Tensor,
    classes: Sequence[str] | None = None,
    steps: int | None = None,
    lr: float | None = None,
) -> AdaptedModel:
    """The model that a meta-checkpoint becomes on a few examples, by its own meta-learnt inner loop.

    Args:
        checkpoint: A file that ``fit`` wrote, a run's folder, ``wandb://ENTITY/PROJECT/NAME:ALIAS``, or a learner.
        inputs: (n, ...), as the model takes them.
        targets: (n,) class indices from 0, or (n, ...) values to regress on.
        classes: The classes' names in the order of their indices; by default 0, 1, ...
        steps: Inner steps; by default as in the checkpoint's own tests, and in classification further until the
            examples are learnt (``FineTuner``).
        lr: Inner rate for all steps and weights; by default what was meta-learnt.

    Returns:
        A module in eval mode; it can be saved, loaded again, classify files and be exported.

    Raises:
        ValueError: The examples do not fit each other, or the checkpoint's model.
        FloatingPointError: The loss is not finite.

    Example:
        >>> import torch, litmaml
        >>> x = torch.linspace(-5, 5, 10)[:, None]
        >>> model = litmaml.adapt("runs/sinusoid", x, 2 * torch.sin(x))  # doctest: +SKIP
        >>> y = model(torch.tensor([[0.5]]))  # doctest: +SKIP
    """
    found = open_checkpoint(checkpoint)
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise ValueError(f"targets: there are {len(inputs)} inputs and {len(targets)} targets; give one for each")
    if targets.is_floating_point():
        if classes is not None:
            raise ValueError("classes: the targets are values, not class indices; leave the classes out")
        tuner = FineTuner(found.learner, inputs[:2], None, steps, lr)
    else:
        targets = targets.long()
        count = int(targets.max()) + 1 if classes is None else len(classes)
        if int(targets.min()) < 0 or int(targets.max()) >= count:
            raise ValueError(
                f"targets: class indices must lie in 0 .. {count - 1}, got {int(targets.min())} .. {int(targets.max())}"
            )
        classes = classes or [str(k) for k in range(count)]
        tuner = FineTuner(found.learner, inputs[:2], count, steps, lr)
    *path, last = tuner.path(inputs, targets)
    return deployed(tuner, last.weights, len(path), inputs, found, classes, found.image_format)


def deployed(
    tuner: FineTuner,
    weights: Params,
    steps: int,
    inputs: Tensor,
    checkpoint: MetaCheckpoint,
    classes: Sequence[str] | None,
    image_format: ImageFormat | None = None,
) -> AdaptedModel:
    """The adapted weights as a module of their own, with what is needed to use, save and rebuild it.

    Args:
        tuner: What adapted.
        weights: The fast weights, as in ``Step``.
        steps: How many inner steps they took.
        inputs: The support set (n, ...), whose statistics batch norm keeps.
        checkpoint: Where it started.
        classes: Names of the classes, or None.
        image_format: What image files become, or None.
    """
    source = {
        "checkpoint": checkpoint.name,
        "examples": len(inputs),
        "inner_steps": steps,
        "litmaml": version("litmaml"),
    }
    recipe = Recipe(
        checkpoint.learner.hparams.get("model"),
        tuner.replaced_head,
        tuner.trained_outputs if classes is None else len(classes),
        source,
    )
    return AdaptedModel(tuner.module(weights, inputs), classes, image_format, recipe)
