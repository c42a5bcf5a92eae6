"""The form in which a model takes examples, and in words why it does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litmaml.inner.model_call import Output, predictions_of, shapes
from litmaml.learner.trial.loss_checks import check_output
from litmaml.tasks import Tree, count_of, select, tensors_of, tree_map

# By the attribute that says how wide a layer's input is, where in the input's shape that width stands.
_WIDTHS = {"in_features": -1, "in_channels": 1, "num_features": 1, "num_channels": 1, "input_size": -1, "embed_dim": -1}


class _WrongWidth(ValueError):
    """Examples have more or fewer features than the model."""


def outputs_of(model: nn.Module, example: Tree, output: Output = None) -> Tensor:
    """What a model predicts for a few examples.

    Raises:
        ValueError: It does not take them: with the layer and both widths, where that is the reason.
    """
    entered: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def note(name: str, module: nn.Module, inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            entered.append((name, module, tuple(inputs[0].shape)))

    hooks = [
        module.register_forward_pre_hook(lambda module, inputs, name=name: note(name, module, inputs))
        for name, module in model.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)  # which takes no hooks
    ]
    try:
        with torch.no_grad():
            return check_output(predictions_of(model, example, output), count_of(example))
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        if str(error).startswith(("model:", "output:")):
            raise
        width = _width(entered)
        raise (ValueError if width is None else _WrongWidth)(
            f"inputs: the model does not take examples of shape {shapes(example)} "
            f"({width or error}); give them as in meta-training"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def real_kind(model: nn.Module) -> torch.dtype:
    """The dtype of a model's real numbers: that of its first weight of such."""
    return next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)


def fitted(model: nn.Module, inputs: Tree, output: Output = None) -> Tree:
    """The inputs as the model takes them: real numbers in its precision.

    Whole numbers and truth values stay as they are for a model that takes them, such as one with an embedding or a
    mask, and become real numbers for another. One tensor gets a dimension of one feature or channel where it lacks it;
    of a tree no part does, since which one would be a guess.

    Raises:
        ValueError: It takes them in no such form; the message is that for the inputs as they are.
    """
    real = real_kind(model)
    forms = [tree_map(lambda part, take=take: take(part, real), inputs) for take in (_kept, _whole, _real)]
    if isinstance(inputs, Tensor):
        forms += [form.unsqueeze(1) for form in forms]
    failures: list[ValueError] = []
    for form in forms:
        try:
            outputs_of(model, a_few(form), output)
        except ValueError as error:
            failures.append(error)
        else:
            return form
    if any(part.dtype == torch.uint8 for part in tensors_of(inputs)):
        raise ValueError(
            "inputs: the model takes real numbers, got uint8, as pixels have; scale them as in meta-training, such as "
            "inputs / 255"
        ) from failures[0]
    raise next((error for error in failures if isinstance(error, _WrongWidth)), failures[0])


def _kept(part: Tensor, real: torch.dtype) -> Tensor:
    if part.dtype in (torch.bool, torch.uint8) or part.is_complex():
        return part
    return part.to(real) if part.is_floating_point() else part.long()


def _whole(part: Tensor, real: torch.dtype) -> Tensor:
    return part.long() if part.dtype == torch.bool else _kept(part, real)


def _real(part: Tensor, real: torch.dtype) -> Tensor:
    return part if part.dtype == torch.uint8 or part.is_complex() else part.to(real)


def a_few(inputs: Tree) -> Tree:
    """Two examples, to see what a model makes of them; the only one twice."""
    return select(inputs, slice(2) if count_of(inputs) > 1 else [0, 0])


def _width(entered: list[tuple[str, nn.Module, tuple[int, ...]]]) -> str | None:
    """Which layer, of those entered, wanted another width than it was given."""
    if not entered:
        return None
    name, module, shape = entered[-1]
    for attribute, place in _WIDTHS.items():
        wanted = getattr(module, attribute, None)
        if isinstance(wanted, int) and len(shape) > abs(place) - (place < 0) and shape[place] != wanted:
            kind = "channels" if "channels" in attribute else "features"
            return f"{name or 'the model'} ({type(module).__name__}) takes {wanted} {kind}, got {shape[place]}"
    return None
