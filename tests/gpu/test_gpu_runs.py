"""Whole runs on one GPU: training, resuming, testing, fine-tuning, and how batches get there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from gratings import draw
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from litmaml.cli.main import main
from litmaml.data import Augment, Episode, Glyphs, ImageFormat, Sinusoid, TaskDataModule
from litmaml.inner import SGD, HigherOptimizer
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP, Conv4
from litmaml.outer import GaussianSmoothing, SecondOrder
from litmaml.rl import GaussianPolicy, Navigation, PolicySurrogate, Rollouts, TrustRegion
from litmaml.tasks import Split, Tasks, stacks_of, tensors_of, tree_map

pytestmark = pytest.mark.gpu

CONFIGS = Path(__file__).parents[2] / "configs"


def trainer(folder: Path, device: torch.device, **changes: Any) -> Trainer:
    where = {"accelerator": "gpu" if device.type == "cuda" else "cpu", "devices": 1, "default_root_dir": folder}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    return Trainer(**where | quiet | {"enable_checkpointing": False, "log_every_n_steps": 1} | changes)


def learner(**changes: Any) -> MetaLearner:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"model": MLP(hidden=[8]), "inner_optimizer": SGD(0.01), "loss": nn.MSELoss()}
    return MetaLearner(**defaults | changes)


def data(**changes: Any) -> TaskDataModule:
    return TaskDataModule(
        Sinusoid(Episode(shots=5, queries=5)), **{"meta_batch": 4, "train_tasks": 16, "val_tasks": 4} | changes
    )


def weights(module: MetaLearner) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.inner_loop.parameters()).detach().cpu()


@pytest.mark.parametrize("optimizer", [lambda: SGD(0.01, learn="tensor"), HigherOptimizer], ids=["SGD", "Adam"])
def test_training_is_that_of_the_cpu(optimizer: Any, tmp_path: Path, device: torch.device) -> None:
    here, there = (learner(inner_optimizer=optimizer(), inner_steps=2) for _ in range(2))
    trainer(tmp_path, torch.device("cpu"), precision="64-true", max_steps=4).fit(here, data())
    trainer(tmp_path, device, precision="64-true", max_steps=4).fit(there, data())
    torch.testing.assert_close(weights(there), weights(here), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, TrustRegion], ids=["Adam", "TrustRegion"])
def test_a_policy_is_that_of_the_cpu(optimizer: Any, tmp_path: Path, device: torch.device) -> None:
    """Trajectories are drawn on the CPU, and every action taken on the device."""
    ends = []
    for where in (torch.device("cpu"), device):
        torch.manual_seed(0)
        module = learner(
            model=GaussianPolicy(2, 2, [8]), inner_optimizer=SGD(0.1), loss=PolicySurrogate(), experience=Rollouts()
        )
        module.optimizer = optimizer
        walks = TaskDataModule(Navigation(horizon=5, trajectories=4), 4, train_tasks=16, val_tasks=4)
        trainer(tmp_path, where, precision="64-true", max_steps=3).fit(module, walks)
        ends.append(weights(module))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-7, atol=1e-9)


class Save(Callback):
    """Saves the run after its third step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path, weights_only=False)


@pytest.mark.parametrize("method", [SecondOrder(), GaussianSmoothing(2)], ids=type)
def test_a_resumed_run_is_the_same(method: Any, tmp_path: Path, device: torch.device) -> None:
    whole, resumed, saved = learner(outer_gradient=method), learner(outer_gradient=method), tmp_path / "saved.ckpt"
    trainer(tmp_path, device, max_steps=6, callbacks=[Save(saved)]).fit(whole, data())
    torch.randn(5, device=device)
    trainer(tmp_path, device, max_steps=6).fit(resumed, data(), ckpt_path=saved, weights_only=False)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=1e-6, atol=1e-7)


class Late(Callback):
    """Notes whether the steps of a run are looked at late."""

    looks_at_weights = False

    def __init__(self) -> None:
        self.seen: set[bool] = set()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, MetaLearner)
        self.seen.add(pl_module.late)


class Broken(Sinusoid):
    """Sinusoids, of which one task has a target that is no number."""

    def __init__(self, bad: int = 9) -> None:
        super().__init__(Episode(shots=5, queries=5))
        self.bad = bad

    def sample(self, split: Split, numbers: Sequence[int], seed: int) -> Tasks:
        tasks = super().sample(split, numbers, seed)
        if split == "train" and self.bad in numbers:
            tasks.query.targets[[*numbers].index(self.bad)] = torch.nan
        return tasks


def test_a_step_that_is_not_finite_is_taken_back(tmp_path: Path, device: torch.device) -> None:
    """Of four tasks each, the third step; the weights are those after two. No step waits for the device."""
    ends = []
    for steps, tasks in ((2, Sinusoid(Episode(shots=5, queries=5))), (6, Broken())):
        module, late = learner(), Late()
        options = {"max_steps": steps, "log_every_n_steps": 50, "callbacks": [late]}
        loaded = TaskDataModule(tasks, meta_batch=4, train_tasks=32, val_tasks=4)
        with nullcontext() if steps == 2 else pytest.raises(FloatingPointError, match="train task 9 is not finite"):
            trainer(tmp_path, device, **options).fit(module, loaded)
        ends.append(weights(module))
        assert late.seen == {device.type == "cuda"}
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-7)


class Look(Callback):
    """Keeps where the batches of training were."""

    def __init__(self) -> None:
        self.devices: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        parts = (batch.query.inputs, batch.query.targets, batch.support[0].inputs, batch.numbers)
        self.devices |= {part.device.type for part in parts}


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_are_made_on_the_device(channels_last: bool, tmp_path: Path, device: torch.device) -> None:
    tasks = TaskDataModule(Glyphs(Episode(ways=5, shots=1, queries=2)), 4, train_tasks=8, val_tasks=4, num_workers=2)
    module, look = MetaLearner(Conv4(filters=8), SGD(0.1), channels_last=channels_last), Look()
    trainer(tmp_path, device, max_steps=2, callbacks=[look]).fit(module, tasks)
    assert look.devices == {device.type}
    (served,) = stacks_of(next(iter(tasks.val_dataloader())))
    pinned = [
        part.is_pinned() for part in (*tensors_of(served.query.inputs), served.support[0].targets, served.numbers)
    ]
    assert {*pinned} == {device.type == "cuda"}
    assert not any(weight.isnan().any() for weight in module.inner_loop.parameters())


@pytest.mark.parametrize("workers", [0, 2])
def test_images_kept_on_the_gpu_are_those_that_are_sent_there(
    workers: int, tmp_path: Path, device: torch.device
) -> None:
    ends, sizes = [], []
    for keep in (False, True):
        tasks = Glyphs(Episode(ways=5, shots=1, queries=2))
        module = MetaLearner(Conv4(filters=8), SGD(0.1))
        loaded = TaskDataModule(tasks, 4, train_tasks=16, val_tasks=4, num_workers=workers, keep_on_gpu=keep)
        trainer(tmp_path, device, max_steps=4).fit(module, loaded)
        (served,) = stacks_of(next(iter(loaded.val_dataloader())))
        sizes.append(sum(part.nbytes for part in tensors_of(served)))
        rendered = tasks.render(tree_map(lambda part: part.to(device), served))
        ends.append((rendered.query.inputs, rendered.query.targets))
    assert sizes[1] < sizes[0] / 10, "places are sent, and no images"
    assert all(map(torch.equal, *ends))


def test_changed_images_are_those_of_the_cpu(device: torch.device) -> None:
    pixels, uniform = torch.randint(256, (4, 25, 3, 32, 32), dtype=torch.uint8), torch.rand(4, 25, 6)
    given = ImageFormat(32, 3, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    for change in (Augment(crop=4, flip=True), Augment(crop=4, flip=True, colour=0.4)):
        here, there = change(pixels, uniform), change(pixels.to(device), uniform.to(device))
        assert (there.device.type, there.dtype) == (device.type, here.dtype)
        torch.testing.assert_close(there.cpu(), here, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(given.to_float(there).cpu(), given.to_float(here), rtol=1e-5, atol=1e-5)


def test_the_commands(tmp_path: Path, device: torch.device) -> None:
    """fit, test and diagnose with the configuration for a GPU, then finetune."""
    where = ["--trainer.accelerator=cpu"] if device.type == "cpu" else ["-c", str(CONFIGS / "trainer" / "gpu.yaml")]
    run = tmp_path / "run"
    small = ["--model.model.init_args.filters=8", "--data.meta_batch=4", "--data.train_tasks=8", "--data.val_tasks=4"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.max_epochs=1", f"--trainer.default_root_dir={run}"]
    torch.backends.cudnn.allow_tf32 = True  # as torch has it
    main(["fit", "-c", str(CONFIGS / "glyphs.yaml"), *where, *small, *quiet, "--trainer.log_every_n_steps=1"])
    assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
    main(["test", f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}", *where, "--data.test_tasks=8"])
    assert json.loads((run / "test_results.json").read_text())["protocol"]["tasks"] == 8
    main(["diagnose", f"--checkpoint={run}", *where, "--diagnose.tasks=3"])
    assert json.loads((run / "diagnosis.json").read_text())["setting"]["tasks"] == 3
    pictures = draw(tmp_path / "pictures", ["a", "b", "c"], each=3)
    asked = ["--checkpoint", str(run), "--data", str(pictures), "--output", str(tmp_path / "out"), "--steps", "5"]
    main(["finetune", *asked, "--device", device.type])
    assert (tmp_path / "out" / "model.safetensors").is_file()
    main(["classify", "--model", str(tmp_path / "out"), "--images", str(pictures), "--output", str(tmp_path / "p.csv")])
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 10
