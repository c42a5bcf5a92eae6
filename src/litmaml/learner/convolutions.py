"""How a run on a GPU computes convolutions whose kernels are each task's own: all processes alike, which is said."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from litmaml.learner.checkpointed import CheckpointedLearner
from litmaml.outer.convolution_choice import Timed
from litmaml.tasks import Tasks


def choose_convolutions(learner: CheckpointedLearner, tasks: Tasks, trainer: Trainer | None) -> None:
    """In training, choose by what the first process measures, or as it was chosen before, and say what was measured.

    Args:
        learner: Keeps what is chosen.
        tasks: Of the first batch.
        trainer: None where the learner is called by itself.
    """
    if not learner.training:
        return

    def of_first_process(measure: Callable[[], Timed | None]) -> Timed | None:
        if trainer is None:
            return measure()
        found: Timed | None = trainer.strategy.broadcast(measure() if trainer.is_global_zero else None)
        return found

    if (found := learner.convolutions.choose(learner.meta_gradient, tasks, of_first_process)) is None:
        return
    ways = {"by patches": found.patches, "grouped": found.grouped}
    (way, took), (other, longer) = sorted(ways.items(), key=lambda item: item[1])
    rank_zero_info(
        f"model: convolutions are computed {way}, by which the gradient of {found.tasks} tasks takes "
        f"{1e3 * took:.2f} ms; {other} it takes {1e3 * longer:.2f} ms"
    )
