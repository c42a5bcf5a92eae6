"""Which way a run computes convolutions with kernels of each task's own: a CPU stands in the place of the GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from litmaml.data import Episode, Glyphs, TaskDataModule
from litmaml.engine import convolution
from litmaml.engine.convolution import Grouped
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import Conv4
from litmaml.outer import convolution_choice as module
from quiet_trainer import quiet_trainer


def glyphs() -> TaskDataModule:
    source = Glyphs(train=Episode(ways=2, shots=1, queries=1))
    return TaskDataModule(source, meta_batch=4, train_tasks=8, val_tasks=2, test_tasks=2)


def learner() -> MetaLearner:
    torch.manual_seed(0)
    return MetaLearner(Conv4(2, filters=2), SGD(0.1), baselines=False)


def on_gpu(monkeypatch: pytest.MonkeyPatch, grouped: float, patches: float) -> list[torch.device]:
    """As if it were a GPU on which the ways take so many seconds; gets an entry for each that is timed."""
    asked: list[torch.device] = []

    def seconds(run: Callable[[], Any], device: torch.device, replayed: bool) -> float:
        asked.append(device)
        return grouped if Grouped.entered else patches

    monkeypatch.setattr(module, "_on_gpu", lambda device: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # as the command line sets it
    monkeypatch.setattr(convolution, "_are_own", torch._C._functorch.is_batchedtensor)
    monkeypatch.setattr(module, "seconds", seconds)
    return asked


@pytest.mark.parametrize(
    ("grouped", "patches", "said"),
    [
        (
            0.0125,
            0.05,
            "computed grouped, by which the gradient of 4 tasks takes 12.50 ms; by patches it takes 50.00 ms",
        ),
        (
            0.05,
            0.0125,
            "computed by patches, by which the gradient of 4 tasks takes 12.50 ms; grouped it takes 50.00 ms",
        ),
    ],
)
def test_the_first_step_chooses_and_says_it(
    grouped: float,
    patches: float,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked, one = on_gpu(monkeypatch, grouped, patches), learner()
    with caplog.at_level("INFO"):
        quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(one, glyphs())
    assert one.inner_loop.grouped == (grouped < patches)
    assert len(asked) == 2, "once of each way in the whole run"
    assert [m for m in caplog.messages if "computed" in m] == [f"model: convolutions are {said}"]


def test_a_run_goes_on_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_gpu(monkeypatch, 1.0, 2.0)
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(learner(), glyphs())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert not MetaLearner.load_from_checkpoint(tmp_path / "run.ckpt").convolutions.state(), "no run goes on"
    caplog.clear()
    asked, resumed = on_gpu(monkeypatch, 2.0, 1.0), learner()
    with caplog.at_level("INFO"):
        later = quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0)
        later.fit(resumed, glyphs(), ckpt_path=tmp_path / "run.ckpt")
    assert resumed.inner_loop.grouped
    assert not asked
    assert "convolutions are computed" not in caplog.text


def test_on_a_cpu_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "seconds", lambda *_: pytest.fail("measured"))
    one, trainer = learner(), quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(one, glyphs())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert not one.inner_loop.grouped
    assert "litmaml_convolutions" not in torch.load(tmp_path / "run.ckpt", weights_only=True)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_learner_without_a_trainer_chooses_in_training(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, data = on_gpu(monkeypatch, 1.0, 2.0), glyphs()
    data.setup("fit")
    one = learner().train(training)
    one._try(data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0))
    assert one.inner_loop.grouped == bool(asked) == training


def test_where_only_grouped_ones_would_round_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch has it: convolutions in TF32, and matrix products, of which patches are, in float32."""
    asked, data = on_gpu(monkeypatch, 0.01, 0.05), glyphs()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    data.setup("fit")
    one = learner().train()
    one._try(data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0))
    assert not asked
    assert not one.inner_loop.grouped
