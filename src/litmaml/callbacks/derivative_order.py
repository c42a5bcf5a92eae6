"""First order at first."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from litmaml.learner.meta_learner import MetaLearner
from litmaml.outer import FirstOrder, PathGradient


class DerivativeOrderAnnealing(Callback):
    """Trains by ``FirstOrder`` before an epoch, and by the outer gradient of the learner from then on.

    As in MAML++ (Antoniou et al. 2019, arXiv 1810.09502): the first epochs are cheap, and the later ones exact. What is
    taken follows from the epoch alone, so that a resumed run goes on alike.

    Args:
        epoch: The first one with the learner's own outer gradient, at least 1.

    Raises:
        ValueError: epoch is below 1.
    """

    looks_at_weights = False

    def __init__(self, epoch: int = 50) -> None:
        if epoch < 1:
            raise ValueError(f"epoch: has to be at least 1, got {epoch}")
        self.epoch = epoch
        self._first_order = FirstOrder()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse an outer gradient that has no order."""
        if not isinstance(pl_module, MetaLearner):
            raise ValueError(f"DerivativeOrderAnnealing: needs a MetaLearner, got {type(pl_module).__name__}")
        own = pl_module.outer_gradient
        if not isinstance(own, PathGradient) or isinstance(own, FirstOrder):
            raise ValueError(
                "outer_gradient: DerivativeOrderAnnealing goes from FirstOrder to one that follows the path, got "
                f"{type(own).__name__}; use SecondOrder or FiniteDifference, or leave the callback out"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not once an epoch, which may be resumed in its middle.
        assert isinstance(pl_module, MetaLearner)
        wanted = self._first_order if trainer.current_epoch < self.epoch else pl_module.outer_gradient
        if pl_module.meta_gradient.outer_gradient is not wanted:
            pl_module.meta_gradient.outer_gradient = wanted

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaLearner)
        pl_module.meta_gradient.outer_gradient = pl_module.outer_gradient
