"""The form in which a model takes examples, and in words why it does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from litmaml.learner.trial.loss_checks import check_output

# By the attribute that says how wide a layer's input is, where in the input's shape that width stands.
_WIDTHS = {"in_features": -1, "in_channels": 1, "num_features": 1, "num_channels": 1, "input_size": -1, "embed_dim": -1}


class _WrongWidth(ValueError):
    """Examples have more or fewer features than the model."""


def check_single(output: str | int | None, inputs: object) -> None:
    """Refuse inputs or outputs that are several tensors: what is adapted and exported is a function of one tensor.

    Raises:
        ValueError: With the remedy.
    """
    if isinstance(inputs, dict):
        raise ValueError(
            "inputs: fine-tuning takes one tensor of examples, got a dict; meta-train a module that "
            "takes them as one, such as side by side, or adapt by learner.inner_loop.path(tasks, steps)"
        )
    if output is not None:
        raise ValueError(
            f"output: fine-tuning takes a model that returns its predictions alone, got output {output!r}; meta-train "
            "a module around it that returns them, or adapt by learner.inner_loop.path(tasks, steps)"
        )


def outputs_of(model: nn.Module, example: Tensor) -> Tensor:
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
            return check_output(model(example), len(example))
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        if str(error).startswith("model:"):
            raise
        width = _width(entered)
        raise (ValueError if width is None else _WrongWidth)(
            f"inputs: the model does not take examples of shape {tuple(example.shape[1:])} and {example.dtype} "
            f"({width or error}); give them as in meta-training"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def fitted(model: nn.Module, inputs: Tensor) -> Tensor:
    """The inputs as the model takes them: with a dimension of one feature or channel where they lack it.

    Whole numbers stay as they are for a model that takes them, such as one with an embedding, and become real numbers
    for another.

    Raises:
        ValueError: It takes them in no such form; the message is that for the inputs as they are.
    """
    real = next((weight.dtype for weight in model.parameters() if weight.is_floating_point()), torch.float32)
    pixels = inputs.dtype == torch.uint8
    forms = (
        [inputs] if pixels else [inputs.to(real)] if inputs.is_floating_point() else [inputs.long(), inputs.to(real)]
    )
    failures: list[ValueError] = []
    for form in [*forms, *(form.unsqueeze(1) for form in forms)]:
        try:
            outputs_of(model, a_few(form))
        except ValueError as error:
            failures.append(error)
        else:
            return form
    if pixels:
        raise ValueError(
            "inputs: the model takes real numbers, got uint8, as pixels have; scale them as in meta-training, such as "
            "inputs / 255"
        ) from failures[0]
    raise next((error for error in failures if isinstance(error, _WrongWidth)), failures[0])


def a_few(inputs: Tensor) -> Tensor:
    """Two examples, to see what a model makes of them; the only one twice."""
    return inputs[:2] if len(inputs) > 1 else inputs.expand(2, *inputs.shape[1:])


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
