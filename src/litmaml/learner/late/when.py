"""Where a training step need not be waited for: where that is right, and where it saves time."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from torch import nn

from litmaml.learner.evaluated import EvaluatedLearner

_HOOKS = (
    *("on_train_batch_start", "training_step", "on_before_zero_grad", "on_before_backward", "on_after_backward"),
    *("on_before_optimizer_step", "on_train_batch_end", "backward", "configure_gradient_clipping", "optimizer_step"),
    *("optimizer_zero_grad", "lr_scheduler_step"),
)
"""What Lightning calls in each step, of callbacks and of the learner."""
_HARMLESS = {
    *("lightning.pytorch.core.module", "lightning.pytorch.core.hooks", "lightning.pytorch.callbacks.callback"),
    *("lightning.pytorch.callbacks.lr_monitor", "lightning.pytorch.callbacks.timer"),
    "lightning.pytorch.callbacks.model_checkpoint",  # which asks before it writes: see LateLearner
}
"""Lightning's own that look at no weights in a step. Its bars read the loss of each step, and averages the weights."""


def may_be_late(learner: EvaluatedLearner, trainer: Trainer) -> bool:
    """Whether a run's steps may be looked at late; where not, each is waited for, and all else is the same."""
    loop = learner.inner_loop
    return all(
        [
            # A CPU has computed a step when it is taken; and others would see weights that are taken back later.
            is_unseen(learner, trainer),
            # A step that skips tasks has to know how many are left before it moves the weights.
            learner.on_nonfinite == "raise",
            # Processes would have to agree on who takes back what.
            trainer.world_size == 1,
            # Gradients that were summed up are nowhere copied.
            trainer.accumulate_grad_batches == 1,
            # Others than torch's may keep what no state has; LBFGS takes several gradients in a step.
            _is_copied(trainer),
            # Trajectories are made of actions that are read from the device, and from what no copy puts back.
            learner.experience is None,
            # It is told of the losses of the finite tasks of each step, and may keep what it makes of them.
            not learner.outer_loss.has_own("update"),
            # These read the tasks' numbers or classes from the device in each step.
            not (loop.draws or learner.outer_gradient.sampled or loop.head is not None),
            # On a GPU it ends the process at numbers that are not finite, as they are after such a step.
            not any(isinstance(module, nn.BCELoss) for module in learner.modules()),
            # It waits for each gradient, and has an error of its own for one that is not finite.
            not torch.is_anomaly_enabled(),
        ]
    )


def is_unseen(learner: EvaluatedLearner, trainer: Trainer) -> bool:
    """Whether a device works at the steps of a run while the program goes on, and nobody else's code looks at each."""
    watchers = (learner, *trainer.callbacks)  # type: ignore[attr-defined]  # set outside its class
    return works_behind(learner.device) and not any(map(_looks, watchers))


def works_behind(device: torch.device) -> bool:
    """Whether a device computes what it was given while the program goes on."""
    return device.type == "cuda"


def _is_copied(trainer: Trainer) -> bool:
    """Whether all that the optimizer keeps is in its state and its groups, as tensors and numbers."""
    optimizers = trainer.optimizers
    if len(optimizers) != 1 or not trainer.lightning_module.automatic_optimization:
        return False
    return type(optimizers[0]).__module__.startswith("torch.optim.") and not isinstance(
        optimizers[0], torch.optim.LBFGS
    )


def _looks(watcher: object) -> bool:
    """Whether a callback, or a learner, has code in a step that may look at the weights.

    A class whose code does not says so by ``looks_at_weights = False``.
    """
    for hook in _HOOKS:
        if hook in vars(watcher):
            return True
        owner = next((kind for kind in type(watcher).__mro__ if hook in vars(kind)), None)
        if owner is not None and owner.__module__ not in _HARMLESS and vars(owner).get("looks_at_weights", True):
            return True
    return False
