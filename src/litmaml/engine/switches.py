"""Off switches: without a part of the engine everything is slower, and comes out the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PARTS = (
    *("allocator", "batch_norm", "convolution", "cuda_graph", "features", "linear", "pooling", "program"),
    *("together", "twice_differentiable"),
)
"""One for each file that makes something fast; ``compiler``, ``watched`` and ``traced_numbers`` are of programs."""

_off: set[str] = set()


def is_on(part: str) -> bool:
    """Whether a part may be used."""
    return part not in _off


@contextmanager
def without(*parts: str) -> Iterator[None]:
    """Parts are not used inside: to see whether a fault is theirs, and what they gain.

    Args:
        parts: Of ``PARTS``: keeping freed memory (what the C library keeps already stays kept), the leaner batch norm,
            convolutions by patches, replayed CUDA graphs, constant parts computed once, sequences' linear maps by one
            product per task, pooling by slices, compiled programs, several tasks at once, convolutions with leaner
            second derivatives.

    Raises:
        ValueError: There is no such part.

    Example:
        >>> with without("batch_norm"):
        ...     is_on("batch_norm"), is_on("together")
        (False, True)
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"parts: there is none called {unknown[0]!r}; one of {', '.join(PARTS)}")
    before = set(_off)
    _off.update(parts)
    try:
        yield
    finally:
        _off.clear()
        _off.update(before)
