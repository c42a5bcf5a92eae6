"""A picture of where a policy goes before and after it adapts."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from litmaml.statistics.plots import plain_style

MOST = 5
"""Trajectories of a policy that are drawn."""

_HEIGHT, _RATE = 240, 20
"""Of a film: pixels, and pictures per second, as MuJoCo's environments are stepped."""


def film_of(before: Sequence[NDArray[np.uint8]], after: Sequence[NDArray[np.uint8]]) -> bytes | None:
    """A GIF of two trajectories side by side, the one before adaptation on the left; None where there are no pictures.

    The one that ends first stands still.
    """
    if not before or not after:
        return None
    frames = []
    for k in range(max(len(before), len(after))):
        pair = [Image.fromarray(each[min(k, len(each) - 1)]) for each in (before, after)]
        for each in pair:
            each.thumbnail((each.width, _HEIGHT))
        both = Image.new("RGB", (pair[0].width + pair[1].width, max(each.height for each in pair)))
        both.paste(pair[0], (0, 0))
        both.paste(pair[1], (pair[0].width, 0))
        frames.append(both)
    written = io.BytesIO()
    frames[0].save(written, "GIF", save_all=True, append_images=frames[1:], duration=1000 // _RATE, loop=0)
    return written.getvalue()


@plain_style()
def trajectory_figure(
    paths: Sequence[tuple[Tensor, Tensor]], goals: Tensor | None, names: tuple[str, str], title: str
) -> Figure:
    """One panel per task, with the trajectories of the policy before and after adaptation.

    Args:
        paths: At theta_0 and theta_N, in the order of a figure's lines: observations (T, K, H, o), of which the first
            two numbers are drawn, or one over time; and the mask (T, K, H), 1 until a trajectory has ended.
        goals: (T, 2), where each task's goal lies, or None.
        names: Of the two axes.
        title: Of the figure.
    """
    tasks = len(paths[0][0])
    figure = Figure(figsize=(3.6 * tasks, 3.4), layout="constrained")
    for i, axes in enumerate(figure.subplots(1, tasks, squeeze=False)[0]):
        for (seen, mask), colour, label in zip(paths, ("0.6", "#1f5fa8"), ("before", "after"), strict=True):
            for k in range(min(MOST, seen.shape[1])):
                places = seen[i, k][mask[i, k].bool()]
                if places.shape[-1] == 1:
                    places = torch.cat([torch.arange(len(places)).unsqueeze(1).to(places), places], dim=1)
                line = places[:, :2].T.tolist()
                axes.plot(*line, color=colour, alpha=0.7, linewidth=1, label=label if k == 0 else None)
        if goals is not None:
            axes.plot(*goals[i].unsqueeze(1).tolist(), "*", color="tab:red", markersize=12, label="goal")
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.suptitle(title)
    return figure
