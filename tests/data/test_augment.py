"""Moved, mirrored and recoloured images: what they are, of whom, and that nothing else changes by them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbered_tasks import Numbered
from PIL import Image
from torch import Tensor

from litmaml.data import Augment, Episode, ImageFolderTasks, ImageFormat, TaskDataModule
from litmaml.data.affine import random_affine
from litmaml.data.augment import moved, recoloured
from litmaml.tasks import Tasks, select, tensors_of

ALL = Augment(crop=1, flip=True, colour=0.4)


def numbered(**options: Any) -> Numbered:
    return Numbered(train=Episode(ways=3, shots=2, queries=3), **options)


@pytest.mark.parametrize(
    ("down", "across", "flip", "expected"),
    [
        (0, 0, False, [[1, 2, 3], [4, 5, 6]]),
        (0, 0, True, [[3, 2, 1], [6, 5, 4]]),
        (1, 0, False, [[4, 5, 6], [4, 5, 6]]),
        (0, 1, False, [[2, 3, 3], [5, 6, 6]]),
        (-1, -2, False, [[1, 1, 1], [1, 1, 1]]),
        (0, 1, True, [[3, 3, 2], [6, 6, 5]]),
    ],
)
def test_a_small_image_is_cut_where_it_is_said_then_mirrored(
    down: int, across: int, flip: bool, expected: list[list[int]]
) -> None:
    image = torch.tensor([[[1, 2, 3], [4, 5, 6]]], dtype=torch.uint8)
    found = moved(image, torch.tensor(down), torch.tensor(across), torch.tensor(flip))
    assert found.dtype == torch.uint8
    assert found.tolist() == [expected]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_images_are_padded_by_their_border_and_cut_each_at_its_own_place(dtype: torch.dtype) -> None:
    pad, images = 4, torch.randint(256, (5, 7, 3, 9, 11), dtype=torch.uint8).to(dtype)
    down, across = torch.randint(-pad, pad + 1, (2, 5, 7))
    flip = torch.rand(5, 7) < 0.5
    found = moved(images, down, across, flip)
    assert (found.dtype, found.shape) == (dtype, images.shape)
    for task in range(5):
        for k in range(7):
            padded = np.pad(images[task, k].numpy(), ((0, 0), (pad, pad), (pad, pad)), mode="edge")
            top, left = pad + int(down[task, k]), pad + int(across[task, k])
            cut = padded[:, top : top + 9, left : left + 11]
            assert (found[task, k].numpy() == (cut[..., ::-1] if flip[task, k] else cut)).all()


def by_torchvision(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """One image (C, H, W), by the formulas of torchvision.transforms.functional, adjust_brightness and so on."""

    def blend(one: Tensor, other: Tensor, ratio: float) -> Tensor:
        return (ratio * one + (1.0 - ratio) * other).clamp(0, 1)

    def grey(image: Tensor) -> Tensor:
        if len(image) == 1:
            return image
        r, g, b = image
        return (0.2989 * r + 0.587 * g + 0.114 * b)[None]

    image = blend(image, torch.zeros_like(image), brightness)
    image = blend(image, torch.mean(grey(image), dim=(-3, -2, -1), keepdim=True), contrast)
    return image if len(image) == 1 else blend(image, grey(image), saturation)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", ["brightness", "contrast", "saturation", "all"])
def test_light_and_colour_are_torchvisions(which: str, dtype: torch.dtype, channels: int) -> None:
    images = torch.rand(4, 6, channels, 8, 7, dtype=dtype)
    kept = images.clone()
    factors = torch.rand(3, 4, 6, dtype=dtype) * 2
    if which != "all":
        place = ["brightness", "contrast", "saturation"].index(which)
        factors[[k for k in range(3) if k != place]] = 1
    found = recoloured(images, *factors)
    wanted = torch.stack(
        [torch.stack([by_torchvision(images[i, k], *factors[:, i, k].tolist()) for k in range(6)]) for i in range(4)]
    )
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(images, kept), "what was given stays as it is"
    assert bool(((found - images).abs() > 0.01).any()) == (which != "saturation" or channels == 3)


def test_extreme_factors_give_black_mean_grey_and_greys() -> None:
    image = torch.tensor([0.2, 0.4, 0.9, 0.5, 0.1, 0.3]).view(3, 1, 2)
    one, none = torch.tensor(1.0), torch.tensor(0.0)
    assert torch.equal(recoloured(image, one, one, one), image)
    assert not recoloured(image, none, one, one).any()
    left, right = 0.2989 * 0.2 + 0.587 * 0.9 + 0.114 * 0.1, 0.2989 * 0.4 + 0.587 * 0.5 + 0.114 * 0.3
    grey = torch.tensor([[left, right]]).expand(3, 1, 2)
    torch.testing.assert_close(recoloured(image, one, one, none), grey)
    torch.testing.assert_close(recoloured(image, one, none, one), torch.full((3, 1, 2), (left + right) / 2))


def test_random_numbers_become_places_sides_and_factors() -> None:
    images = torch.arange(81, dtype=torch.uint8).view(1, 9, 9).expand(1800, 1, 9, 9)
    uniform = torch.rand(1800, 6)
    uniform[0], uniform[1] = 0, 1 - 2**-24
    uniform[2, :2] = torch.tensor([0.0, 0.99])
    centre = Augment(crop=2)(images, uniform)[:, 0, 4, 4].tolist()
    assert centre[:3] == [2 * 9 + 2, 6 * 9 + 6, 2 * 9 + 6]
    found = Counter((place // 9 - 4, place % 9 - 4) for place in centre)
    assert {*found} == {(down, across) for down in range(-2, 3) for across in range(-2, 3)}
    assert all(abs(count - 72) < 5 * 72**0.5 for count in found.values()), "each place as often"
    mirrored = Augment(flip=True)(images, uniform)[:, 0, 0, 0] == 8
    assert mirrored.tolist() == (uniform[:, 2] < 0.5).tolist()
    grey = torch.full((1800, 1, 2, 2), 100, dtype=torch.uint8)
    lit = Augment(colour=0.5)(grey, uniform)[:, 0, 0, 0]
    torch.testing.assert_close(lit, 100 / 255 * (0.5 + uniform[:, 3]))


def test_nothing_is_changed_by_default_and_halves_leave_the_colours() -> None:
    pixels = torch.randint(256, (3, 2, 3, 5, 5), dtype=torch.uint8)
    assert torch.equal(Augment()(pixels, torch.rand(3, 2, 6)), pixels)
    assert torch.equal(Augment(colour=0.4)(pixels, torch.full((3, 2, 6), 0.5)), pixels / 255)
    tasks = numbered(augment=Augment()).sample("train", [0], 0)
    assert isinstance(tasks.query.inputs, Tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_colours_are_of_the_default_dtype(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        changed = ALL(torch.randint(256, (4, 3, 5, 5), dtype=torch.uint8), torch.rand(4, 6, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    assert changed.dtype == dtype


def test_only_training_images_are_changed_also_where_every_use_is_a_new_drawing() -> None:
    class Drawn(Numbered):
        drawn_anew = True

    tasks = Drawn(affine=0.5, augment=ALL, train=Episode(ways=3, queries=3))
    assert {*tasks.sample("train", [0], 0).query.inputs} == {"images", "jitter", "augment"}
    assert {*tasks.sample("test", [0], 0).query.inputs} == {"images", "jitter"}
    described = {split: tasks.describe(split) for split in ("train", "val")}
    assert {"augment.crop": 1, "augment.flip": True, "augment.colour": 0.4}.items() <= described["train"].items()
    assert not any("augment" in name for name in described["val"])


def test_what_is_drawn_and_the_affine_changes_stay_the_same() -> None:
    plain = numbered(affine=1.0, rotations=True).sample("train", range(5), seed=3)
    changed = numbered(affine=1.0, rotations=True, augment=ALL).sample("train", range(5), seed=3)
    for one, other in zip((*plain.support, plain.query), (*changed.support, changed.query), strict=True):
        assert torch.equal(one.inputs["images"], other.inputs["images"])
        assert torch.equal(one.inputs["jitter"], other.inputs["jitter"])
        assert torch.equal(one.targets, other.targets)
    drawn = torch.cat([batch.inputs["augment"].flatten() for batch in (*changed.support, changed.query)])
    assert len(drawn.unique()) > 0.99 * len(drawn), "each image has numbers of its own"


def test_images_are_changed_then_normalised_then_turned() -> None:
    tasks = numbered(affine=1.0, augment=ALL)
    tasks.image_format = ImageFormat(4, invert=True, mean=0.5, std=2.0)
    sampled = tasks.sample("train", range(3), seed=0)
    inputs = sampled.query.inputs
    changed = ALL(inputs["images"], inputs["augment"])
    wanted = random_affine(((1 - changed) - 0.5) / 2, inputs["jitter"], 1.0)
    torch.testing.assert_close(tasks.render(sampled).query.inputs, wanted)
    assert not torch.allclose(changed, inputs["images"] / 255, atol=0.001)


def same(one: Tasks, other: Tasks) -> bool:
    pairs = zip(tensors_of((*one.support, one.query)), tensors_of((*other.support, other.query)), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs)


def test_a_task_is_rendered_the_same_in_whatever_stack_it_comes() -> None:
    """As ranks do, which share out the tasks of a step."""
    tasks = numbered(affine=1.0, augment=ALL)
    whole = tasks.render(tasks.sample("train", range(6), seed=7))
    for numbers in ([4], [5, 1], [0, 2, 3]):
        assert same(tasks.render(tasks.sample("train", numbers, seed=7)), select(whole, numbers))


def test_workers_serve_the_same_images(tmp_path: Path) -> None:
    for name in range(10):
        (tmp_path / f"{name}").mkdir()
        for k in range(5):
            shades = np.random.default_rng([name, k]).integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(shades).save(tmp_path / f"{name}" / f"{k}.png")

    def served(workers: int) -> list[Tasks]:
        tasks = ImageFolderTasks(str(tmp_path), ImageFormat(8, 3), train=Episode(ways=2, queries=3), augment=ALL)
        module = TaskDataModule(tasks, meta_batch=3, train_tasks=6, num_workers=workers)
        assert module.hparams["tasks"]["init_args"]["augment"]["init_args"] == {"crop": 1, "flip": True, "colour": 0.4}
        module.setup("fit")
        return [tasks.render(stack) for stack in module.train_dataloader() if isinstance(stack, Tasks)]

    here, there = served(0), served(2)
    assert len(here) == len(there) == 2
    assert all(map(same, here, there))
    assert not same(*here)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop": -1}, r"augment\.crop: has to be a whole number of pixels, 0 or more, got -1; give"),
        ({"crop": 0.5}, r"augment\.crop: has to be a whole number of pixels, 0 or more, got 0\.5; give"),
        ({"crop": True}, r"augment\.crop: has to be a whole number of pixels, 0 or more, got True; give"),
        ({"colour": -0.1}, r"augment\.colour: must lie between 0 \(none\) and 1, got -0\.1; give"),
        ({"colour": 1.5}, r"augment\.colour: must lie between 0 \(none\) and 1, got 1\.5; give"),
        ({"colour": float("nan")}, r"augment\.colour: must lie between 0 \(none\) and 1, got nan; give"),
    ],
)
def test_wrong_changes_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment(**fields)


def test_a_crop_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"augment\.crop: must be smaller than the images, of 4 pixels, got 4; give"):
        numbered(augment=Augment(crop=4))
