"""One fine-tuning from a meta-checkpoint to a scored model, shown while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litmaml.data.images import ImageFormat
from litmaml.finetuning.adaptation import deployed
from litmaml.finetuning.adapted_model import AdaptedModel, Prediction
from litmaml.finetuning.fine_tuner import FineTuner, Step, parts
from litmaml.finetuning.held_out import folds, held_out, why_not
from litmaml.finetuning.input_shape import a_few
from litmaml.finetuning.labelled_images import Images
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint
from litmaml.finetuning.progress import inner_steps, shown
from litmaml.learner.trial.loss_kinds import is_elementwise
from litmaml.statistics.confusion import Confusion


@dataclass(repr=False)
class FineTuned:
    """A fine-tuning and its results.

    Args:
        model: The adapted model.
        tuner: What adapted it.
        checkpoint: Its start.
        support: The number of support images of each class.
        curve: Weights, loss and accuracy on the support set after 0, 1, ... steps.
        query_curve: Predictions of a labelled query by the frozen model after 0, 1, ... steps; empty without one.
        score: Predictions of the query, or of images left out of the support set; None where neither is possible.
        method: What ``score`` was measured on, or why there is none, in words.
        with_batch_statistics: Predictions of the query normalised by its own statistics; None where that is no
            question.
        predictions: Of the query, or of the support set, by file.
        labels: The true classes of ``predictions``, or None.
        predicted: What ``predictions`` are of, in words.
    """

    model: AdaptedModel
    tuner: FineTuner
    checkpoint: MetaCheckpoint
    support: list[int]
    curve: list[Step]
    query_curve: list[Confusion]
    score: Confusion | None
    method: str
    with_batch_statistics: Confusion | None
    predictions: list[Prediction]
    labels: list[str] | None
    predicted: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}; {self.method}: {self.score or 'no score'})"

    @property
    def classes(self) -> list[str]:
        """The classes' names."""
        return self.model.classes or []


def fine_tune(
    start: MetaCheckpoint,
    classes: list[str],
    image_format: ImageFormat,
    support: Images,
    query: Images | None = None,
    steps: int | None = None,
    lr: float | None = None,
    head: str | None = None,
) -> FineTuned:
    """Adapt to a support set, and score the model on a labelled query, or else by leaving images out.

    Args:
        start: The meta-checkpoint.
        classes: The classes' names.
        image_format: What the images were made to.
        support: Labelled images, sorted by class, on the learner's device.
        query: Images to score or to predict.
        steps: Inner steps; by default as ``FineTuner`` has it.
        lr: Inner rate; by default what was meta-learnt.
        head: The layer that gives the logits; by default as ``FineTuner`` has it.

    Raises:
        ValueError: The checkpoint was trained on values, or the images do not fit its model.
    """
    loss = start.learner.inner_loop.loss
    if is_elementwise(loss):
        raise ValueError(
            f"checkpoint: it was trained on values ({type(loss).__name__}), not on classes, and cannot become a "
            "classifier; adapt it in Python by litmaml.adapt"
        )
    inputs, targets = support.inputs, support.labels
    tuner = FineTuner(start.learner, a_few(inputs), len(classes), steps, lr, head)
    with torch.no_grad():
        shape = tuner.inner_loop.own_predictions(a_few(inputs)).shape
    if len(shape) > 2:
        raise ValueError(
            f"checkpoint: its model gives logits of each place, {tuple(shape)}, and cannot become a classifier of "
            "images; adapt it to images and masks in Python by litmaml.adapt"
        )
    labelled = query if query is not None and query.targets is not None else None
    reason = why_not(targets, classes) if labelled is None else None
    left_out = folds(targets) if labelled is None and reason is None else []
    curve: list[Step] = []
    query_curve: list[Confusion] = []
    examples = f"{len(targets)} images of {len(classes)} classes"
    path = tuner.path(inputs, targets)
    with torch.no_grad():
        for step in inner_steps(path, tuner.steps, tuner.most_steps, examples, len(left_out), _measures):
            curve.append(step)
            if labelled is not None:
                logits = in_parts(tuner.module(step.weights, inputs), labelled.inputs)
                query_curve.append(_confusion(classes, labelled.labels, logits))
    last = curve[-1].weights
    model = deployed(tuner, last, len(curve) - 1, inputs, start, classes, image_format)

    score, transductive = None, None
    logits = in_parts(model, inputs)
    predicted = "the model's predictions for the images that it was adapted to, of which it says more than it knows"
    if labelled is not None:
        score, method = query_curve[-1], f"{query_curve[-1].total} query images"
        if tuner.frozen_layers:
            neighbourly = in_parts(lambda x: tuner.predict(last, x), labelled.inputs)
            transductive = _confusion(classes, labelled.labels, neighbourly)
    elif reason is not None:
        method = reason
    else:
        tried = torch.cat(left_out)
        how = "at once" if len(left_out) == 1 else f"in {len(left_out)} parts"
        method = f"{len(tried)} of {len(targets)} support images, left out {how}"
        for chosen, guesses in shown(held_out(tuner, inputs, targets), len(left_out), "left out"):
            logits[chosen] = guesses
        score = _confusion(classes, targets[tried], logits[tried])
        predicted = "the predictions for the support images by models that each had not seen them"
    if query is not None:
        logits, predicted = in_parts(model, query.inputs), "the model's predictions for the query"
    images = query or support
    best = logits.softmax(1).max(1)
    return FineTuned(
        model=model,
        tuner=tuner,
        checkpoint=start,
        support=torch.bincount(targets, minlength=len(classes)).tolist(),
        curve=curve,
        query_curve=query_curve,
        score=score,
        method=method,
        with_batch_statistics=transductive,
        predictions=[
            Prediction(file, classes[int(k)], float(p))
            for file, k, p in zip(images.files, best.indices, best.values, strict=True)
        ],
        labels=None if images.targets is None else [classes[int(k)] for k in images.targets],
        predicted=predicted,
    )


def _measures(step: Step) -> dict[str, float]:
    return {"loss": step.loss, "accuracy": step.accuracy or 0.0}


def in_parts(model: nn.Module | Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Logits of many inputs, some of all classes at a time."""
    with torch.no_grad():
        pieces = [model(part) for part in parts(inputs)]
    logits = torch.cat(pieces)
    for k, piece in enumerate(pieces):
        logits[k :: len(pieces)] = piece
    return logits


def _confusion(classes: list[str], targets: Tensor, logits: Tensor) -> Confusion:
    return Confusion(classes, targets.cpu(), logits.argmax(1).cpu())
