"""What surrounds the meta-gradient: sampling of tasks, the epoch loop of ``fit``, several processes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import TensorDataset

from benchmarks.measure import spread
from litmaml.data import Episode, TaskDataModule
from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat, ImagePool
from litmaml.data.interop import import_learn2learn
from litmaml.engine.allocator import keep_freed_memory
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import Conv4
from litmaml.tasks import Split

CLASSES, EACH, WAYS = 1100, 20, 5


class RandomImages(ImageTasks):
    """Noise in the shape of Omniglot's training split."""

    def __init__(self, rotations: bool = True) -> None:
        super().__init__(ImageFormat(28), Episode(ways=WAYS, shots=1, queries=15), rotations=rotations)

    def class_names(self, split: Split) -> Sequence[str]:
        return [f"{split} {k}" for k in range(CLASSES)]

    def read_pool(self, split: Split) -> ImagePool:
        pixels = torch.randint(256, (CLASSES * EACH, 1, 28, 28), dtype=torch.uint8)
        return ImagePool.of(pixels, torch.arange(CLASSES).repeat_interleave(EACH), self.class_names(split))


def ours_sampling(batch: int, rendered: bool) -> Callable[[], object]:
    """A batch of 5-way 1-shot tasks with 15 queries: as bytes, which is how it comes to the device, or as floats."""
    keep_freed_memory()  # as in the process that trains
    tasks = RandomImages(rotations=False)  # learn2learn's NWays and KShots turn nothing
    tasks.load("train")
    drawn = 0

    def run() -> object:
        nonlocal drawn
        drawn += batch
        sampled = tasks.sample("train", range(drawn, drawn + batch), 0)
        return tasks.render(sampled) if rendered else sampled

    return run


def learn2learn_sampling(batch: int) -> Callable[[], object]:
    """The same by learn2learn's NWays and KShots, from float images in memory."""
    keep_freed_memory()
    library = import_learn2learn()
    images = torch.rand(CLASSES * EACH, 1, 28, 28)
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    data = library.data.MetaDataset(TensorDataset(images, labels))
    transforms = library.data.transforms
    tasks = library.data.Taskset(
        data,
        task_transforms=[
            transforms.NWays(data, WAYS),
            transforms.KShots(data, 1 + 15),
            transforms.LoadData(data),
            transforms.RemapLabels(data),
            transforms.ConsecutiveLabels(data),
        ],
        num_tasks=-1,
    )
    return lambda: [tasks.sample() for _ in range(batch)]


class _Clock(Callback):
    """Times the steps of ``fit`` and, between them and apart, the meta-gradient alone on the same tasks."""

    def __init__(self, alone: bool) -> None:
        self.also_alone = alone
        self.steps: list[float] = []
        self.alone: list[float] = []
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.steps.append(time.perf_counter() - self._mark)
        if self.also_alone:
            assert isinstance(pl_module, MetaLearner)
            began = time.perf_counter()
            pl_module.meta_gradient(batch)
            self.alone.append(time.perf_counter() - began)
        self._mark = time.perf_counter()


def fit(processes: int, device: str, alone: bool, steps: int, meta_batch: int = 16) -> dict[str, Any] | None:
    """Seconds of a step of ``fit`` on Conv4, N = 1, and of the meta-gradient alone; tasks a second.

    With several processes the script starts itself again; None in those.
    """
    warnings.filterwarnings("ignore")
    clock = _Clock(alone)
    trainer = Trainer(
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    torch.manual_seed(0)
    module = MetaLearner(Conv4(WAYS), inner_optimizer=SGD(lr=0.4))
    trainer.fit(module, TaskDataModule(RandomImages(), meta_batch=meta_batch, train_tasks=meta_batch * 1000))
    if not trainer.is_global_zero:
        return None
    steps_taken = spread(clock.steps[2:])
    return {
        "step": steps_taken,
        "alone": spread(clock.alone[2:]) if alone else None,
        "tasks_per_second": meta_batch * processes / steps_taken["median"],
    }
