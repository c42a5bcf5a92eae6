"""A new run that starts from the weights of an earlier one."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn

from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.checkpoint_names import locate
from litmaml.runs.weights_record import check_ties, evaluated_parts, other_modes, other_trained


def start_from(learner: MetaLearner, named: str) -> None:
    """Give a learner the weights and learnt inner rates of a meta-checkpoint, to go on with meta-training.

    Unlike resuming, the outer optimizer, its schedule and the count of tasks begin afresh.

    Args:
        learner: Is changed.
        named: As in ``locate``.

    Raises:
        ValueError: The checkpoint is of another architecture, or weights are one in it that here are not.
    """
    saved = read_checkpoint(locate(named, "init_weights"))
    check_ties(learner.inner_loop.model, saved)
    if other := other_trained(learner.inner_loop.model, saved):
        rank_zero_warn(f"init_weights: {other}; this run trains what its own configuration says")
    evaluated = evaluated_parts(learner.inner_loop, saved)
    if evaluated is not None and (other := other_modes(learner.evaluated, evaluated)):
        rank_zero_warn(f"init_weights: {other}; this run keeps its own modes")
    learner.load_state_dict(saved["state_dict"])
