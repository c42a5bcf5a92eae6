"""A part of a model that is hard to adapt rightly."""

from __future__ import annotations

from typing import Literal, NamedTuple

from model_parts import Make

Must = Literal["equal", "refused", "refused where exact", "either"]


class Trouble(NamedTuple):
    """A part, whether a right answer or a refusal must come of it, and whether it draws random numbers.

    ``single``: it computes in float32. ``plain``: a part that computes the same and can be copied.
    """

    make: Make
    must: Must = "either"
    random: bool = False
    single: bool = False
    plain: Make | None = None
