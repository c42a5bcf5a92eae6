"""Which weights a pattern of names picks."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from torch import Tensor

from litmaml.shown import listed


def _fits(names: Sequence[str], pattern: str) -> bool:
    """Whether a parameter's name, or one of several, is one of a pattern.

    Names have brackets too, as in ``nn.ParameterDict``.
    """
    return any(fnmatch.fnmatchcase(name, pattern.replace("[", "[[]")) for name in names)


def fitting(
    argument: str,
    patterns: Sequence[str],
    weights: Mapping[str, Tensor],
    tied: Mapping[str, str],
    what: str = "trainable parameters",
) -> list[str]:
    """The names that a pattern fits, itself or by a further name of a tied weight, in the order of the weights.

    ``what``: they are of the model.

    Raises:
        ValueError: A pattern fits none.
    """
    called = {name: [name] for name in weights}
    for further, name in tied.items():
        called.get(name, []).append(further)
    for pattern in patterns:
        if not any(_fits(names, pattern) for names in called.values()):
            raise ValueError(f"{argument}: {pattern!r} fits none of the model's {what}: {listed([*weights])}")
    return [name for name, names in called.items() if any(_fits(names, pattern) for pattern in patterns)]
