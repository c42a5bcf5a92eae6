"""How often a training step would wait for a GPU: to learn once whether all is finite, and for nothing else."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from litmaml import MetaLearner, TaskDataModule
from litmaml.data import Episode, Glyphs
from litmaml.inner import SGD
from litmaml.learner.late import check, when
from litmaml.learner.screen import run_progress
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


class Steps(Callback):
    """Counts the waits from each training step's begin to the next one's, by all that Lightning and callbacks do."""

    looks_at_weights = False

    def __init__(self, seen: Waits) -> None:
        self.seen, self.waits = seen, list[dict[str, int]]()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waits.append(dict(+self.seen.counts))
        self.seen.counts.clear()


def whole_steps(
    folder: Path, monkeypatch: pytest.MonkeyPatch, on_gpu: bool, on_nonfinite: Any = "raise", **options: Any
) -> list[dict[str, int]]:
    """The waits of the steps after the first, which is tried; to look at an earlier one is not to wait."""
    read = check._Flag.read

    def without_counting(flag: check._Flag) -> bool:
        with _disable_current_modes():
            return read(flag)

    monkeypatch.setattr(when, "works_behind", lambda device: on_gpu)
    monkeypatch.setattr(check._Flag, "read", without_counting)
    torch.manual_seed(0)
    outer = functools.partial(torch.optim.SGD, lr=0.1)
    learner = MetaLearner(Small(), SGD(0.1), channels_last=False, optimizer=outer, on_nonfinite=on_nonfinite)
    data = TaskDataModule(Glyphs(Episode(ways=5, shots=1, queries=2)), 4, train_tasks=24, val_tasks=4)
    with Waits() as seen:
        steps = Steps(seen)
        quiet = {"max_epochs": 1, "limit_val_batches": 0, "log_every_n_steps": 100, "callbacks": [steps]}
        quiet_trainer(folder, **quiet | options).fit(learner, data)
    return steps.waits[2:]


def test_a_step_that_is_looked_at_late_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not where gradients are clipped, or the bar of the run is shown, but for each time that it is drawn."""
    monkeypatch.setattr(run_progress, "_EVERY", 1000.0)
    for options in ({"gradient_clip_val": 1.0}, {"enable_progress_bar": True}):
        assert whole_steps(tmp_path, monkeypatch, True, **options) == [{}] * 4


def test_a_step_that_skips_waits_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert whole_steps(tmp_path, monkeypatch, True, "skip") == [{"_local_scalar_dense": 1}] * 4
    # By Lightning for the loss and the accuracy of a bar, where others may look at them.
    assert whole_steps(tmp_path, monkeypatch, False) == [{"_local_scalar_dense": 3}] * 4
