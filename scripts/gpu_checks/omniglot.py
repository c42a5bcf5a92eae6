"""The paper's Omniglot, 5-way 1-shot, on the device: whole steps as one CUDA graph, and ``fit`` as users run it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from gpu_checks.parts import Case, Setting
from litmaml.data import Episode
from litmaml.engine.cuda_graph import recorded
from litmaml.engine.program import Program
from litmaml.inner import SGD
from litmaml.inner.loop import InnerLoop
from litmaml.models import Conv4
from litmaml.outer import SecondOrder
from litmaml.outer.compiled import as_function
from litmaml.outer.meta_gradient import MetaGradientOf
from litmaml.tasks import Batch, Tasks, tensors_of, tree_map

TASKS, WAYS, QUERIES, RATE, STEPS, OUTER_RATE = 32, 5, 5, 0.4, 60_000, 1e-3
"""Of Finn et al. 2017; they do not state the queries of training."""
TEST_TASKS, TEST_QUERIES, TEST_STEPS = 1000, 15, 3
_RESERVE = 25
"""Seconds that are kept for the test."""


def _places(tasks: Tasks) -> list[Tensor]:
    """The tasks' tensors, each number in a place of its own, as a graph's own places have them."""
    return [part.contiguous() for part in tensors_of(tasks)]


class Sampler:
    """Draws training tasks on the device: classes, each turned by its own quarter turns, and drawings of each."""

    def __init__(self, pixels: Tensor, classes: int, to_float: Callable[[Tensor], Tensor]) -> None:
        turned = [torch.rot90(pixels, quarter, (-2, -1)) for quarter in range(4)]
        self._pool = torch.stack(turned).unflatten(1, (classes, -1))
        self._to_float = to_float
        self._numbers = torch.arange(TASKS, device=pixels.device)
        self._labels = torch.arange(WAYS, device=pixels.device)

    def __call__(self) -> Tasks:
        _, classes, drawings = self._pool.shape[:3]
        device = self._pool.device
        chosen = torch.rand(TASKS, classes, device=device).topk(WAYS).indices
        quarters = torch.randint(4, (TASKS, WAYS), device=device)
        which = torch.rand(TASKS, WAYS, drawings, device=device).topk(1 + QUERIES).indices
        images = self._to_float(self._pool[quarters[..., None], chosen[..., None], which])

        def batch(part: Tensor) -> Batch:
            labels = self._labels.repeat_interleave(part.shape[2], output_size=WAYS * part.shape[2])
            return Batch(part.flatten(1, 2), labels.expand(TASKS, -1).contiguous())

        return Tasks((batch(images[:, :, :1]),), batch(images[:, :, 1:]), self._numbers)


class Training:
    """Outer steps of Adam; on a GPU each is the replay of one CUDA graph: tasks, meta-gradient and update."""

    def __init__(self, sampler: Sampler, loop: InnerLoop, device: torch.device, compile: bool) -> None:
        self._sampler, self._meta = sampler, MetaGradientOf(loop, SecondOrder(), 1, tasks_per_chunk=TASKS)
        self._weights = dict(loop.named_parameters())
        tasks = sampler()
        gradient = as_function(self._meta.of_chunk, [*self._weights], tasks)
        self._gradient = (
            Program(gradient, [*self._weights.values(), *_places(tasks)], loop)._compiled if compile else gradient
        )
        on_device = device.type == "cuda"
        self._adam = torch.optim.Adam(self._weights.values(), OUTER_RATE, capturable=on_device, fused=True)
        self.loss = torch.zeros((), device=device)
        self.step = self._step
        if on_device:
            graph, _ = recorded(self._step, device)
            self.step = graph.replay

    @torch.no_grad()
    def _step(self) -> None:
        weights = [weight.detach() for weight in self._weights.values()]
        losses, _, finite, *gradients = self._gradient(*weights, *_places(self._sampler()))
        for weight, gradient in zip(self._weights.values(), gradients, strict=True):
            # Where a number is not finite, no weight moves but by its momentum.
            weight.grad = torch.where(finite, gradient, 0.0)
        self._adam.step()
        self.loss.mul_(0.99).add_(losses.mean(), alpha=0.01)


def of_training(setting: Setting) -> Iterator[Case]:
    """For as long as the given time allows, up to the paper's 60,000 steps; then 1,000 test tasks."""
    if setting.data is not None:
        notes: dict[str, Any] = {}
        yield Case("5-way 1-shot, accuracy", 0.05, functools.partial(_train, setting, notes), notes)


def _train(setting: Setting, notes: dict[str, Any]) -> float:
    from litmaml.data import Omniglot  # which needs Pillow

    tasks = Omniglot(str(setting.data), train=Episode(ways=WAYS, queries=QUERIES), test=Episode(queries=TEST_QUERIES))
    began = time.perf_counter()
    tasks.prepare()
    pool = tasks.read_pool("train")
    tasks.load("test")
    notes["reading_seconds"] = round(time.perf_counter() - began, 2)
    torch.manual_seed(0)
    loop = InnerLoop(
        Conv4(WAYS, filters=4 if setting.small else 64).to(setting.device),
        nn.CrossEntropyLoss(),
        SGD(RATE),
        ["*"],
        1,
    )
    sampler = Sampler(pool.pixels.to(setting.device), len(pool), tasks.image_format.to_float)
    compiles = setting.device.type == "cuda" and setting.left > 2 * _RESERVE
    began = time.perf_counter()
    training = Training(sampler, loop, setting.device, compiles)
    notes |= {"compiled": compiles, "setting_up_seconds": round(time.perf_counter() - began, 2)}
    began, done = time.perf_counter(), 0
    curve: list[tuple[int, float, float, float | None]] = []
    while done < (20 if setting.small else STEPS) and setting.left > _RESERVE:
        for _ in range(10 if setting.small else 500):
            training.step()
            done += 1
        loss, used = float(training.loss), _utilisation(setting.device)
        curve.append((done, round(time.perf_counter() - began, 2), round(loss, 4), used))
    took = time.perf_counter() - began
    notes |= {
        "steps": done,
        "seconds": round(took, 2),
        "ms_per_step": round(1e3 * took / max(done, 1), 4),
        "tasks_per_s": round(TASKS * done / took, 1),
        "minutes_of_60000_steps": round(took / max(done, 1) * STEPS / 60, 2),
        "curve": curve[:: max(1, len(curve) // 40)],
    }
    accuracies = torch.cat(
        [_accuracies(loop, tasks, first, setting.device) for first in range(0, 10 if setting.small else TEST_TASKS, 10)]
    )
    half = 1.96 * float(accuracies.std(dim=0)[-1]) / len(accuracies) ** 0.5
    notes |= {"accuracy_by_step": [round(x, 5) for x in accuracies.mean(dim=0).tolist()], "interval": round(half, 5)}
    return 0.0 if setting.small else 1 - float(accuracies.mean(dim=0)[-1])


def _accuracies(loop: InnerLoop, source: Any, first: int, device: torch.device) -> Tensor:
    """Of ten test tasks (10, N + 1), on the CPU."""
    drawn: Tasks = source.sample("test", range(first, first + 10), 0)
    ready = source.render(tree_map(lambda part: part.to(device), drawn))
    rows = []
    for fast in loop.path(ready, TEST_STEPS):
        with torch.no_grad():
            right = loop.predict(fast, ready.query.inputs).argmax(-1) == ready.query.targets
        rows.append(right.float().mean(1).cpu())
    return torch.stack(rows, dim=1)


def _utilisation(device: torch.device) -> float | None:
    """Per cent of the last moments in which a kernel ran, as the driver counts; None where it cannot be asked."""
    try:
        return float(torch.cuda.utilization(device)) if device.type == "cuda" else None
    except Exception:  # without NVIDIA's package for Python, or on a driver that does not tell
        return None


def of_fit(setting: Setting) -> Iterator[Case]:
    """The same by ``fit``: Lightning's loop, tasks drawn on the CPU by worker processes."""
    if setting.data is not None:
        for compile in (False,) if setting.small else (False, True):
            notes: dict[str, Any] = {}
            name = "fit, compiled" if compile else "fit"
            yield Case(name, 0, functools.partial(_fit, setting, compile, notes), notes)


def _fit(setting: Setting, compile: bool, notes: dict[str, Any]) -> float:
    from lightning.pytorch import Callback, Trainer

    from litmaml import MetaLearner
    from litmaml.data import Omniglot, TaskDataModule

    warm, counted = (2, 4) if setting.small else (50, 1000)

    class Clock(Callback):
        """Times the steps after the first ones, until there are enough or ten seconds are over; then what they hold.

        late: Whether steps were looked at late, so that none waited for the device. alone: Seconds of a meta-gradient.
        """

        looks_at_weights = False
        began = ended = alone = 0.0
        steps = 0
        late = False

        def on_train_batch_end(self, trainer: Any, learner: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self._batch, self.late = batch, learner.late
            if trainer.global_step == warm:
                self.began = self._now()
            elif trainer.global_step > warm and (trainer.global_step - warm) % (counted // 4) == 0:
                self.ended, self.steps = self._now(), trainer.global_step - warm
                if self.steps >= counted or self.ended - self.began > 10:
                    trainer.should_stop = True

        def on_train_end(self, trainer: Any, learner: Any) -> None:
            count = max(4, warm)
            began = self._now()
            for _ in range(count):
                learner.meta_gradient(self._batch, wait=False)
            self.alone = (self._now() - began) / count

        def _now(self) -> float:
            if setting.device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter()

    clock = Clock()
    with TemporaryDirectory() as scratch:
        tasks = Omniglot(str(setting.data), train=Episode(ways=WAYS, queries=QUERIES))
        workers = 0 if setting.small else 4
        data = TaskDataModule(tasks, meta_batch=TASKS, train_tasks=16000, val_tasks=8, num_workers=workers)
        learner = MetaLearner(
            Conv4(WAYS, filters=4 if setting.small else 64), SGD(RATE), SecondOrder(), inner_steps=1, compile=compile
        )
        trainer = Trainer(
            default_root_dir=scratch,
            accelerator="gpu" if setting.device.type == "cuda" else "cpu",
            devices=1,
            max_steps=warm + counted,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[clock],
        )
        trainer.fit(learner, data)
    ms = 1e3 * (clock.ended - clock.began) / clock.steps
    notes |= {
        "steps": clock.steps,
        "ms_per_step": round(ms, 4),
        "tasks_per_s": round(1e3 * TASKS / ms, 1),
        "late": clock.late,
        "ms_of_meta_gradient": round(1e3 * clock.alone, 4),
        "steps_by_meta_gradients": round(ms / (1e3 * clock.alone), 3),
    }
    return 0.0 if clock.late == (setting.device.type == "cuda") else 1.0


FOLDER_HELP = "the folder with Omniglot's two archives; without it no training is timed"


def data_folder(path: Path | None) -> Path | None:
    """The folder, if Omniglot is there.

    Raises:
        FileNotFoundError: It is not.
    """
    if path is not None and not (path / "images_background.zip").is_file():
        raise FileNotFoundError(f"--data: there is no images_background.zip in {path}")
    return path
