"""learn2learn 0.2.0."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from litmaml.data.interop import import_learn2learn
from peer_claims.claim import Figures, Peer
from peer_claims.problem import Sets, classes, gradient, largest, off

LEARN2LEARN = Peer(
    "learn2learn",
    "0.2.0",
    "learn2learn",
    "pip install --no-deps -r requirements/learn2learn.txt && pip install scipy requests tqdm gym torchvision",
)
WAYS = 5


class _Numbered(Dataset[tuple[Tensor, int]]):
    """Images whose first corner has the number of their class, one more than it, and else nothing."""

    def __init__(self, classes: int = 1623, each: int = 20, **_: Any) -> None:
        self.classes, self.each = classes, each

    def __len__(self) -> int:
        return self.classes * self.each

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        label = place // self.each
        image = torch.zeros(1, 4, 4)
        image[0, 0, 0] = label + 1.0
        return image, label


def _taskset(dataset: Any, more: Sequence[Any] = (), each: int = 2) -> Any:
    """Tasks of five classes, as learn2learn's benchmarks make them."""
    data = import_learn2learn().data
    parts = data.transforms
    drawn = [parts.FusedNWaysKShots(dataset, n=WAYS, k=each), parts.LoadData(dataset)]
    return data.Taskset(dataset, [*drawn, parts.RemapLabels(dataset), parts.ConsecutiveLabels(dataset), *more])


def _numbers(images: Tensor) -> list[int]:
    """The classes that images of ``_Numbered`` say that they are of, however they are turned."""
    return [round(number) - 1 for number in images.flatten(1).amax(1).tolist()]


@LEARN2LEARN.claim(lambda f: f["of the training split"] > 0.5 > f["of the test split"], needs=("torchvision", "gym"))
def learn2learn_omniglot_leak() -> Figures:
    """The tasksets for Omniglot draw from all classes: most classes in test tasks are those of training.

    Shares of the classes in 60 test tasks. The tasks are those of ``get_tasksets``; in place of the images are some
    that name their class, as many classes and images of each.
    """
    learn2learn = import_learn2learn()
    datasets = learn2learn.vision.datasets
    own, datasets.FullOmniglot = datasets.FullOmniglot, _Numbered
    try:
        with tempfile.TemporaryDirectory() as root:
            made = learn2learn.vision.benchmarks.get_tasksets("omniglot", WAYS, 2, WAYS, 2, root=root)
    finally:
        datasets.FullOmniglot = own
    tested = [number for _ in range(60) for number in {*_numbers(made.test.sample()[0])}]
    return {
        f"of the {name} split": len([number for number in tested if number in {*split.dataset.labels}]) / len(tested)
        for name, split in (("training", made.train), ("validation", made.validation), ("test", made.test))
    }


@LEARN2LEARN.claim(lambda f: f["with classes turned apart"] == 0, needs=("torchvision", "gym"))
def learn2learn_rotation() -> Figures:
    """``RandomClassRotation`` turns all classes of a task alike, by the rotation drawn for the last one.

    The share of 100 tasks whose five classes are not all turned alike; of independent rotations it were 0.996.
    """
    learn2learn = import_learn2learn()
    dataset = learn2learn.data.MetaDataset(_Numbered(40, 5))
    turned = learn2learn.vision.transforms.RandomClassRotation(dataset, [0.0, 90.0, 180.0, 270.0])
    tasks = _taskset(dataset, [turned])
    apart = sum(len({*tasks.sample()[0].flatten(1).argmax(1).tolist()}) > 1 for _ in range(100))
    return {"with classes turned apart": apart / 100, "expected": 1 - 0.25 ** (WAYS - 1)}


@LEARN2LEARN.claim(lambda f: f["equal after torch.manual_seed"] < 0.1 and f["equal after random.seed"] == 1)
def learn2learn_seeds() -> Figures:
    """Tasks are drawn from Python's generator: ``torch.manual_seed`` does not repeat them.

    Shares of ten tasks that are the same the second time.
    """
    found = {}
    tasks = _taskset(import_learn2learn().data.MetaDataset(_Numbered(200, 5)))
    for name, seed in (("torch.manual_seed", torch.manual_seed), ("random.seed", random.seed)):
        drawn = []
        for _ in range(2):
            seed(1)
            drawn.append([_numbers(tasks.sample()[0]) for _ in range(10)])
        found[f"equal after {name}"] = sum(a == b for a, b in zip(*drawn, strict=True)) / 10
    return found


@LEARN2LEARN.claim(
    lambda f: f["running mean of the model"] > 0.01 and f["of the next clone"] == f["running mean of the model"]
)
def learn2learn_running_statistics() -> Figures:
    """Clones share the running statistics of batch norm: each task leaves its own to the next, and to the model.

    From zero, after one task.
    """
    norm = nn.BatchNorm1d(2)
    maml = import_learn2learn().algorithms.MAML(nn.Sequential(norm, nn.Linear(2, 1)), lr=0.1)
    learner = maml.clone()
    learner.adapt(learner(torch.randn(8, 2) + 1).square().mean())
    return {
        "running mean of the model": largest(norm.running_mean),
        "of the next clone": largest(maml.clone().module[0].running_mean),
    }


class _Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


@LEARN2LEARN.claim(lambda f: f["MetaSGD"] > 0.01 and max(f["MAML"], f["MetaSGD, not tied"]) < 1e-10)
def learn2learn_tied_weights() -> Figures:
    """``MetaSGD`` adapts a weight that stands in two places in one of them only.

    Relative errors of the outer gradient by the model's weights, one inner step on four tasks: a second one raises,
    since the weights are then more than the rates.
    """
    algorithms, sets, found = import_learn2learn().algorithms, classes(), {}
    apart = _Tied()
    apart.second.weight = nn.Parameter(apart.first.weight.detach().clone())
    for name, kind, model in (
        ("MetaSGD", algorithms.MetaSGD, _Tied()),
        ("MAML", algorithms.MAML, _Tied()),
        ("MetaSGD, not tied", algorithms.MetaSGD, apart),
    ):
        learner, total = kind(model, lr=0.1), torch.zeros(())
        for x, y, query_x, query_y in zip(*sets, strict=True):
            clone = learner.clone()
            clone.adapt(cross_entropy(clone(x), y))
            total = total + cross_entropy(clone(query_x), query_y) / len(sets.x)
        gradients = torch.autograd.grad(total, [*model.parameters()])
        found[name] = off([*gradients], gradient(model, cross_entropy, sets, 0.1, 1))
    return found


def _one_of(sets: Sets) -> tuple[Tensor, Tensor]:
    """A task as ``LightningMAML`` takes it: a class's examples side by side, support first."""
    order = sets.y[0].argsort(stable=True)
    return sets.x[0][order], sets.y[0][order]


_QUIET: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def _counts(ways: int) -> dict[str, int]:
    """``LightningMAML``'s numbers of a task."""
    each = {"ways": ways, "shots": 2, "queries": 4}
    return {f"{part}_{name}": count for part in ("train", "test") for name, count in each.items()}


def _lightning_maml(model: nn.Module | None = None) -> Any:
    return import_learn2learn().algorithms.LightningMAML(model or nn.Linear(6, 3), **_counts(3))


@LEARN2LEARN.claim(
    lambda f: abs(f["loss again"] - f["loss"]) > 1e-3 and f["running mean moved"] > 0.01, needs=("pytorch_lightning",)
)
def learn2learn_validation_mode() -> Figures:
    """``LightningMAML`` validates in training mode: dropout draws, and running statistics of batch norm move.

    One task's loss, twice, of a module in evaluation.
    """
    norm = nn.BatchNorm1d(6)
    model = nn.Sequential(norm, nn.Linear(6, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    module = _lightning_maml(model).eval()
    task = _one_of(classes(shots=6))
    losses = [float(module.meta_learn(task, 0, 3, 2, 4)[0]) for _ in range(2)]
    moved = largest(norm.running_mean)
    return {"loss": losses[0], "loss again": losses[1], "running mean moved": moved}


class _Data:
    """Some tasks for ``EpisodicBatcher``."""

    def __init__(self) -> None:
        self.task = _one_of(classes(shots=6))

    def sample(self) -> tuple[Tensor, Tensor]:
        return self.task


@LEARN2LEARN.claim(lambda f: f["lightning raises TypeError"] == 1, needs=("pytorch_lightning",))
def learn2learn_lightning_trainer() -> Figures:
    """``lightning.Trainer`` takes no ``LightningMAML``, which is a module of ``pytorch_lightning``."""
    from lightning.pytorch import Trainer

    try:
        Trainer(accelerator="cpu", max_steps=1, **_QUIET).fit(_lightning_maml(), [_Data().task])
    except TypeError:
        return {"lightning raises TypeError": 1.0}
    return {"lightning raises TypeError": 0.0}


@LEARN2LEARN.claim(lambda f: f["validate raises UnboundLocalError"] == 1, needs=("pytorch_lightning",))
def learn2learn_validate() -> Figures:
    """``Trainer.validate`` and ``test`` of a ``LightningMAML`` fail on one device: no gradients in inference mode."""
    import pytorch_lightning
    from learn2learn.utils.lightning import EpisodicBatcher

    trainer = pytorch_lightning.Trainer(accelerator="cpu", **_QUIET)
    try:
        trainer.validate(_lightning_maml(), EpisodicBatcher(_Data()), verbose=False)
    except UnboundLocalError:
        return {"validate raises UnboundLocalError": 1.0}
    return {"validate raises UnboundLocalError": 0.0}


@LEARN2LEARN.claim(lambda f: f["equal"] == f["tasks of each process"] == 6, needs=("pytorch_lightning",), processes=2)
def learn2learn_two_processes() -> Figures:
    """Two processes of a run with ``seed_everything`` train on the same tasks.

    Of six tasks of each, how many are the other's.
    """
    import pytorch_lightning
    from learn2learn.utils.lightning import EpisodicBatcher

    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ):  # where the seed is left

        class Noting(import_learn2learn().algorithms.LightningMAML):  # type: ignore[misc]
            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                with (Path(folder) / str(self.global_rank)).open("a") as file:
                    print(_numbers(batch[0]), file=file)
                return super().training_step(batch, batch_idx)

        pytorch_lightning.seed_everything(7, verbose=False)
        tasks = _taskset(import_learn2learn().data.MetaDataset(_Numbered(200, 6)), each=6)
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=1, limit_val_batches=0, **_QUIET
        )
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, WAYS))
        trainer.fit(Noting(model, **_counts(WAYS)), EpisodicBatcher(tasks, epoch_length=6))
        drawn = [(Path(folder) / str(rank)).read_text().splitlines()[:6] for rank in range(2)]
    return {
        "tasks of each process": float(len(drawn[0])),
        "equal": float(sum(a == b for a, b in zip(*drawn, strict=True))),
    }
