"""Task number i is a pure function of (seed, split, i), for every distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets_told import Told
from numbered_tasks import Numbered
from tables import written
from torch.utils import _pytree as pytree

from litmaml.data import Augment, DatasetTasks, Episode, Glyphs, Sinusoid, TableTasks, TaskDistribution
from litmaml.randomness import task_stream, task_streams
from litmaml.tasks import SPLITS, Split, Tasks, select, stacks_of, tensors_of

MAKERS: dict[str, Callable[[Path], TaskDistribution]] = {
    "sinusoid": lambda cache: Sinusoid(Episode(shots=3, queries=2, support_batches=2, hessian_batches=2), noise=0.1),
    "images": lambda cache: Numbered(train=Episode(ways=3, shots=2, queries=3), rotations=True, affine=1.0),
    "images, augmented": lambda cache: Numbered(
        train=Episode(ways=3, shots=2, queries=3), augment=Augment(crop=1, flip=True, colour=0.4)
    ),
    "images, fresh batches": lambda cache: Numbered(
        train=Episode(ways=3, queries=3, support_batches=2, hessian_batches=2)
    ),
    "table": lambda cache: TableTasks(
        str(written(cache / "drawn.csv", tasks=9, rows=12)), ["x*"], ["y"], "who", train=Episode(shots=3, queries=4)
    ),
    "table of classes": lambda cache: TableTasks(
        str(written(cache / "classes.csv", tasks=30, rows=40)),
        *(["x*"], ["kind"], "who", "classification"),
        train=Episode(shots=2, queries=2, support_batches=2, hessian_batches=2),
    ),
    "dataset": lambda cache: DatasetTasks(Told(), train=Episode(ways=3, shots=2, queries=3, support_batches=2)),
    "dataset, read as it is drawn": lambda cache: DatasetTasks(
        Told(), in_memory=False, train=Episode(ways=3, shots=2, queries=3)
    ),
    "table, in order": lambda cache: TableTasks(
        str(written(cache / "ordered.csv", tasks=30, rows=30)),
        *(["x*"], ["y"], "who"),
        order="when",
        train=Episode(shots=3, queries=2, support_batches=2, hessian_batches=2),
    ),
    "glyphs": lambda cache: Glyphs(Episode(ways=5, shots=1, queries=3), cache_dir=str(cache)),
}


@pytest.fixture(params=MAKERS)
def tasks(request: pytest.FixtureRequest, cache_dir: Path) -> TaskDistribution:
    return MAKERS[request.param](cache_dir)


def same(one: Tasks, other: Tasks) -> bool:
    leaves, other_leaves = pytree.tree_leaves(one), pytree.tree_leaves(other)
    return len(leaves) == len(other_leaves) and all(
        (a is None and b is None) or torch.equal(a, b) for a, b in zip(leaves, other_leaves, strict=True)
    )


def sampled(tasks: TaskDistribution, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
    """All of one size."""
    (stack,) = stacks_of(tasks.sample(split, numbers, seed))
    return stack


def test_a_task_is_the_same_in_every_batch_and_at_any_time(tasks: TaskDistribution) -> None:
    together = sampled(tasks, "train", range(6), seed=7)
    torch.manual_seed(1)
    assert same(sampled(tasks, "train", [4, 1, 4], seed=7), select(together, [4, 1, 4]))
    assert same(sampled(tasks, "train", [5], seed=7), select(together, [5]))


@pytest.mark.parametrize(("split", "number", "seed"), [("val", 0, 7), ("train", 1, 7), ("train", 0, 8)])
def test_another_split_number_or_seed_is_another_task(
    tasks: TaskDistribution, split: Split, number: int, seed: int
) -> None:
    one = sampled(tasks, "train", [0], seed=7)
    other = sampled(tasks, split, [number], seed=seed)
    assert not any(map(torch.equal, tensors_of(one.query.inputs), tensors_of(other.query.inputs)))


def test_the_shape_is_as_promised(tasks: TaskDistribution) -> None:
    stack = sampled(tasks, "train", range(4), seed=0)
    rendered = tasks.render(stack)
    assert stack.numbers.tolist() == [0, 1, 2, 3]
    assert stack.numbers.dtype == torch.int64
    sizes = tasks.sizes("train")
    assert len(stack.support) == sizes.support_batches
    assert len(stack.hessian or ()) == sizes.hessian_batches
    assert (stack.hessian is None) == (sizes.hessian_batches == 0)
    for batch in (*rendered.support, rendered.query, *(rendered.hessian or ())):
        assert isinstance(batch.inputs, torch.Tensor)
        assert batch.inputs.dtype == torch.get_default_dtype()
        assert batch.inputs.shape[:2] == batch.targets.shape[:2]
        assert len(batch.inputs) == 4


def test_rendering_follows_the_default_dtype(tasks: TaskDistribution) -> None:
    stack = sampled(tasks, "train", range(2), seed=0)
    single = tasks.render(stack)
    torch.set_default_dtype(torch.float64)
    try:
        double = tasks.render(sampled(tasks, "train", range(2), seed=0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.query.inputs.dtype == torch.float64
    torch.testing.assert_close(double.query.inputs.float(), single.query.inputs, rtol=1e-4, atol=1e-4)


def test_the_description_is_plain(tasks: TaskDistribution) -> None:
    described = tasks.describe("test")
    assert described["split"] == "test"
    assert all(type(value) in (int, float, str, bool) for value in described.values())


def test_the_streams_of_two_tasks_have_nothing_in_common() -> None:
    streams = [task_stream(seed, split, n) for seed in (0, 1) for split in SPLITS for n in range(50)]
    drawn = torch.cat([torch.from_numpy(stream.random(1000)) for stream in streams])
    assert len(drawn.unique()) == len(drawn)


def test_a_stream_is_that_of_a_new_generator_whatever_was_drawn_before() -> None:
    for number, stream in zip((5, 0, 2**40), task_streams(3, "val", (5, 0, 2**40)), strict=True):
        key, counter = np.array([3, 1], dtype=np.uint64), np.array([0, 0, 0, number], dtype=np.uint64)
        fresh = np.random.Generator(np.random.Philox(key=key, counter=counter))
        assert stream.integers(7, size=3).tolist() == fresh.integers(7, size=3).tolist()
        assert stream.random(5).tolist() == fresh.random(5).tolist()


def test_negative_seeds_and_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="seed: has to be at least 0, got -1"):
        task_stream(-1, "train", 0)
    with pytest.raises(ValueError, match="task number: has to be at least 0, got -3"):
        Sinusoid().sample("train", [-3], seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": -0.1}, "noise must not be negative, got -0.1"),
        ({"noise": float("nan")}, "noise must not be negative, got nan"),
    ],
)
def test_wrong_noise_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sinusoid(**options)  # type: ignore[arg-type]
