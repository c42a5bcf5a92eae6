"""The pictures of results at few and at hundreds of inner steps: nothing overprints, and what is drawn is explained."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from litmaml.statistics import plots
from litmaml.statistics.interval import Interval
from litmaml.statistics.plots import Fit, adaptation_figure, plot_fits


def curve(steps: int, half_width: float) -> list[Interval]:
    return [Interval(1 - 0.5 ** (10 * step / steps), half_width) for step in range(steps + 1)]


def check_ticks(figure: Figure) -> None:
    """No label of an axis lies over its neighbour, and those of steps are whole."""
    figure.canvas.draw()
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        labels = [label for label in axes.get_xticklabels() if label.get_text()]
        boxes = sorted((label.get_window_extent(renderer) for label in labels), key=lambda box: box.x0)
        assert len(boxes) >= 2
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def legend(figure: Figure, panel: int) -> list[str]:
    found = figure.axes[panel].get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


@pytest.mark.parametrize("steps", [1, 3, 30, 300])
def test_ticks_do_not_overprint(steps: int) -> None:
    results = {"accuracy": curve(steps, 0.1), "loss": curve(steps, 0.1), "auroc": curve(steps, 0.1)}
    check_ticks(adaptation_figure(results, "a title"))


def test_bands_and_lines_are_explained_alike_in_all_panels() -> None:
    fresh, nearest = {"accuracy": Interval(0.5, 0), "loss": Interval(1, 0)}, {"accuracy": Interval(0.6, 0)}
    results = {"accuracy": curve(3, 0.1), "loss": curve(3, 0.1)}
    figure = adaptation_figure(results, "", {"nearest_class_mean": nearest, "fresh_head": fresh})
    assert legend(figure, 0) == ["mean", "95% interval", "nearest class mean", "fresh head"]
    assert legend(figure, 1) == ["mean", "95% interval", "fresh head"]
    styles = [[line.get_linestyle() for line in axes.lines if line.get_label() == "fresh head"] for axes in figure.axes]
    assert styles[0] == styles[1] == [":"]
    assert legend(adaptation_figure({"loss": curve(3, 0.0)}, ""), 0) == []


@pytest.mark.parametrize(("steps", "drawn"), [(1, 2), (3, 4), (30, 17), (300, 27)])
def test_of_hundreds_of_functions_some_are_drawn(
    steps: int, drawn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[Figure]()

    def figure(*given: object, **options: object) -> Figure:
        made.append(Figure(*given, **options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(plots, "Figure", figure)
    x = torch.linspace(-1, 1, 5)
    fit = Fit(x, torch.stack([x * step for step in range(steps + 1)]), {"support": (x, x)})
    plot_fits(tmp_path / "fits.png", [fit, fit], "a title")
    assert len(made[0].axes[0].lines) - 1 == drawn
    names = [text.get_text() for text in made[0].legends[0].get_texts()]
    last = f"after {steps} step" + "s" * (steps > 1)
    assert names == ["before", *(["in between"] if steps > 1 else []), last, "support"]
