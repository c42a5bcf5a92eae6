"""All weights of a model as one vector: others near by, directions, and how far two are apart."""

from __future__ import annotations

import torch

from litmaml.learner.trial.state import own_streams
from litmaml.weights import Params


def nearby(weights: Params, seed: int, share: float) -> Params:
    """Other weights, each number off by a share of itself; of weights that are all zero by a third of the share.

    So none stays at a kink that lies at zero, and what has a range (a probability, a variance, an index) hardly leaves
    it. A share of 0 gives the weights themselves.
    """
    with own_streams(seed, torch.device("cpu")):
        return {name: w + share * (w if bool(w.any()) else 1 / 3) * torch.randn_like(w) for name, w in weights.items()}


def direction(like: Params) -> Params:
    """A random vector of length 1."""
    with own_streams(3, torch.device("cpu")):
        vector = {name: torch.randn_like(weight) for name, weight in like.items()}
    length = norm(vector)
    return {name: part / length for name, part in vector.items()}


def inner(first: Params, second: Params) -> float:
    """Re <first, second> over the weights of the second: of a gradient and a direction, the slope along it."""
    return float(sum(((first[name].conj() * part).sum() for name, part in second.items()), torch.zeros(())).real)


def distance(first: Params, second: Params) -> float:
    """|first - second| / |second| over all weights; 0 where both are zero, NaN where one is not finite."""
    apart = norm({name: first[name] - part for name, part in second.items()})
    return apart / max(norm(second), 1e-300) if apart != 0 else 0.0


def furthest(first: Params, second: Params) -> list[str]:
    """The names of the three weights that are furthest apart, if any is."""
    apart = {name: float((first[name] - part).abs().square().sum()) for name, part in second.items()}
    return sorted((name for name in apart if apart[name] > 0), key=lambda name: -apart[name])[:3]


def norm(weights: Params) -> float:
    """The Euclidean norm over all weights."""
    return float(sum((w.abs().double().square().sum().cpu() for w in weights.values()), torch.zeros(())).sqrt())
