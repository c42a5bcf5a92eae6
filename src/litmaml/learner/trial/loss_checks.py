"""What a loss can be taken of: outputs and targets that do not fit it are refused before a number is wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from litmaml.inner.class_losses import ignored_index, takes_class_indices
from litmaml.inner.model_call import names
from litmaml.learner.trial.loss_broadcast import Outcome, broadcast_error, refuse_broadcast
from litmaml.learner.trial.loss_calls import LossCalls, Misfit
from litmaml.learner.trial.loss_kinds import is_elementwise
from litmaml.learner.trial.loss_ranges import check_ranges
from litmaml.tasks import Tree, copies, named_tensors, tensors_of


def check_loss_on(loss: nn.Module, predictions: object, targets: Tree) -> None:
    """Refuse outputs and targets that the loss cannot be taken of, or that it would take for something else.

    What is silently wrong otherwise: targets (n,) against predictions (n, 1), which broadcast to n x n; a loss for
    each example, of which the sum would be trained on; classes beyond the model's, numbers outside a loss's range.
    Targets of another shape than the predictions pass where the loss itself makes use of it.

    Args:
        loss: (predictions, targets) -> a scalar.
        predictions: What the model returns for the n examples of one task: a tensor (n, ...), if all is well.
        targets: (n, ...), of the same task, or a tree of such. Of a tree each tensor is judged by the losses of torch
            that are taken of it, and of those in another shape than the predictions whether it is stretched to theirs;
            nothing is known of the classes and ranges of what a loss uses in another way.

    Raises:
        ValueError: Naming model, targets or loss, with the remedy.

    Example:
        >>> import torch
        >>> check_loss_on(torch.nn.MSELoss(), torch.zeros(3, 1), torch.ones(3))
        Traceback (most recent call last):
        ...
        ValueError: targets: MSELoss takes them in the shape of the predictions, (3, 1), got (3,), which would pair \
predictions with the targets of others; reshape them to (3, 1)
    """
    with torch.inference_mode(False), torch.enable_grad():
        targets = copies(targets)  # for autograd not of inference mode
        first = next(part for _, part in named_tensors(targets, ""))
        scores = check_output(predictions, len(first))
        if not isinstance(targets, Tensor):
            refuse_broadcast(loss, scores, targets, _taken(loss, scores, targets))
            return
        if takes_class_indices(loss):
            _check_labels(loss, scores, targets)
        elif scores.shape != targets.shape and is_elementwise(loss):
            raise broadcast_error(loss, tuple(scores.shape), targets)
        check_ranges(loss, scores, targets)
        outcome = _taken(loss, scores, targets)
        if not takes_class_indices(loss):
            refuse_broadcast(loss, scores, targets, outcome)
        if isinstance(loss, nn.CrossEntropyLoss) and _sums_to_one(scores):
            warnings.warn(
                "model: its outputs are probabilities, but CrossEntropyLoss takes logits and applies a softmax of its "
                "own: leave out the model's, or learning is slow and its certainty bounded",
                stacklevel=2,
            )


def check_class_indices(loss: nn.Module, classes: int, targets: Tensor) -> None:
    """Refuse class indices that the model has no logit for; what the loss ignores is no class.

    Args:
        loss: Of the model.
        classes: The number of logits.
        targets: Of any shape, of one task or of many; values and probabilities pass.

    Raises:
        ValueError: With both numbers.
    """
    if not takes_class_indices(loss) or targets.is_floating_point():
        return
    labels = targets[targets != ignored_index(loss)]
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if high >= classes:
        raise ValueError(
            f"ways: the tasks have {high + 1} classes, but the model gives {classes} logits; make the model for "
            f"{high + 1} ways or the tasks with at most {classes}"
        )
    if low < 0:
        ignored = ignored_index(loss)
        hint = "" if ignored is None else f", or the loss's ignore_index ({ignored}) for places without a class"
        raise ValueError(f"targets: class indices begin at 0, got {low}; give 0 .. {classes - 1}{hint}")


def check_output(predictions: object, count: int) -> Tensor:
    """What a model returns, detached, if it is something that a loss and its gradient can be taken of.

    Args:
        predictions: Of the model.
        count: How many examples they are of.

    Raises:
        ValueError: It is no tensor (count, ...) of real or complex numbers.
    """
    if not isinstance(predictions, Tensor):
        raise ValueError(
            f"model: has to return one tensor of predictions, got {_described(predictions)}; let forward return the "
            f"one that the loss is taken of, or set output to {names(predictions)}"
        )
    if predictions.dim() == 0 or len(predictions) != count:
        raise ValueError(
            f"model: has to return predictions for each of {count} examples, (n, ...), got the shape "
            f"{tuple(predictions.shape)}; keep the examples in the first dimension"
        )
    if not (predictions.is_floating_point() or predictions.is_complex()):
        raise ValueError(
            f"model: returns {predictions.dtype}, which has no gradient; return scores, not the class that they stand "
            "for (no argmax, round or comparison in forward)"
        )
    return predictions.detach().as_subclass(Tensor)


def _described(output: object) -> str:
    """What a model returned in place of a tensor."""
    name = type(output).__name__
    if isinstance(output, Mapping):
        keys = [repr(key) for key in output]
        return f"a {name} with the keys {', '.join(keys)} (such as output[{keys[0]}])" if keys else f"an empty {name}"
    if fields := getattr(output, "_fields", None) or list(getattr(output, "__dataclass_fields__", ())):
        return f"a {name} with the fields {', '.join(fields)} (such as output.{fields[0]})"
    if isinstance(output, tuple | list):
        return f"a {name} of {len(output)} (such as output[0])"
    return name


def _check_labels(loss: nn.Module, predictions: Tensor, targets: Tensor) -> None:
    """Class indices (n, ...), or for cross entropy also probabilities (n, classes, ...)."""
    name, shape = type(loss).__name__, tuple(predictions.shape)
    if predictions.dim() < 2:
        raise ValueError(
            f"model: {name} takes scores of each class, (n, classes, ...), got the shape {shape}; let it return one "
            "for each class, two for a yes or no"
        )
    classes, wanted = shape[1], (shape[0], *shape[2:])
    weight = getattr(loss, "weight", None)
    if isinstance(weight, Tensor) and weight.shape != (classes,):
        raise ValueError(
            f"loss: its weight is for {weight.numel()} classes, but the model gives {classes} logits; give one for each"
        )
    if isinstance(loss, nn.CrossEntropyLoss) and targets.is_floating_point() and tuple(targets.shape) == shape:
        return  # probabilities
    if tuple(targets.shape) != wanted:
        classes_last = tuple(targets.shape) == shape[:-1]
        remedy = "move the model's classes there: .movedim(-1, 1)" if classes_last else f"reshape them to {wanted}"
        if not classes_last and targets.numel() != math.prod(wanted):  # no other form of theirs would do
            remedy = "let the model return (n, classes) for targets (n,), such as by x.flatten(1) before its head"
        raise ValueError(
            f"targets: for predictions {shape}, with the classes in the second place, {name} takes class indices "
            f"{wanted}, got {tuple(targets.shape)} ({targets.dtype}); {remedy}"
        )
    bytes_too = targets.dim() == 1 and not isinstance(loss, nn.MultiMarginLoss)
    if targets.dtype != torch.int64 and not (bytes_too and targets.dtype == torch.uint8):
        raise ValueError(f"targets: {name} takes class indices as int64, got {targets.dtype}; convert them by .long()")
    check_class_indices(loss, classes, targets)


def _taken(loss: nn.Module, predictions: Tensor, targets: Tree) -> Outcome:
    """The loss as it is taken in training."""
    name = type(loss).__name__
    leaf = predictions.clone().requires_grad_()
    given, wanted = leaf.clone(), copies(targets)
    own = [("predictions", given), *named_tensors(wanted, "targets")]
    kept = [*own, *loss.named_buffers()]
    versions = [tensor._version for _, tensor in kept]
    judged = nullcontext() if isinstance(targets, Tensor) else LossCalls(tensors_of(wanted), check_loss_on)
    with warnings.catch_warnings(record=True) as heard, judged:
        warnings.simplefilter("always")
        try:
            value = loss(given, wanted)
        except Misfit:
            raise
        except Exception as error:
            raise ValueError(_cannot(loss, predictions, targets, error)) from error
    now = [*own, *loss.named_buffers()]
    for (argument, tensor), (_, before), version in zip(now, kept, versions, strict=True):
        if tensor is not before or tensor._version != version:
            raise ValueError(
                f"loss: {name} changes {argument} in each call, which others use too; let it work on a copy "
                f"({argument}.clone()), and keep nothing between calls"
            )
    _check_value(loss, value)
    try:
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    except Exception as error:
        raise ValueError(_cannot(loss, predictions, targets, error)) from error
    if gradient is None:
        raise ValueError(f"loss: {name} does not depend on the predictions; there is nothing to learn from it")
    stretched = any("Using a target size" in str(warning.message) for warning in heard)
    if stretched and isinstance(targets, Tensor):  # by a function of torch inside
        raise broadcast_error(loss, tuple(predictions.shape), targets)
    return Outcome(value.detach(), gradient)


def _check_value(loss: nn.Module, value: object) -> None:
    name = type(loss).__name__
    if not isinstance(value, Tensor):
        raise ValueError(f"loss: {name} has to return a tensor, got {_described(value)}; leave out .item()")
    if value.dim() > 0:
        by_setting = getattr(loss, "reduction", None) == "none"
        remedy = "set its reduction to 'mean'" if by_setting else "let it return the mean over them"
        raise ValueError(f"loss: {name} has to return one number, got the shape {tuple(value.shape)}; {remedy}")
    if not value.is_floating_point():
        raise ValueError(
            f"loss: {name} has to return a real number, got {value.dtype}; take the modulus, or its square"
        )
    if not value.requires_grad:
        raise ValueError(
            f"loss: {name} cannot be differentiated by the predictions; leave out detach, no_grad, argmax and "
            "conversions to numbers or numpy"
        )


def _cannot(loss: nn.Module, predictions: Tensor, targets: Tree, error: Exception) -> str:
    """Why the loss cannot be taken, and what the two have to look like."""
    name, shape = type(loss).__name__, tuple(predictions.shape)
    if not isinstance(targets, Tensor):
        found = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in named_tensors(targets, "targets"))
        return (
            f"loss: {name} cannot be taken of predictions {shape} and {found} ({error}); take a loss of predictions "
            f"and such a {type(targets).__name__}, or let the tasks give the one tensor that it takes"
        )
    forms = f"predictions {shape} ({predictions.dtype}) and targets {tuple(targets.shape)} ({targets.dtype})"
    if isinstance(error, TypeError) and "argument" in str(error):
        remedy = "use a loss of predictions and targets alone, or wrap it in a module that is"
    elif predictions.shape != targets.shape and predictions.numel() == targets.numel():
        remedy = f"reshape the targets to {shape}"
    elif predictions.shape != targets.shape:
        remedy = "model, targets and loss have to be of one form"
    elif predictions.dtype != targets.dtype:
        remedy = f"convert the targets, for example by .to({predictions.dtype})"
    else:
        remedy = "see what it asks for"
    return f"loss: {name} cannot be taken of {forms} ({error}); {remedy}"


def _sums_to_one(predictions: Tensor) -> bool:
    """Whether these are probabilities of the classes (n, classes, ...)."""
    if predictions.shape[1] < 2 or predictions.numel() == 0 or float(predictions.min()) < 0:
        return False
    coarse = predictions.dtype in (torch.float16, torch.bfloat16)
    return bool(((predictions.float().sum(1) - 1).abs() < (1e-2 if coarse else 1e-4)).all())
