"""How many tasks are computed at once: all on a GPU and for small layers, few for convolutions on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from litmaml.types import Tasks

# Bytes of the first convolution's output. Up to the first limit convolutions of several tasks at once gain more by their
# fewer and longer operations than they lose by leaving the cache, if there are at least so many tasks: measured with
# Conv4 on two cores of a server. The second is for all inner steps and keeps what SecondOrder holds near 1 GB.
_IN_CACHE, _IN_MEMORY, _WORTH_WHILE = 2**23, 2**26, 4


def tasks_at_once(model: nn.Module, inputs: Tensor, steps: int = 1) -> int:
    """How many tasks with such inputs (T, n, ...) to compute at once: T, or fewer for convolutions on a CPU.

    Under ``vmap`` each task's own kernels make a grouped convolution, which CPUs run slower than a loop over tasks once
    its numbers leave the cache. Convolutions whose kernels do not overlap, such as those that cut an image into
    patches, are matrix products.
    """
    tasks = len(inputs)
    overlapping = (
        module
        for module in model.modules()
        if isinstance(module, nn.modules.conv._ConvNd) and module.stride != module.kernel_size
    )
    first = next(overlapping, None)
    if first is None or inputs.device.type != "cpu" or tasks == 0:
        return tasks
    pixels = inputs[0].numel() / first.in_channels / math.prod(first.stride)
    held = pixels * first.out_channels * first.weight.element_size()
    fitting = int(min(_IN_CACHE / held, _IN_MEMORY / held / steps))
    return min(fitting, tasks) if fitting >= _WORTH_WHILE else 1


def default_chunk(model: nn.Module, tasks: Tasks, steps: int = 1) -> int:
    """How many tasks to adapt at once, by so many steps on their support sets."""
    return tasks_at_once(model, tasks.support[0].inputs, steps)


def task_by_task(function: Callable[..., Any], at_once: bool, *stacked: Any) -> Any:
    """The function of each task's own arguments, its results stacked: by ``vmap``, or in a loop over the tasks."""
    tensors, form = pytree.tree_flatten(stacked)
    if len(tensors[0]) == 1:
        # Not by [0], whose derivative fills a tensor with zeros.
        single = pytree.tree_unflatten([tensor.squeeze(0) for tensor in tensors], form)
        return pytree.tree_map(lambda result: result.unsqueeze(0), function(*single))
    if at_once:
        return vmap(function, randomness="different")(*stacked)
    each = zip(*(tensor.unbind() for tensor in tensors), strict=True)
    results = [function(*pytree.tree_unflatten(list(one), form)) for one in each]
    return pytree.tree_map(lambda *parts: torch.stack(parts), *results)
