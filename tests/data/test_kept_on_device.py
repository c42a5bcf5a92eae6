"""Images that are kept on the device: only their places are sent there, and the tasks are the same to the bit."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import image_sets
import pytest
import torch
from torch import Tensor

from litmaml.data import Augment, Episode, ImageFormat, ImageTable, MaskTasks, Mixture, TaskDataModule
from litmaml.data import image_tasks as module
from litmaml.data.image_tasks import ImageTasks
from litmaml.tasks import SPLITS, Split, Tasks, stacks_of, tensors_of

CPU = torch.device("cpu")
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "turned": {"rotations": True},
    "fresh batches": {"train": Episode(ways=2, shots=1, queries=1, support_batches=2, hessian_batches=2)},
    "changed": {"affine": 1.0, "augment": Augment(crop=2, flip=True, colour=0.4), "rotations": True},
}


def made(kind: str, root: Path, **options: Any) -> ImageTasks:
    image_format, episode = ImageFormat(8, 3), Episode(ways=2, shots=1, queries=2)
    settings: dict[str, Any] = {"image_format": image_format, "train": episode} | options
    if kind == "images":
        image_sets.folders(root, "train", "val", "test")
        return ImageTable(str(root), **settings)
    for path in root.rglob("*.jpg"):
        path.unlink()
    image_sets.folders(root, "train", "val", "test")
    for path in [*root.rglob("*.jpg")]:
        path.with_suffix(".png").write_bytes(path.read_bytes())
    return MaskTasks(str(root), **settings)


def raw(tasks: Tasks) -> set[torch.dtype]:
    return {part.dtype for part in tensors_of(tasks.support[0].inputs)}


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("way", WAYS)
def test_the_tasks_are_the_same_to_the_bit(way: str, kind: str, tmp_path: Path) -> None:
    tasks, kept = made(kind, tmp_path, **WAYS[way]), made(kind, tmp_path, **WAYS[way])
    for split in SPLITS:
        for each in (tasks, kept):
            each.load(split)
        kept.keep_on(split, CPU)
        one, other = (each.sample(split, [0, 5, 7], seed=3) for each in (tasks, kept))
        assert torch.uint8 in raw(one)
        assert torch.uint8 not in raw(other), "no image is sent"
        for mine, theirs in zip(tensors_of(tasks.render(one)), tensors_of(kept.render(other)), strict=True):
            assert torch.equal(mine, theirs)
        assert [*map(len, tasks.classes_of(split, 5, 3))] == [*map(len, kept.classes_of(split, 5, 3))]


def test_images_that_do_not_fit_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = made("images", tmp_path)
    tasks.load("train")
    size = tasks._pools["train"].pixels.nbytes
    monkeypatch.setattr(module, "_room", lambda device: size - 1)
    tasks.keep_on("train", CPU)
    assert torch.uint8 in raw(tasks.sample("train", [0], 0))
    monkeypatch.setattr(module, "_room", lambda device: size)
    tasks.keep_on("train", CPU)
    assert torch.uint8 not in raw(tasks.sample("train", [0], 0))


def test_images_move_to_the_device_of_the_next_run(tmp_path: Path) -> None:
    """On that of the last one they would be of no use, and take its memory."""
    tasks = made("images", tmp_path)
    tasks.load("train")
    for device in (CPU, torch.device("meta"), CPU):
        tasks.keep_on("train", device)
        kept = tasks._kept["train"]
        assert kept is not None
        assert kept.device == device


def test_a_worker_process_gets_no_images_of_the_device(tmp_path: Path) -> None:
    tasks = made("images", tmp_path)
    tasks.load("train")
    tasks.keep_on("train", CPU)
    worker = pickle.loads(pickle.dumps(tasks))
    assert worker._kept == {"train": None}
    sent = worker.sample("train", [3], 0)
    assert torch.uint8 not in raw(sent)
    first, *others = (
        tensors_of(each.render(sent)) for each in (tasks, worker, copy.copy(tasks), tasks.resized(Episode(queries=1)))
    )
    assert all(torch.equal(one, two) for other in others for one, two in zip(first, other, strict=True))


def test_the_data_module_keeps_images_on_a_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[Split, torch.device]] = []
    monkeypatch.setattr(ImageTable, "keep_on", lambda self, split, device: kept.append((split, device)))

    class OnGpu(TaskDataModule):
        def _on_cuda(self) -> bool:
            return True

    class FakeStrategy:
        root_device = torch.device("cuda", 1)

    class FakeTrainer:
        strategy, global_rank, world_size = FakeStrategy(), 0, 1

    tasks = made("images", tmp_path)
    for kind, keep, wanted in (
        (TaskDataModule, True, []),
        (OnGpu, False, []),
        (OnGpu, True, [("val", torch.device("cuda", 1))]),
    ):
        data = kind(tasks, meta_batch=1, train_tasks=1, val_tasks=1, keep_on_gpu=keep)
        data.trainer = FakeTrainer() if kind is OnGpu else None  # type: ignore[assignment]
        kept.clear()
        data.val_dataloader()
        assert kept == wanted


def test_batches_of_workers_are_those_of_one_process(tmp_path: Path) -> None:
    tasks = made("images", tmp_path, rotations=True)
    tasks.load("val")
    found: list[list[Tensor]] = []
    for workers in (0, 1):
        for keep in (False, True):
            if keep:
                tasks.keep_on("val", CPU)
            data = TaskDataModule(tasks, meta_batch=2, val_tasks=4, num_workers=workers)
            batches = [tasks.render(stack) for batch in data.val_dataloader() for stack in stacks_of(batch)]
            found.append([part for batch in batches for part in tensors_of(batch)])
        tasks._kept.clear()
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_the_sources_of_a_mixture_are_kept(tmp_path: Path) -> None:
    tasks, kept = (Mixture({"one": made("images", tmp_path), "two": made("images", tmp_path)}) for _ in range(2))
    for split in SPLITS:
        for each in (tasks, kept):
            for name in each.sources:
                each.sources[name].load(split)
        kept.keep_on(split, CPU)
        one, other = (stacks_of(each.sample(split, [0, 5, 7], seed=3)) for each in (tasks, kept))
        for mine, theirs in zip(one, other, strict=True):
            assert torch.uint8 in raw(mine)
            assert torch.uint8 not in raw(theirs), "no image is sent"
            for left, right in zip(tensors_of(tasks.render(mine)), tensors_of(kept.render(theirs)), strict=True):
                assert torch.equal(left, right)
