"""What the outer loss gets of a run: its epoch, and the losses of each outer step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from litmaml.data import Episode, Sinusoid, TaskDataModule
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.outer import OuterLoss
from quiet_trainer import quiet_trainer


class Noting(OuterLoss):
    """Counts in a buffer how often each task was seen, and notes what else it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(100, dtype=torch.int64))
        self.epochs: set[int] = set()
        self.updates: list[tuple[list[int], list[float]]] = []

    def step_weights(self, steps: int, epoch: int) -> list[float]:
        self.epochs.add(epoch)
        return [0.0] * steps + [1.0]

    def update(self, numbers: Tensor, losses: Tensor) -> None:
        self.seen[numbers] += 1  # type: ignore[operator,index]  # a tensor
        self.updates.append((numbers.tolist(), losses.tolist()))


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild outer_loss")
@pytest.mark.parametrize("batches", [1, 2])
def test_the_losses_of_each_outer_step(batches: int, tmp_path: Path) -> None:
    """Of all its batches, once; what it keeps of them in buffers is in the checkpoint."""
    outer = Noting()
    learner = MetaLearner(MLP(hidden=[4]), loss=nn.MSELoss(), outer_loss=outer)
    data = TaskDataModule(Sinusoid(Episode(shots=5, queries=5)), meta_batch=2, train_tasks=8, val_tasks=2, test_tasks=2)
    trainer = quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0, accumulate_grad_batches=batches)
    trainer.fit(learner, data)
    assert outer.epochs == {0, 1}
    assert len(outer.updates) == trainer.global_step == 8 // batches
    for numbers, losses in outer.updates:
        assert len(numbers) == len(losses) == 2 * batches
        assert all(loss > 0 for loss in losses)
    told = sorted(number for numbers, _ in outer.updates for number in numbers)
    assert told == torch.arange(100).repeat_interleave(outer.seen).tolist()  # type: ignore[arg-type]
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=False)
    again = MetaLearner.load_from_checkpoint(tmp_path / "x.ckpt", outer_loss=Noting())
    assert torch.equal(again.outer_loss.seen, outer.seen)  # type: ignore[arg-type]
