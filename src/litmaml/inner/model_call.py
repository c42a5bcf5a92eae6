"""How a model is called with a tree of inputs, and which of its outputs are the predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from litmaml.shown import listed
from litmaml.tasks import Tree, copies, named_tensors

Output = str | int | None
"""The key, attribute or place of the predictions in what a model returns, or several with dots between; None: all."""


def arguments(inputs: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What stands for inputs in a model's call: a dict's parts by keyword, a tuple's by position, a tensor alone."""
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def predictions_of(model: nn.Module, inputs: Tree, output: Output = None) -> Any:
    """What a model, called as anyone would call it, predicts for inputs (n, ...): a tensor, if it fits.

    It gets a copy of them, since it may write into what it is given.

    Raises:
        ValueError: It has no such output.
    """
    positions, keywords = arguments(copies(inputs))
    return picked(model(*positions, **keywords), output)


def shapes(inputs: Tree) -> str:
    """Shape and type of each tensor of inputs (n, ...) in words, with its name where there are several."""
    said = {name: f"{tuple(part.shape[1:])} and {part.dtype}" for name, part in named_tensors(inputs, "")}
    return said.get("") or listed([f"{name} {text}" for name, text in said.items()], 3)


def picked(outputs: Any, output: Output) -> Any:
    """The part of a model's outputs that is named.

    Raises:
        ValueError: There is none of this name.

    Example:
        >>> picked({"logits": (1, 2)}, "logits.0")
        1
    """
    for key in () if output is None else str(output).split("."):
        try:
            if isinstance(outputs, tuple | list) and key.removeprefix("-").isdecimal():
                outputs = outputs[int(key)]
            else:
                outputs = outputs[key] if isinstance(outputs, Mapping) else getattr(outputs, key)
        except (LookupError, AttributeError) as error:
            raise ValueError(
                f"output: the model returns nothing of this name, got {output!r}; set it to {names(outputs)}"
            ) from error
    return outputs


def names(outputs: Any) -> str:
    """The names that parts of a model's outputs can be picked by."""
    fields = [*getattr(outputs, "_fields", getattr(outputs, "__dataclass_fields__", ()))]
    if isinstance(outputs, Mapping):
        found = [repr(key) for key in outputs]
    elif fields:
        found = [repr(field) for field in fields]
    else:
        found = [str(place) for place in range(len(outputs))] if isinstance(outputs, tuple | list) else []
    return f"one of {listed(found, 6)}" if found else "the name of an attribute, or leave it out"
