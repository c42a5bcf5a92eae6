"""One fine-tuning from a meta-checkpoint of a table to the rows of a new task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from litmaml.data.table_format import TableFormat
from litmaml.finetuning.adaptation import deployed
from litmaml.finetuning.adapted_model import AdaptedModel
from litmaml.finetuning.fine_tuner import FineTuner, Step
from litmaml.finetuning.fine_tuning import in_parts
from litmaml.finetuning.held_out import folds, held_out
from litmaml.finetuning.input_shape import a_few
from litmaml.finetuning.labelled_rows import Rows
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint
from litmaml.finetuning.progress import inner_steps, shown

_LAST = 5
"""Of rows in an order the last in so many are left out together."""


class Score(NamedTuple):
    """How far predictions are from the truth.

    of: The target. measure: In words. value: Of the model. plain: Of what needs no model: the mean of the support's
    targets, or their commonest class.
    """

    of: str
    measure: str
    value: float
    plain: float


@dataclass
class RowsTuned:
    """A fine-tuning on rows, and its results.

    Args:
        model: The adapted model.
        tuner: What adapted it.
        checkpoint: Its start.
        made: What its rows became.
        support: The number of rows adapted to.
        curve: Weights and loss on the support after 0, 1, ... steps.
        query_losses: The loss on the query's known rows after 0, 1, ... steps; empty without such.
        scores: Of the query, or of rows left out of the support; empty where neither is possible.
        method: What they were measured on, or why there are none, in words.
        rows: Those predicted: the query, or the support.
        predictions: Of ``rows``, as the model gives them (n, outputs).
        predicted: What they are of, in words.
    """

    model: AdaptedModel
    tuner: FineTuner
    checkpoint: MetaCheckpoint
    made: TableFormat
    support: int
    curve: list[Step]
    query_losses: list[float]
    scores: list[Score]
    method: str
    rows: Rows
    predictions: Tensor
    predicted: str


def fine_tune_rows(
    start: MetaCheckpoint,
    made: TableFormat,
    support: Rows,
    query: Rows | None = None,
    steps: int | None = None,
    lr: float | None = None,
) -> RowsTuned:
    """Adapt to rows, and score the model on the query's known rows, or else by leaving rows out.

    Args:
        start: The meta-checkpoint.
        made: What its rows became.
        support: Rows whose targets are known, on the learner's device.
        query: Rows to score where their targets are known, and to predict.
        steps: Inner steps; by default as in the checkpoint's own tests.
        lr: Inner rate; by default what was meta-learnt.

    Raises:
        ValueError: The rows do not fit the model.
    """
    inputs, targets = support.inputs, support.targets
    tuner = FineTuner(start.learner, a_few(inputs), None, steps, lr)
    loss = tuner.inner_loop.loss
    scored = None if query is None or not bool(query.known.any()) else query.labelled()
    left_out: list[Tensor] = []
    if query is None and len(support) > 1:
        left_out = [torch.arange(len(support))[-max(1, len(support) // _LAST) :]] if made.order else folds(targets)
    curve: list[Step] = []
    query_losses: list[float] = []
    path, examples = tuner.path(inputs, targets), f"{len(support)} rows"
    with torch.no_grad():
        for step in inner_steps(path, tuner.steps, tuner.most_steps, examples, len(left_out), _measures):
            curve.append(step)
            if scored is not None:
                guesses = in_parts(tuner.module(step.weights, inputs), scored.inputs)
                query_losses.append(float(loss(guesses, scored.targets)))
    classes = None if made.classes is None else [*made.classes]
    model = deployed(tuner, curve[-1].weights, len(curve) - 1, inputs, start, classes, table=made)
    rows, predictions = query or support, in_parts(model, (query or support).inputs)
    predicted = "the model's predictions for the " + ("rows that it was adapted to" if query is None else "query")
    scores: list[Score] = []
    if scored is not None:
        assert query is not None
        scores = _scores(made, targets, predictions[query.known], scored.targets)
        method = f"{len(scored)} rows of the query"
    elif left_out:
        predictions = predictions.clone()
        for some, guesses in shown(held_out(tuner, inputs, targets, left_out), len(left_out), "left out"):
            predictions[some] = guesses
        tried = torch.cat(left_out)
        scores = _scores(made, targets, predictions[tried], targets[tried], left_out)
        method = f"{len(tried)} of {len(support)} rows of the support, left out " + (
            f"as the last by {made.order}" if made.order else f"in {len(left_out)} parts"
        )
        predicted = "the predictions for rows left out by models that had not seen them, and for others by the model"
    else:
        method = "There is no row to tell how good the model is by: give --query with targets."
    return RowsTuned(
        model=model,
        tuner=tuner,
        checkpoint=start,
        made=made,
        support=len(support),
        curve=curve,
        query_losses=query_losses,
        scores=scores,
        method=method,
        rows=rows,
        predictions=predictions,
        predicted=predicted,
    )


def _measures(step: Step) -> dict[str, float]:
    return {"loss": step.loss}


def _scores(
    made: TableFormat, support: Tensor, predictions: Tensor, truth: Tensor, left_out: Sequence[Tensor] = ()
) -> list[Score]:
    """The scores of predictions, and of what the support says without a model.

    Args:
        made: What the rows became.
        support: The targets adapted to.
        predictions: (m, outputs).
        truth: The targets of the same rows.
        left_out: Where these are of the support: which rows were left out together.
    """

    def seen() -> list[tuple[Tensor, int]]:
        """The targets that each part is predicted from, and its size."""
        parts = []
        for some in left_out:
            kept = torch.ones(len(support), dtype=torch.bool)
            kept[some] = False
            parts.append((support[kept], len(some)))
        return parts or [(support, len(truth))]

    if made.classes is not None:
        plain = torch.cat([own.mode().values.expand(count) for own, count in seen()])
        accuracy, common = ((guess == truth).double().mean().item() for guess in (predictions.argmax(1), plain))
        return [Score(made.targets[0], "accuracy", accuracy, common)]
    wanted, given = made.unscaled(truth), made.unscaled(predictions.reshape(truth.shape))
    plain = torch.cat([made.unscaled(own.mean(0)).expand(count, -1) for own, count in seen()])
    off = [(guess - wanted).abs().mean(0).tolist() for guess in (given, plain)]
    return [Score(name, "mean absolute error", *both) for name, *both in zip(made.targets, *off, strict=True)]
