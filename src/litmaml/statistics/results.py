"""Results by the name of the metric, which show themselves as a table."""

from __future__ import annotations

from litmaml.statistics.interval import Interval, cell, in_order


class Results(dict[str, list[Interval]]):
    """Of each metric the means with their intervals after 0, 1, ... inner steps.

    >>> Results({"loss": [Interval(1.5, 0.25), Interval(0.5, 0.125)]})
    inner steps             loss
              0  1.5000 ± 0.2500
              1  0.5000 ± 0.1250
    """

    def __repr__(self) -> str:
        if not self:
            return "no results yet"
        names = in_order(self)
        steps = max((len(curve) for curve in self.values()), default=0)
        rows = [["inner steps", *names]]
        rows += [[str(step), *(cell(name, self[name][step]) for name in names)] for step in range(steps)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(text.rjust(wide) for text, wide in zip(row, widths, strict=True)) for row in rows)
