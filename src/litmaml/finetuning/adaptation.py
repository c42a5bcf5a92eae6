"""From a meta-checkpoint and a few examples to a model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litmaml.data.images import ImageFormat
from litmaml.data.table_format import TableFormat
from litmaml.finetuning.adapted_model import AdaptedModel
from litmaml.finetuning.examples import read_examples
from litmaml.finetuning.fine_tuner import FineTuner
from litmaml.finetuning.input_shape import a_few
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint, open_checkpoint
from litmaml.finetuning.model_folder import Recipe
from litmaml.learner.meta_learner import MetaLearner
from litmaml.tasks import Tree, count_of
from litmaml.weights import Params


def adapt(
    checkpoint: str | Path | MetaLearner,
    inputs: Any,
    targets: Any,
    classes: Sequence[str] | None = None,
    steps: int | None = None,
    lr: float | None = None,
    head: str | None = None,
) -> AdaptedModel:
    """The model that a meta-checkpoint becomes on a few examples, by its own meta-learnt inner loop.

    Inputs and targets are tensors, numpy arrays or lists, of any precision and on any device, or dicts and tuples of
    such, as in meta-training: the model gets a dict's parts by keyword, a tuple's by position. Whether the targets are
    classes or values is decided by the loss that the checkpoint was trained with (``read_examples``).

    Args:
        checkpoint: A file that ``fit`` wrote, a run's folder, ``wandb://ENTITY/PROJECT/NAME:ALIAS``, ``hf://USER/NAME``,
            ``zoo:NAME``, or a learner.
        inputs: (n, ...), as the model takes them, or a dict or tuple of such.
        targets: (n,) class indices from 0, or the classes' names, or (n, ...) values to regress on, or a dict or tuple
            of what a loss of such takes.
        classes: The classes' names in the order of their indices; by default 0, 1, ..., or by the alphabet.
        steps: Inner steps; by default as in the checkpoint's own tests, and in classification further until the
            examples are learnt (``FineTuner``).
        lr: Inner rate for all steps and weights; by default what was meta-learnt.
        head: The name of the layer that gives the logits, which is made anew for another number of classes; by default
            as in the checkpoint, or the last layer of a forward pass.

    Returns:
        A module in eval mode, on the checkpoint's device, that is called with inputs in the same form; it can be
        saved, loaded again, classify files and be exported.

    Raises:
        ValueError: The examples do not fit each other, or the checkpoint's model or loss; with row and value.
        FloatingPointError: The loss is not finite.

    Example:
        >>> import torch, litmaml
        >>> x = torch.linspace(-5, 5, 10)[:, None]
        >>> model = litmaml.adapt("runs/sinusoid", x, 2 * torch.sin(x))  # doctest: +SKIP
        >>> y = model(torch.tensor([[0.5]]))  # doctest: +SKIP
    """
    found = open_checkpoint(checkpoint)
    if found.learner.experience is not None:
        raise ValueError(
            f"checkpoint: {found.name!r} is of a policy, which adapts to what it does itself; take litmaml finetune "
            "--checkpoint ... --task NAME=VALUE"
        )
    given = read_examples(found.learner.inner_loop, inputs, targets, classes)
    outputs = None if given.classes is None else len(given.classes)
    tuner = FineTuner(found.learner, a_few(given.inputs), outputs, steps, lr, head)
    *path, last = tuner.path(given.inputs, given.targets)
    return deployed(tuner, last.weights, len(path), given.inputs, found, given.classes, found.image_format)


def deployed(
    tuner: FineTuner,
    weights: Params,
    steps: int,
    inputs: Tree,
    checkpoint: MetaCheckpoint,
    classes: Sequence[str] | None,
    image_format: ImageFormat | None = None,
    table: TableFormat | None = None,
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
        table: What rows of a table become, or None.
    """
    source = {
        "checkpoint": checkpoint.name,
        "examples": count_of(inputs),
        "inner_steps": steps,
        "litmaml": version("litmaml"),
    }
    recipe = Recipe(
        checkpoint.learner.hparams.get("model"),
        tuner.replaced_heads,
        tuner.trained_outputs if classes is None else len(classes),
        source,
        checkpoint.learner.batch_norm,
    )
    made = tuner.module(weights, inputs)
    return AdaptedModel(made.network, classes, image_format, recipe, a_few(inputs), made.output, table)
