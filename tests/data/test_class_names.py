"""The classes of a task by name, against its images."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from litmaml.data.episode import Episode
from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat, ImagePool
from litmaml.tasks import Split


class Numbered(ImageTasks):
    """Every pixel of class k is 2 k, but for the first row, one more, so that turns show, and the middle."""

    def __init__(self, rotations: bool) -> None:
        super().__init__(ImageFormat(size=3), Episode(ways=4, shots=1, queries=1), rotations=rotations)

    def class_names(self, split: Split) -> Sequence[str]:
        return [f"{split} {k}" for k in range(9)]

    def read_pool(self, split: Split) -> ImagePool:
        classes = torch.arange(9).repeat_interleave(3)
        pixels = (2 * classes)[:, None, None, None].expand(-1, 1, 3, 3).clone()
        pixels[:, :, 0] += 1
        pixels[:, 0, 1, 1] = 100 + torch.arange(27)
        return ImagePool.of(pixels.to(torch.uint8), classes, self.class_names(split))


@pytest.mark.parametrize("rotations", [False, True])
def test_names_and_turns_are_those_of_the_images(rotations: bool) -> None:
    tasks = Numbered(rotations)
    for number in (0, 1, 12345):
        query = tasks.sample("test", [number], seed=3).query
        seen = []
        for image in query.inputs[0, :, 0]:
            name = f"test {int(image.min()) // 2}"
            odd = [bool((side % 2).all()) for side in (image[0], image[:, 0], image[-1], image[:, -1])]
            quarters = odd.index(True)  # counterclockwise
            seen.append(name + (f", turned {90 * quarters}°" if quarters else ""))
        assert tasks.classes_of("test", number, seed=3) == seen
        assert query.targets[0].tolist() == [0, 1, 2, 3]
    every = {name for number in range(20) for name in tasks.classes_of("test", number, seed=3)}
    assert any("turned 270°" in name for name in every) == rotations
