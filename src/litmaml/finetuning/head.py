"""The head of a classifier: the layer that gives the logits, and how it is made for another number of classes."""

from __future__ import annotations

import torch
from torch import nn

from litmaml.inner.model_call import Output, predictions_of
from litmaml.tasks import Tree

Head = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def find_head(model: nn.Module, example: Tree, output: Output = None) -> str:
    """The name of the layer that gives the logits: the last layer with parameters that a forward pass calls.

    Args:
        model: Any classifier.
        example: A few inputs (n, ...), to see which layer comes last.
        output: Which of its outputs are the logits, where it returns several.

    Raises:
        ValueError: That layer is no Linear or convolution, or its width is not the number of logits.
    """
    called: list[str] = []
    if scripted := [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]:
        raise ValueError(
            f"model: its head cannot be looked for, since {scripted[0]} is a ScriptModule, which takes no hooks; give "
            "as many classes as the checkpoint was trained with, or meta-train the module that it was made of"
        )
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        with torch.no_grad():
            logits = predictions_of(model, example, output)
    finally:
        for hook in hooks:
            hook.remove()
    last = model.get_submodule(called[-1]) if called else model
    if not isinstance(last, Head) or _width(last) != logits.shape[1]:
        name = (called[-1] if called else "") or "the model itself"
        raise ValueError(
            f"model: its head cannot be replaced: the last layer is {name} ({type(last).__name__}), and no Linear or "
            f"convolution of width {logits.shape[1]}, the number of logits; give {logits.shape[1]} classes, as many "
            "as the checkpoint was trained with, or meta-train a model that ends in a Linear layer"
        )
    return called[-1]


def replace_head(model: nn.Module, name: str, classes: int) -> None:
    """Give the head of this name another width, and set it to zero.

    A zero head gives every class the same probability, and no class a start over another in whatever order they
    come; the first inner step makes each class's row from the features of its own images (the zeroing trick of Kao
    et al. 2022, arXiv 2106.15367). Under cross entropy it predicts the same as a head whose rows are all the mean
    of the learnt ones (Ye and Chao 2022, arXiv 2106.16245), since what all logits have in common changes nothing.

    Args:
        model: Is changed.
        name: As ``find_head`` gives it.
        classes: The new width.

    Raises:
        ValueError: It is no Linear or convolution.
    """
    head = model.get_submodule(name)
    if not isinstance(head, Head):
        raise ValueError(f"head: {name!r} is no Linear or convolution, got {type(head).__name__}")
    for key, weight in list(head.named_parameters(recurse=False)):
        zero = torch.zeros((classes, *weight.shape[1:]), dtype=weight.dtype, device=weight.device)
        setattr(head, key, nn.Parameter(zero, requires_grad=weight.requires_grad))
    setattr(head, "out_features" if isinstance(head, nn.Linear) else "out_channels", classes)


def _width(head: Head) -> int:
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels
