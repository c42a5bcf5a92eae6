"""How many tasks are computed at once: all on a GPU and for small layers, few for convolutions on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

Convolution = nn.modules.conv._ConvNd

# Bytes of the first convolution's output. Up to the first limit several tasks at once gain more by fewer and longer
# operations than they lose by leaving the cache, if there are at least so many tasks: measured with Conv4 on two cores
# of a server. The second limit is for all inner steps and keeps what SecondOrder holds of Conv4 near 1 GB.
_IN_CACHE, _IN_MEMORY, _WORTH_WHILE = 2**23, 2**26, 4


def first_convolution(model: nn.Module) -> Convolution | None:
    """The first one whose kernels overlap; others, such as those that cut images into patches, are matrix products."""
    for module in model.modules():
        if isinstance(module, Convolution) and module.stride != module.kernel_size:
            return module
    return None


def tasks_at_once(convolution: Convolution | None, inputs: Tensor, steps: int = 1) -> int:
    """How many tasks to compute at once on inputs (T, n, ...): T, or fewer for convolutions on a CPU.

    Under ``vmap`` each task's own kernels make a grouped convolution, which CPUs run slower than a loop over tasks once
    its numbers leave the cache. ``steps``: so many inner steps are held in memory.
    """
    tasks = len(inputs)
    if convolution is None or inputs.device.type != "cpu" or tasks == 0:
        return tasks
    pixels = inputs[0].numel() / convolution.in_channels / math.prod(convolution.stride)
    held = pixels * convolution.out_channels * convolution.weight.element_size()
    fitting = int(min(_IN_CACHE, _IN_MEMORY / steps) / held)
    return min(fitting, tasks) if fitting >= _WORTH_WHILE else 1


def task_by_task(function: Callable[..., Any], at_once: bool, *stacked: Any) -> Any:
    """The function of each task's own arguments, its results stacked: by ``vmap``, or in a loop over the tasks."""
    if len(stacked[-1]) == 1:
        # Not by [0], whose derivative fills a tensor with zeros.
        single = pytree.tree_map(lambda part: part.squeeze(0), stacked)
        return pytree.tree_map(lambda result: result.unsqueeze(0), function(*single))
    if at_once:
        return vmap(function, randomness="different")(*stacked)
    tensors, form = pytree.tree_flatten(stacked)
    each = zip(*(tensor.unbind() for tensor in tensors), strict=True)
    results = [function(*pytree.tree_unflatten(one, form)) for one in each]
    return pytree.tree_map(lambda *parts: torch.stack(parts), *results)
