"""Whether a model can act in the environments of its tasks."""

from __future__ import annotations

from torch import Tensor, nn

from litmaml.rl.control_tasks import ControlTasks


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
