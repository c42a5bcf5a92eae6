"""Which images a task is made of, and what they are turned into."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from numbered_tasks import Numbered

from litmaml.data import Episode, ImageFormat
from litmaml.data.affine import random_affine
from litmaml.tasks import Batch, Split


def contents(batch: Batch, task: int) -> list[tuple[int, int, int]]:
    """(label, class, image) of what is in a batch."""
    images = batch.inputs["images"] if isinstance(batch.inputs, dict) else batch.inputs
    pixels = images[task, :, 0, 0]
    labels = batch.targets[task].tolist()
    return [(label, int(image[0]), int(image[1])) for label, image in zip(labels, pixels, strict=True)]


def test_a_task_has_its_ways_shots_and_queries_and_shares_no_image() -> None:
    tasks = Numbered(train=Episode(ways=5, shots=3, queries=4)).sample("train", range(200), seed=0)
    assert tasks.support[0].inputs.shape == (200, 15, 1, 4, 4)
    assert tasks.support[0].inputs.dtype == torch.uint8
    assert tasks.query.inputs.shape == (200, 20, 1, 4, 4)
    for task in range(200):
        support, query = contents(tasks.support[0], task), contents(tasks.query, task)
        assert Counter(label for label, _, _ in support) == dict.fromkeys(range(5), 3)
        assert Counter(label for label, _, _ in query) == dict.fromkeys(range(5), 4)
        assert len({(label, kind) for label, kind, _ in support + query}) == 5, "a label is a class"
        assert len({*support, *query}) == 35, "no image comes twice"


def test_classes_and_images_are_drawn_evenly() -> None:
    tasks = Numbered(classes=6, images=4, train=Episode(ways=2, shots=1, queries=2)).sample(
        "train", range(3000), seed=0
    )
    kinds = Counter(kind for task in range(3000) for _, kind, _ in contents(tasks.support[0], task))
    firsts = Counter(contents(tasks.support[0], task)[0][1] for task in range(3000))
    images = Counter(image for task in range(3000) for _, _, image in contents(tasks.support[0], task))
    for counts, expected in ((kinds, 1000), (firsts, 500), (images, 1500)):
        assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values()), counts
    assert (len(kinds), len(firsts), len(images)) == (6, 6, 4)


def test_a_large_class_is_drawn_from_evenly_too() -> None:
    distribution = Numbered(classes=2, images=[200, 7], train=Episode(ways=2, shots=1, queries=2))
    tasks = distribution.sample("train", range(2000), seed=0)
    drawn = [contents(batch, task) for batch in (tasks.support[0], tasks.query) for task in range(2000)]
    assert all(image < 7 for batch in drawn for _, kind, image in batch if kind == 1)
    large = Counter(image for batch in drawn for _, kind, image in batch if kind == 0)
    assert len(large) == 200
    support = [image for batch in drawn[:2000] for _, kind, image in batch if kind == 0]
    assert abs(sum(support) / len(support) - 99.5) < 8, "the support is no better drawn than the query"
    assert all(abs(count - 30) < 30 for count in large.values())


def test_fresh_batches_are_disjoint_while_images_last() -> None:
    distribution = Numbered(images=9, train=Episode(ways=3, shots=1, queries=4, support_batches=3, hessian_batches=2))
    tasks = distribution.sample("train", range(50), seed=0)
    for task in range(50):
        batches = [contents(batch, task) for batch in (*tasks.support, *(tasks.hessian or ()), tasks.query)]
        assert len({image for batch in batches for image in batch}) == 3 * 9


def test_fresh_batches_begin_again_but_never_touch_the_query() -> None:
    distribution = Numbered(images=6, train=Episode(ways=3, shots=2, queries=3, support_batches=4))
    tasks = distribution.sample("train", range(50), seed=0)
    for task in range(50):
        batches = [contents(batch, task) for batch in tasks.support]
        query = contents(tasks.query, task)
        assert all(len({*batch}) == 6 for batch in batches)
        assert len({image for batch in batches for image in batch}) == 9
        assert not {image for batch in batches for image in batch} & {*query}


@pytest.mark.parametrize(("images", "shots", "queries"), [(4, 1, 15), (4, 5, 15), (2, 5, 5), (12, 1, 15), (3, 2, 2)])
def test_drawn_anew_images_come_again_but_not_across_support_and_query(images: int, shots: int, queries: int) -> None:
    class Drawn(Numbered):
        drawn_anew = True

    distribution = Drawn(images=images, train=Episode(ways=3, shots=shots, queries=queries), affine=0.5)
    tasks = distribution.sample("test", range(50), seed=0)
    assert "jitter" in tasks.query.inputs, "they are changed in every split"
    used = set()
    for task in range(50):
        support, query = {*contents(tasks.support[0], task)}, {*contents(tasks.query, task)}
        assert not support & query
        used |= {len(support | query)}
    assert used == {3 * min(images, shots + queries)}, "and none is left out"


def test_test_ways_shots_and_queries_are_for_validation_and_test() -> None:
    distribution = Numbered(train=Episode(ways=5, shots=1, queries=2), test=Episode(ways=3, shots=2, queries=4))
    shapes = {split: distribution.sample(split, [0], 0) for split in ("train", "val", "test")}
    assert shapes["train"].support[0].inputs.shape[1] == 5
    assert shapes["train"].query.inputs.shape[1] == 10
    for split in ("val", "test"):
        assert shapes[split].support[0].inputs.shape[1] == 6
        assert shapes[split].query.inputs.shape[1] == 12
        assert {"ways": 3, "shots": 2, "queries": 4}.items() <= distribution.describe(split).items()


def test_rotated_classes_turn_all_their_images_alike() -> None:
    distribution = Numbered(train=Episode(ways=4, shots=2, queries=3), rotations=True)
    tasks = distribution.sample("test", range(300), seed=0)
    turns: Counter[int] = Counter()
    for task in range(300):
        seen: dict[int, int] = {}
        images = torch.cat([tasks.support[0].inputs[task], tasks.query.inputs[task]])
        images[..., 1:3, 1:3] = 0
        labels = torch.cat([tasks.support[0].targets[task], tasks.query.targets[task]])
        for image, label in zip(images, labels, strict=True):
            if image.sum() > 0:  # class 0's image 0 is blank
                turn = next(k for k in range(4) if image.rot90(-k, (1, 2))[0, 0, :2].sum() == image.sum())
                assert seen.setdefault(int(label), turn) == turn
        turns.update(seen.values())
    assert all(abs(turns[k] - 300) < 80 for k in range(4)), turns


def test_only_training_images_are_augmented() -> None:
    distribution = Numbered(affine=1.0, train=Episode(queries=2))
    assert {*distribution.sample("train", [0], 0).query.inputs} == {"images", "jitter"}
    assert isinstance(distribution.sample("val", [0], 0).query.inputs, torch.Tensor)
    assert isinstance(Numbered(train=Episode(queries=2)).sample("train", [0], 0).query.inputs, torch.Tensor)


def test_rendering_scales_inverts_and_normalises() -> None:
    distribution = Numbered(train=Episode(ways=2, queries=1))
    distribution.image_format = ImageFormat(4, invert=True, mean=0.5, std=2.0)
    tasks = distribution.sample("test", [0], 0)
    expected = ((1 - tasks.query.inputs.float() / 255) - 0.5) / 2
    torch.testing.assert_close(distribution.render(tasks).query.inputs, expected)


def test_an_affine_change_of_a_half_is_none() -> None:
    images = torch.rand(3, 2, 1, 9, 9)
    torch.testing.assert_close(random_affine(images, torch.full((3, 2, 5), 0.5), 1.0), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("number", "row", "column"), [(3, 4, 2), (4, 2, 4)])
def test_an_affine_change_shifts_each_image_by_its_own_amount(number: int, row: int, column: int) -> None:
    images = torch.zeros(2, 1, 9, 9)
    images[:, 0, 4, 4] = 1
    uniform = torch.full((2, 5), 0.5)
    # 2 pixels of 9 are 4/9 of a half width; 0.16 is the limit at strength 1.
    uniform[1, number] = 0.5 + 0.5 * (4 / 9) / 0.16 / 3
    moved = random_affine(images, uniform, 3.0)
    assert moved[0, 0, 4, 4] == 1
    assert moved[1, 0].argmax() == row * 9 + column


def test_an_affine_change_turns_by_its_angle() -> None:
    image = torch.zeros(1, 1, 61, 61)
    image[0, 0, 30, 50:53] = 1  # to the right of the centre
    uniform = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.5]])
    mass = random_affine(image, uniform, 3.0)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(61.0) - 30, torch.arange(61.0) - 30, indexing="ij")
    angle = torch.atan2((mass * rows).sum(), (mass * columns).sum())
    assert abs(abs(torch.rad2deg(angle).item()) - 45) < 1


def test_more_ways_than_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.ways: the split train has 12 classes, got 13; choose at most 12 or"):
        Numbered(train=Episode(ways=13)).load("train")
    with pytest.raises(ValueError, match=r"test\.ways: the split val has 12 classes, got 13"):
        Numbered(train=Episode(ways=2), test=Episode(ways=13)).load("val")
    with pytest.raises(ValueError, match=r"train\.ways: the split test has 12 classes, got 13"):
        Numbered(train=Episode(ways=13)).load("test")


def test_classes_in_two_splits_are_refused_and_named() -> None:
    class Leaking(Numbered):
        def class_names(self, split: Split) -> list[str]:
            return [f"{split}{k}" for k in range(11)] + ["Ж shared" if split != "val" else "other"]

    with pytest.raises(ValueError, match="splits train and test share 1 classes: Ж shared"):
        Leaking(train=Episode(ways=2, queries=2)).load("val")


def test_classes_with_too_few_images_are_refused_and_named() -> None:
    distribution = Numbered(classes=4, images=[10, 3, 10, 2], train=Episode(ways=2, shots=1, queries=3))
    with pytest.raises(ValueError, match=r"shots \+ queries = 1 \+ 3 .* fewer: train1 \(3\), train3 \(2\)"):
        distribution.load("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affine": -1.0}, "affine must lie between 0"),
        ({"affine": float("nan")}, "affine must lie between 0"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Numbered(**options)
