"""How often a training step would wait for a GPU: to learn once whether all is finite, and for nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from litmaml import MetaLearner, TaskDataModule
from litmaml.data import Episode, Glyphs
from litmaml.inner import SGD
from litmaml.outer import FirstOrder, OuterGradient, SecondOrder
from litmaml.tasks import MetaBatch
from quiet_trainer import quiet_trainer

# Of these the value, or the size, of the result is known only to the device.
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim"}
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masks = name in _INDEXING and any(
            isinstance(leaf, Tensor) and leaf.dtype is torch.bool for leaf in tree_leaves(args[1])
        )
        # States of generators, which are compared, are on the CPU always.
        here = name == "equal" and args[0].dtype is torch.uint8
        self.counts[name] += (name in _WAITING and not here) or masks
        return function(*args, **(kwargs or {}))


class Watched(MetaLearner):
    """Counts the waits of each training step."""

    waits: list[Counter[str]]

    def training_step(self, tasks: MetaBatch, batch_idx: int) -> Tensor:
        with Waits() as seen:
            loss = super().training_step(tasks, batch_idx)
        self.waits.append(+seen.counts)
        return loss


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 2, 3, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        self(torch.zeros(1, 1, 28, 28))


@pytest.mark.parametrize("outer", [SecondOrder(), FirstOrder()], ids=type)
def test_a_step_waits_once(outer: OuterGradient, tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = Watched(Small(), SGD(0.1), outer, channels_last=False, tasks_per_chunk=4)
    learner.waits = []
    data = TaskDataModule(Glyphs(Episode(ways=5, shots=1, queries=2)), 4, train_tasks=16, val_tasks=4)
    quiet_trainer(tmp_path, max_epochs=1, log_every_n_steps=100, limit_val_batches=0).fit(learner, data)
    first, *others = learner.waits
    assert len(others) == 3
    assert first.total() > 1, "the first batch is tried"
    assert [dict(waits) for waits in others] == [{"_local_scalar_dense": 1}] * 3
