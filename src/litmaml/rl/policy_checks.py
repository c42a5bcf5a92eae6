"""Whether a model can act in the environments of its tasks."""

from __future__ import annotations

from torch import Tensor, nn

from litmaml.inner.loop import InnerLoop
from litmaml.outer import OuterLoss
from litmaml.rl.control_tasks import ControlTasks
from litmaml.tasks import Tasks


def check_policy(model: nn.Module, source: ControlTasks) -> None:
    """Refuse a policy for other observations or actions than the tasks have, as far as it says what it is for.

    Raises:
        ValueError: It is; what fits.
    """
    kind, family = type(model).__name__, type(source).__name__
    discrete = getattr(model, "discrete", source.discrete)
    if bool(discrete) != source.discrete:
        actions = f"one of {source.actions} choices" if source.discrete else f"{source.actions} real numbers"
        fitting = "CategoricalPolicy" if source.discrete else "GaussianPolicy"
        raise ValueError(
            f"model: an action of {family} is {actions}, which a {kind} does not give; take litmaml.rl.{fitting}"
        )
    for name in ("observations", "actions"):
        own, there = getattr(model, name, None), getattr(source, name)
        if isinstance(own, int) and own != there:
            raise ValueError(
                f"model.{name}: {kind} is for {own}, and {family} has {there}; give {there}, or leave it out in a file"
            )


def check_outputs(parameters: Tensor, observations: Tensor, source: ControlTasks) -> None:
    """Refuse a model whose outputs are not one action's parameters for each observation (T, K, o).

    Raises:
        ValueError: They are of another shape.
    """
    width = source.actions if source.discrete else 2 * source.actions
    if parameters.shape != (*observations.shape[:-1], width):
        what = "a logit for each choice" if source.discrete else "the means and log standard deviations of an action"
        raise ValueError(
            f"model: has to map observations {tuple(observations.shape[1:])} to ({observations.shape[1]}, {width}), "
            f"{what}, got {tuple(parameters.shape[1:])}; change its last layer, or take a policy of litmaml.rl"
        )


def check_outer_loss(outer_loss: OuterLoss) -> None:
    """Refuse an outer loss that asks of trajectories what they do not tell.

    Raises:
        ValueError: With what there is instead.
    """
    kind, instead = type(outer_loss).__name__, "leave it out, or take litmaml.rl.ProMP or litmaml.rl.ScoreCorrection"
    if outer_loss.has_own("step_weights"):
        raise ValueError(
            f"outer_loss: {kind} takes one query at each step, and a policy's is acted by the last; {instead}"
        )
    if outer_loss.has_own("task_weights", "update"):
        raise ValueError(
            f"outer_loss: {kind} weighs tasks by the value of the loss, which of a surrogate is none of the return's "
            f"where its own policy acted; {instead}"
        )


def check_repeats(inner_loop: InnerLoop, tasks: Tasks) -> None:
    """Refuse a model that gives other parameters for all recorded observations at once than it gave while it acted.

    Raises:
        ValueError: It does, so that no ratio of probabilities is right.
    """
    (start,) = inner_loop.path(tasks, 0)
    recorded = tasks.support[0].targets
    here, acted = recorded["mask"].bool(), recorded["parameters"]
    apart = (inner_loop.predict(start, tasks.support[0].inputs).detach() - acted)[here].abs().max()
    if apart > 0.02 * acted[here].abs().max():  # 0.004 of rounding in bfloat16
        raise ValueError(
            "model: its outputs for an observation depend on the others beside it, or on chance, so that what it does "
            f"cannot be told from what it did, got a difference of {float(apart):.2g}; set batch_norm to frozen or "
            "group, and dropout to 0"
        )
