"""The head of a classifier: which layer gives the logits, and how it is made for another number of classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from litmaml.inner.model_call import Output, predictions_of
from litmaml.shown import listed
from litmaml.tasks import Tree, tensors_of

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


class NoHead(ValueError):
    """A model of which no layer can be told to be the head."""


def find_heads(model: nn.Module, example: Tree, output: Output = None) -> list[str]:
    """The names of the layers that give the logits: the last ones of a forward pass, mostly a single one.

    A layer is a module with parameters and without further such modules in it, so that neither a model nor a wrapper
    with parameters of its own (a class token, a temperature) is taken for one. The logits have to come from the head
    alone: with zeros in place of what it gives, all examples get the same. Where they do not, as in a distilled
    transformer, whose logits are the mean of two heads, the layer called before is a head too.

    Args:
        model: Any classifier.
        example: A few different inputs (n, ...), or a tree of such.
        output: Which of the model's outputs are the logits, where it returns several.

    Raises:
        NoHead: Such a layer is no Linear or convolution as wide as the number of logits, or a part takes no hooks.
    """
    if scripted := [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]:
        raise NoHead(
            f"model: its head cannot be looked for, since {scripted[0]} is a ScriptModule, which takes no hooks; name "
            "it (head), or meta-train the module that it was made of"
        )
    called: list[str] = []
    zeroed: set[str] = set()

    def note(name: str, given: Any) -> Any:
        if name not in called:
            called.append(name)
        return torch.zeros_like(given) if name in zeroed and isinstance(given, Tensor) else None

    def logits() -> Tensor:
        called.clear()
        with torch.no_grad():
            found: Tensor = predictions_of(model, example, output)
        return found

    hooks = [
        module.register_forward_hook(lambda _, __, given, name=name: note(name, given))
        for name, module in model.named_modules()
        if _is_layer(module)
    ]
    try:
        width = logits().shape[1]
        left = None
        for name in reversed(order := [*called]):
            layer = model.get_submodule(name)
            zeroed.add(name)
            if not isinstance(layer, Layer) or width_of(layer) != width or parts_of(layer) is None:
                if left is not None and torch.equal(logits(), left):  # it lies before a head that was found
                    zeroed.remove(name)
                    continue
                break
            left = logits()
            if bool((left == left[:1]).all()):
                return [name for name in order if name in zeroed]
    finally:
        for hook in hooks:
            hook.remove()
    found = [name for name in order if name in zeroed]
    last = found[0] if found else ""
    beside = f", beside {listed(found[1:], 3)}," if found[1:] else ""
    raise NoHead(
        f"model: its head cannot be told: the last layer{beside} is {last or 'the model itself'} "
        f"({type(model.get_submodule(last)).__name__}), and no Linear or convolution of width {width}, the number of "
        f"logits, from which alone they come; name it (head), keep to {width} classes, or take a model that ends in a "
        "Linear layer"
    )


def named_head(model: nn.Module, name: str) -> Layer:
    """The layer of this name.

    Raises:
        ValueError: There is none, or none that can be a head.
    """
    modules = dict(model.named_modules())
    if not isinstance(layer := modules.get(name), Layer):
        what = "no layer of the model" if layer is None else f"a {type(layer).__name__}, no Linear or convolution"
        fitting = [path or "''" for path, module in modules.items() if isinstance(module, Layer)]
        raise ValueError(f"head: it is {what}, got {name!r}; name one of {listed(fitting[::-1], 3) or 'another model'}")
    if parts_of(layer) is None:
        raise ValueError(
            f"head: the weight of {name or 'the model'} is computed from others (parametrizations, weight norm), got "
            f"{name!r}; remove them, or make it a plain layer"
        )
    return layer


def check_named(model: nn.Module, example: Tree, name: str, output: Output = None) -> None:
    """Refuse a head of a name where others can be told to give the logits; where none can, the name counts.

    A model that does not take the example is told of where it is tried.

    Args:
        model: Has the layer.
        example: A few inputs, of which those that are all alike tell nothing.
        name: What was given.
        output: As in ``find_heads``.

    Raises:
        ValueError: Naming them.
    """
    if all(bool((part == part[:1]).all()) for part in tensors_of(example)):
        return
    try:
        found = find_heads(model, example, output)
    except Exception:  # NoHead, or whatever somebody's model raises
        return
    if name not in found:
        raise ValueError(
            f"head: the logits come from {' and '.join(part or 'the model itself' for part in found)}, got {name!r}; "
            "name that, or leave it out"
        )


def last_head(model: nn.Module) -> str:
    """The name of the layer that is registered last, which mostly is the last one that is called.

    Raises:
        ValueError: It is none that can be a head.
    """
    layers = [name for name, module in model.named_modules() if _is_layer(module)]
    last = layers[-1] if layers else ""
    if not isinstance(model.get_submodule(last), Layer):
        raise ValueError(
            f"head: the model's last layer is {last or 'the model itself'} "
            f"({type(model.get_submodule(last)).__name__}), no Linear or convolution; name the layer that gives the "
            "logits"
        )
    named_head(model, last)
    return last


def replace_head(model: nn.Module, name: str, classes: int) -> None:
    """Give the head of this name another width, and set it to zero.

    A zero head gives every class the same probability, and no class a start over another in whatever order they
    come; the first inner step makes each class's row from the features of its own images (the zeroing trick of Kao
    et al. 2022, arXiv 2106.15367). Under cross entropy it predicts the same as a head whose rows are all the mean
    of the learnt ones (Ye and Chao 2022, arXiv 2106.16245), since what all logits have in common changes nothing.

    Args:
        model: Is changed.
        name: As ``find_heads`` gives it.
        classes: The new width.

    Raises:
        ValueError: As ``named_head``.
    """
    head = named_head(model, name)
    for key, weight in list(head.named_parameters(recurse=False)):
        zero = torch.zeros((classes, *weight.shape[1:]), dtype=weight.dtype, device=weight.device)
        setattr(head, key, nn.Parameter(zero, requires_grad=weight.requires_grad))
    setattr(head, "out_features" if isinstance(head, nn.Linear) else "out_channels", classes)


def width_of(layer: Layer) -> int:
    """The number of its outputs."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def parts_of(layer: nn.Module) -> list[str] | None:
    """The names of a layer's parameters, weight and mostly bias; None where they are computed from others."""
    own = [name for name, _ in layer.named_parameters(recurse=False)]
    return own if own in (["weight"], ["weight", "bias"]) else None


def head_parts(model: nn.Module, name: str) -> tuple[str, ...]:
    """The names of a head's parameters in its model.

    Raises:
        ValueError: As ``named_head``.
    """
    return tuple(f"{name}.{part}".lstrip(".") for part in parts_of(named_head(model, name)) or ())


def _is_layer(module: nn.Module) -> bool:
    """Whether a module has parameters, and no module in it has any; a parametrised Linear is one."""
    if isinstance(module, Layer):
        return True
    own, inside = (next(module.parameters(recurse=False), None), [child.parameters() for child in module.children()])
    return own is not None and all(next(weights, None) is None for weights in inside)


@contextmanager
def seen_by(layer: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs of each call of a layer in this context."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()
