"""How many tasks are computed at once: all on a GPU and for small layers, few for convolutions on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from litmaml.tasks import Tree, tensors_of

Convolution = nn.modules.conv._ConvNd

# Bytes of the first convolution's output, measured with Conv4 on two cores of a server. Up to the first limit several
# tasks at once gain more by fewer and longer operations than they lose by leaving the cache, if there are at least so
# many. The second limit is for all batches whose graphs are held until the backward pass, some six times as large.
_IN_CACHE, _WORTH_WHILE, _IN_MEMORY = 2**23, 4, 2**27


class Drawn(RuntimeError):
    """A function that is mapped over tasks has drawn a random number."""


def first_convolution(model: nn.Module, outside: Sequence[nn.Module] = ()) -> Convolution | None:
    """The first one whose kernels overlap; others, such as those that cut images into patches, are matrix products.

    Args:
        model: Where to look.
        outside: Modules of it in which not to look.
    """
    inside = {part for module in outside for part in module.modules()}
    for module in model.modules():
        if isinstance(module, Convolution) and module.stride != module.kernel_size and module not in inside:
            return module
    return None


def can_be_mapped(model: nn.Module) -> bool:
    """Whether no layer is one that ``vmap`` cannot take, or only by a slow loop of its own: torch's recurrent ones."""
    return not any(isinstance(module, nn.RNNBase | nn.RNNCellBase) for module in model.modules())


def tasks_at_once(convolution: Convolution | None, inputs: Tree) -> int:
    """How many tasks to compute at once on inputs (T, n, ...): T, or fewer for convolutions on a CPU.

    Under ``vmap`` each task's own kernels make a grouped convolution, which CPUs run slower than a loop over tasks once
    its numbers leave the cache.
    """
    return _fitting(convolution, _IN_CACHE, [inputs])


def tasks_held(convolution: Convolution | None, held: Sequence[Tree]) -> int:
    """How many tasks to hold at once whose graph is of all these inputs (T, n, ...)."""
    return _fitting(convolution, _IN_MEMORY, held)


def _fitting(convolution: Convolution | None, limit: int, inputs: Sequence[Tree]) -> int:
    first = inputs[0] if isinstance(inputs[0], Tensor) else tensors_of(inputs[0])[0]
    tasks = len(first)
    if convolution is None or first.device.type != "cpu" or tasks == 0:
        return tasks
    of_channels = [part for each in inputs for part in tensors_of(each) if _takes(convolution, part)]
    if convolution.transposed or not of_channels:
        return 1  # it is not the inputs that it is applied to: its output is not known
    held = sum(part.nbytes for part in of_channels) / tasks * convolution.out_channels / convolution.in_channels
    fitting = int(limit / (held / math.prod(convolution.stride)))
    return min(fitting, tasks) if fitting >= _WORTH_WHILE else 1


def _takes(convolution: Convolution, inputs: Tensor) -> bool:
    return inputs.dim() >= 3 and inputs.shape[2] == convolution.in_channels


def task_by_task(function: Callable[..., Any], at_once: bool, tasks: int, *stacked: Any) -> Any:
    """The function of each task's own arguments, its results stacked: by ``vmap``, or in a loop over the tasks.

    Raises:
        Drawn: It draws random numbers under ``vmap``, which would take them for all tasks from one stream, also from a
            generator that each task begins anew.
    """
    if tasks == 1:
        # Not by [0], whose derivative fills a tensor with zeros.
        single = pytree.tree_map(lambda part: part.squeeze(0), stacked)
        return pytree.tree_map(lambda result: result.unsqueeze(0), function(*single))
    if at_once:
        try:
            return vmap(function, randomness="error")(*stacked)
        except RuntimeError as error:
            if "randomness error mode" in str(error):
                raise Drawn(str(error)) from error
            if "vmap" in str(error) or "atching rule" in str(error):
                error.add_note("PyTorch cannot compute several tasks of this model at once: set tasks_per_chunk to 1.")
            raise
    tensors, form = pytree.tree_flatten(stacked)
    each = zip(*(tensor.unbind() for tensor in tensors), strict=True)
    results = [function(*pytree.tree_unflatten(one, form)) for one in each]
    return pytree.tree_map(lambda *parts: torch.stack(parts), *results)
