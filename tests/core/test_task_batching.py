"""How many tasks are computed at once, and that it makes no difference to the gradient."""

from __future__ import annotations

import pytest
import torch
from oracles import relative
from torch import nn

from litmaml.inner_loop import InnerLoop
from litmaml.inner_optimizer import SGD
from litmaml.meta_gradient import MetaGradientOf
from litmaml.models import MLP, Conv4
from litmaml.outer_gradient import SecondOrder
from litmaml.task_batching import first_convolution, tasks_at_once
from litmaml.types import Batch, Tasks


def images(tasks: int, each: int, size: int = 28) -> torch.Tensor:
    return torch.rand(tasks, each, 1, size, size)


def test_how_many_at_once_on_a_cpu() -> None:
    conv4 = first_convolution(Conv4().float())
    assert conv4 is not None
    # 64 filters make 200,704 bytes of an image.
    assert tasks_at_once(conv4, images(16, 5)) == 8
    assert tasks_at_once(conv4, images(6, 5)) == 6
    assert tasks_at_once(conv4, images(16, 10)) == 4
    assert tasks_at_once(conv4, images(16, 11)) == 1
    assert tasks_at_once(conv4.double(), images(16, 5)) == 4
    assert (
        tasks_at_once(first_convolution(Conv4(pooling=False).float()), images(64, 5)) == 33
    )  # a stride of two, a quarter of the numbers
    # More inner steps hold more in memory.
    chunks = [tasks_at_once(conv4.float(), images(16, 5), steps) for steps in (5, 10, 16, 20, 1000)]
    assert chunks == [8, 6, 4, 1, 1]
    assert tasks_at_once(first_convolution(MLP()), torch.zeros(500, 10, 1), steps=100) == 500
    patches = nn.Sequential(nn.Conv2d(1, 8, kernel_size=4, stride=4), nn.Flatten(2))
    assert tasks_at_once(first_convolution(patches), images(500, 50)) == 500
    assert tasks_at_once(conv4, images(0, 5)) == 0


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_is_the_same(recompute: bool) -> None:
    """In chunks of one, in chunks whose support is computed at once and whose query in a loop, and with all at once."""
    torch.manual_seed(0)
    support, query = (Batch(images(5, n), torch.arange(5).repeat(n // 5).expand(5, -1)) for n in (5, 15))
    tasks = Tasks((support,), query, torch.arange(5))
    loop = InnerLoop(Conv4(filters=32), nn.CrossEntropyLoss(), SGD(0.1), SecondOrder(recompute), ["*"], 2)
    assert loop.default_chunk(tasks, 2) == 5
    assert loop.tasks_at_once(query.inputs) == 1
    one_by_one, default, some = (MetaGradientOf(loop, 2, size)(tasks) for size in (1, None, 3))
    for found in (default, some):
        assert relative(found.gradients, one_by_one.gradients) < 1e-12
        torch.testing.assert_close(found.losses, one_by_one.losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.predictions, one_by_one.predictions, rtol=1e-11, atol=1e-12)
