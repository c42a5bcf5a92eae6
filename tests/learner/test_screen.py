"""What a run shows: the model, a bar or lines, the table, and objects that say what they are."""

from __future__ import annotations

import io
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelSummary, RichProgressBar
from rich.console import Console
from rich.progress import Progress
from torch import nn

from litmaml import MetaLearner, TaskDataModule
from litmaml.callbacks import Report
from litmaml.cli.main import _says_something, _warning
from litmaml.data import Episode, Glyphs, ImageFormat, Sinusoid
from litmaml.inner import SGD, Adam, MetaCurvature, Proximal
from litmaml.learner.screen import plain_trainer, run_progress, summary
from litmaml.models import MLP, Conv4
from litmaml.outer import EvolutionStrategies, FiniteDifference, MultiStepLoss, SecondOrder
from litmaml.statistics.interval import Interval
from litmaml.statistics.results import Results
from litmaml.tasks import numbers_of


def parts() -> tuple[MetaLearner, TaskDataModule]:
    learner = MetaLearner(MLP(hidden=[8]), SGD(lr=0.1), loss=nn.MSELoss(), inner_steps=2)
    return learner, TaskDataModule(Sinusoid(Episode(shots=4, queries=4)), 2, train_tasks=8, val_tasks=4, test_tasks=4)


def plain(folder: Path, **options: Any) -> Trainer:
    """A trainer as anybody makes one."""
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    return Trainer(default_root_dir=folder, log_every_n_steps=1, **(quiet | {"max_epochs": 2} | options))


def on_screen(monkeypatch: pytest.MonkeyPatch, **options: Any) -> io.StringIO:
    """What is shown in a terminal of 80 columns, or in a file."""
    written = io.StringIO()
    for module in (run_progress, summary):
        monkeypatch.setattr(module, "Console", lambda **_: Console(file=written, width=80, **options))
    return written


class Eager(Progress):
    """Shows each change at once."""

    def update(self, *given: Any, **fields: Any) -> None:
        super().update(*given, **fields, refresh=True)


def test_the_bar_fits_80_columns_with_the_time_left_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_progress, "_EVERY", 0.0)
    monkeypatch.setattr(run_progress, "Progress", Eager)
    monkeypatch.setattr(run_progress, "duration", lambda seconds: f"{seconds:.9f} s")
    written = on_screen(monkeypatch, force_terminal=True)
    trainer = plain(tmp_path)
    trainer.fit(*parts())
    frames = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue()).replace("\r", "\n").split("\n")
    assert max(map(len, frames)) <= 80
    ends = [frame.rstrip() for frame in frames if frame.startswith("epoch")]
    assert re.fullmatch(r"epoch 2/2 ━+ 8/8  loss \d+\.\d{3}  val \d+\.\d{3}", ends[-1])
    waiting = [float(found[1]) for end in ends if (found := re.search(r" (\S+) s left", end))]
    assert len(waiting) >= 6
    assert "v_num" not in written.getvalue()


def test_a_file_gets_a_line_a_minute_and_one_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = on_screen(monkeypatch)
    trainer = plain(tmp_path)
    trainer.fit(*parts())
    assert re.findall(r"^epoch.*$", written.getvalue(), re.MULTILINE) == written.getvalue().splitlines()[-1:]
    assert re.search(r"^epoch 2/2, batch 8/8  loss \d\.\d{3}  val \d\.\d{3}\n\Z", written.getvalue(), re.MULTILINE)
    monkeypatch.setattr(run_progress, "LINE_EVERY", 0.0)
    monkeypatch.setattr(run_progress, "_EVERY", 0.0)
    written = on_screen(monkeypatch)
    learner, data = parts()
    plain(tmp_path, max_epochs=-1, max_steps=3).fit(learner, data)
    assert re.search(r"^epoch 1, batch 2/3, \d+ s left  loss", written.getvalue(), re.MULTILINE)
    plain(tmp_path, max_epochs=4, max_steps=3).fit(learner, data)
    assert re.search(r"^epoch 1/4, batch 3/3  loss", written.getvalue(), re.MULTILINE)  # broken off in the first
    assert "epoch 2/4" not in written.getvalue()
    plain(tmp_path).test(learner, data, verbose=False)
    assert re.search(r"^test 1/2, \d+ s left$", written.getvalue(), re.MULTILINE)


def test_the_model_is_shown_by_its_name_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = on_screen(monkeypatch)
    learner = MetaLearner(Conv4(ways=3, filters=4), SGD(lr=0.4), fast_weights=["head.*"])
    data = TaskDataModule(Glyphs(Episode(ways=3, shots=1, queries=1)), 2, train_tasks=2)
    plain(tmp_path, max_steps=1, limit_val_batches=0).fit(learner, data)
    size = sum(weight.numel() for weight in learner.inner_loop.model.parameters())
    head = sum(weight.numel() for weight in learner.inner_loop.model.get_submodule("head").parameters())
    said = f"Conv4, {size} weights ({size * 4 / 1e3:.1f} kB)\n1 inner step of SGD(lr=0.4), outer gradient SecondOrder()"
    assert said in written.getvalue()
    assert re.search(rf"body │ Sequential │ +{size - head} │ +none", written.getvalue())
    assert re.search(rf"head │ Linear     │ +{head} │ +all", written.getvalue())
    assert "FLOP" not in written.getvalue()


def test_a_plain_trainer_shows_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, (learner, data) = plain(tmp_path), parts()
    trainer.test(learner, data)
    shown = capsys.readouterr().out
    assert "Sinusoid: mean and 95% interval over 4 tasks" in shown
    assert re.search(r"│ +2 │ +\d\.\d{4} ± \d", shown)
    assert "test/loss_step_0" not in shown
    trainer.test(learner, data, verbose=False)
    assert capsys.readouterr().out == ""
    trainer.validate(learner, data)
    assert "split: val" in capsys.readouterr().out
    assert [*tmp_path.iterdir()] == []


def test_a_notebook_shows_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[bytes]()
    display = SimpleNamespace(Image=lambda content: content, display=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr(plain_trainer, "Console", lambda: SimpleNamespace(is_jupyter=True))
    plain(tmp_path, enable_progress_bar=False).test(*parts())
    assert [content[:4] for content in shown] == [b"\x89PNG"]


def test_a_notebook_shows_a_line_that_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, handles = list[str](), list[SimpleNamespace]()

    def display(said: dict[str, str], raw: bool, display_id: bool) -> SimpleNamespace:
        shown.append(said["text/plain"])
        handles.append(SimpleNamespace(update=lambda said, raw: shown.append(said["text/plain"])))
        return handles[-1]

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(run_progress, "Console", lambda **_: SimpleNamespace(is_jupyter=True, is_terminal=False))
    monkeypatch.setattr(run_progress, "_NOTEBOOK_EVERY", 0.0)
    monkeypatch.setattr(run_progress, "_EVERY", 0.0)
    trainer, (learner, data) = plain(tmp_path, max_epochs=2), parts()
    trainer.fit(learner, data)
    assert len(handles) == 1 < len(shown)
    assert re.match(r"epoch 2/2, batch (\d+)/\1  loss \d", shown[-1])
    trainer.test(learner, data, verbose=False)
    assert len(handles) == 2
    assert re.fullmatch(r"test (\d+)/\1", shown[-1])
    trainer.test(learner, data, verbose=False)
    assert len(handles) == 3


def test_what_somebody_asked_for_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Own(RichProgressBar):
        """A bar of somebody's."""

    callbacks = [Own(), ModelSummary(max_depth=2), Report()]
    trainer = plain(tmp_path, callbacks=[*callbacks], max_steps=1, limit_val_batches=0)
    learner, data = parts()
    trainer.fit(learner, data)
    trainer.test(learner, data, verbose=False)
    assert [*trainer.callbacks] == callbacks  # type: ignore[attr-defined]  # set outside its class
    assert capsys.readouterr().out.count("mean and 95% interval") == 1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (SGD(lr=0.1), "SGD(lr=0.1)"),
        (Adam(lr=0.1, betas=(0.5, 0.9)), "Adam(lr=0.1, betas=(0.5, 0.9))"),
        (Proximal(MetaCurvature(SGD()), 0.5), "Proximal(MetaCurvature(SGD()), strength=0.5)"),
        (SecondOrder(), "SecondOrder()"),
        (SecondOrder(recompute=True), "SecondOrder(recompute=True)"),
        (FiniteDifference(radius=0.5), "FiniteDifference(radius=0.5)"),
        (EvolutionStrategies(), "EvolutionStrategies()"),
        (MultiStepLoss(epochs=3), "MultiStepLoss(epochs=3)"),
        (Episode(ways=5, shots=1), "Episode(ways=5, shots=1)"),
        (ImageFormat(28, invert=True), "ImageFormat(28, invert=True)"),
        (Glyphs(affine=0.25), "Glyphs(affine=0.25)"),
        (TaskDataModule(Sinusoid(), meta_batch=2), "TaskDataModule(Sinusoid(), meta_batch=2)"),
        (Interval(0.5, 0.25), "0.5000 ± 0.2500"),
        (Results(), "no results yet"),
        (
            Results(loss=[Interval(1.0, 0.5)], accuracy=[Interval(0.5, 0.25)]),
            "inner steps         accuracy             loss\n          0  50.00 ± 25.00 %  1.0000 ± 0.5000",
        ),
    ],
    ids=str,
)
def test_objects_say_what_they_are(made: object, said: str) -> None:
    assert repr(made) == str(made) == said


def test_a_learner_says_what_it_is() -> None:
    learner, _ = parts()
    assert repr(learner).startswith("MetaLearner(MLP, 25 weights (100 B); 2 inner steps of SGD(lr=0.1), outer")


def test_a_called_learner_predicts_by_the_initial_weights() -> None:
    learner, _ = parts()
    x = torch.rand(3, 1)
    torch.testing.assert_close(learner(x), learner.inner_loop.model(x))

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sum": self.one(x) + y}

    two = MetaLearner(Two(), loss=nn.MSELoss(), output="sum")
    torch.testing.assert_close(two(x, x), two.inner_loop.model(x, x)["sum"])
    torch.testing.assert_close(two(x=x, y=x), two((x, x)))


def test_loaders_can_be_looked_at_after_fit(tmp_path: Path) -> None:
    learner, data = parts()
    before = [numbers_of(batch).tolist() for batch in data.train_dataloader()]
    trainer = plain(tmp_path, limit_val_batches=0, enable_model_summary=False, enable_progress_bar=False)
    trainer.fit(learner, data)
    place = data.state_dict()
    assert [numbers_of(batch).tolist() for batch in data.train_dataloader()] == before != []
    assert len([*data.val_dataloader()]) == 2
    assert data.state_dict() == place


def test_the_program_says_what_is_of_use() -> None:
    def told(message: str) -> bool:
        return _says_something(logging.LogRecord("", logging.INFO, "", 0, message, (), None))

    assert not told("TPU available: False, using: 0 TPU cores")
    assert not told("GPU available: False, used: False")
    assert not told("💡 Tip: For seamless cloud logging")
    assert not told("`Trainer.fit` stopped: `max_epochs=6` reached.")
    assert told("Trainer was signaled to stop but the required `min_epochs=2` has not been met")
    assert told("GPU available: True (cuda), used: True")
    assert _warning(UserWarning("data: too few"), UserWarning, "file.py", 3) == "warning: data: too few\n"
