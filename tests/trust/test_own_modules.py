"""Folders and functions of the user's own: found for what was typed, never for what a file records."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from litmaml import MetaLearner
from litmaml.callbacks.last_checkpoint import resumed_by
from litmaml.cli.main import main
from litmaml.cli.own_modules import find_own_modules
from litmaml.runs.nameable import NotNameable, find_maker, users_modules
from litmaml.runs.recipe import build

KEPT = Path(__file__).parents[1] / "fixtures" / "version_0.1.ckpt"
NAMES = ["own_parts", "own_parts.nets", "bought_parts", "colorsys", "wave"]
CODE = """
from torch import nn
from bought_parts import create, borrowed
CALLED = []
class Net(nn.Linear):
    pass
def make(width: int = 2) -> nn.Module:
    CALLED.append(width)
    return nn.Linear(width, 1)
def quoted(width: int = 2) -> "nn.Linear":
    return nn.Linear(width, 1)
def bare(width: int = 2):
    CALLED.append(width)
def run(command: str) -> int:
    CALLED.append(command)
borrowed_too = borrowed
lambdas = lambda width=2: nn.Linear(width, 1)
"""
BOUGHT = """
import functools
from torch import nn
CALLED = []
def create(width: int = 2, checkpoint_path: str = "") -> nn.Module:
    CALLED.append(checkpoint_path)
    return nn.Linear(width, 1)
borrowed = functools.wraps(create)(lambda *args, **kwargs: create(*args, **kwargs))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, which a program that is installed does not look into."""
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in NAMES:
        sys.modules.pop(name, None)


def written(folder: Path, name: str, text: str = "class Net: pass\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def test_a_folder_is_searched_last_and_for_what_was_typed(place: Path) -> None:
    config = written(place / "conf", "c.yaml", "model: {model: own_parts.Net}\n")
    before = list(sys.path)
    find_own_modules(["fit", "-c", str(config)], [])
    assert sys.path == before  # it lies nowhere
    written(place / "conf", "own_parts.py")
    written(place / "conf", "wave.py", "raise SystemExit('ran')\n")
    find_own_modules(["fit", f"-c{config}"], [])
    assert sys.path == [*before, str(place / "conf")]
    found = importlib.util.find_spec("wave")
    assert found is not None
    assert "conf" not in str(found.origin)
    find_own_modules(["fit", f"--config={config}"], [])
    assert len(sys.path) == len(before) + 1


@pytest.mark.parametrize(
    "typed",
    [
        ["--model.model=own_parts.Net"],
        ["--model.model", "own_parts.Net"],
        ["--model.model.class_path=own_parts.Net"],
        ["--model", "{model: {class_path: own_parts.Net}}"],
        ["--trainer.callbacks+=own_parts.Net"],
        ["--trainer.callbacks", "[{class_path: own_parts.Net}]"],
        ["-c", "part.yaml"],
        ["--data", "inner.yaml"],
    ],
)
def test_what_counts_as_typed(typed: list[str], place: Path) -> None:
    written(place, "own_parts.py")
    written(place, "inner.yaml", "tasks: {class_path: own_parts.Net}\n")
    written(place, "part.yaml", "data: inner.yaml\n")
    before = list(sys.path)
    find_own_modules(["fit", *typed], [])
    assert sys.path == [*before, str(place)]


@pytest.mark.parametrize(
    "typed",
    [
        ["--ckpt_path=run.ckpt"],
        ["--checkpoint=own_parts.Net"],
        ["--data.tasks.root=own_parts.zip"],
        ["--data.tasks.split_file=split.csv"],
        ["--model.model=wave.Net"],
        ["--model.model=torch.nn.Linear"],
    ],
)
def test_what_is_not_typed_opens_no_folder(typed: list[str], place: Path) -> None:
    for name in ("own_parts.py", "wave.py", "torch.py"):
        written(place, name)
    for name in ("run.ckpt", "split.csv"):
        written(place, name, "{class_path: own_parts.Net}\n")
    written(place, "own_parts.zip", "")
    before = list(sys.path)
    find_own_modules(["fit", *typed], [])
    assert sys.path == before


def test_a_record_finds_nothing_in_the_current_folder(place: Path) -> None:
    (place / "own_parts.py").write_text("raise SystemExit('it was imported')\n")
    saved = torch.load(KEPT, weights_only=True)
    for name in ("own_parts.Net", "own_parts.make"):
        saved["hyper_parameters"]["model"] = {"class_path": name, "init_args": {}}
        torch.save(saved, place / "x.ckpt")
        before = list(sys.path)
        with pytest.raises(ValueError, match=r"'own_parts\.\w+' is not loaded.*type --imports own_parts"):
            main(["test", f"--ckpt_path={place / 'x.ckpt'}"])
        with pytest.raises(ValueError, match="is not loaded"):
            MetaLearner.load_from_checkpoint(place / "x.ckpt")
        assert sys.path == before
        assert "own_parts" not in sys.modules


@pytest.fixture
def parts(place: Path) -> Any:
    """The user's own module, imported, and an installed one that it takes functions from."""
    written(place / "packages", "bought_parts.py", BOUGHT)
    (place / "packages" / "bought_parts-1.0.dist-info").mkdir()
    written(place / "own", "own_parts.py", CODE)
    sys.path += [str(place / "packages"), str(place / "own")]
    importlib.invalidate_caches()
    return importlib.import_module("own_parts")


def test_a_function_of_the_users_own_is_called(parts: Any) -> None:
    assert build({"class_path": "own_parts.make", "init_args": {"width": 3}}, nn.Module, "model").in_features == 3
    assert parts.CALLED == [3]
    assert build({"class_path": "own_parts.quoted", "init_args": {}}, nn.Module, "model").in_features == 2
    with pytest.raises(ValueError, match="takes no argument of this name"):
        build({"class_path": "own_parts.make", "init_args": {"depth": 3}}, nn.Module, "model")
    with pytest.raises(ValueError, match=r"model\.width: cannot be"):
        build({"class_path": "own_parts.make", "init_args": {"width": "x"}}, nn.Module, "model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_parts.bare", "does not say that it makes a Module"),
        ("own_parts.run", "does not say that it makes a Module"),
        ("own_parts.create", "a function of an installed package"),
        ("own_parts.borrowed", "a function of an installed package"),
        ("own_parts.borrowed_too", "a function of an installed package"),
        ("bought_parts.create", "a function of an installed package"),
        ("own_parts.CALLED", "is no class"),
        ("own_parts.gone", "no class that there is"),
        ("torch.hub.load", "cannot be named by a file"),
        ("torch.load", "cannot be named by a file"),
        ("torch.nn.modules.linear.Parameter", "is no"),
        ("importlib.import_module", "of yours"),
        ("litmaml.load", "cannot be named by a file"),
    ],
)
def test_other_functions_are_not_called(name: str, message: str, parts: Any) -> None:
    with pytest.raises(NotNameable, match=message):
        find_maker(name, (nn.Module,))
    with pytest.raises(ValueError, match=message):
        build({"class_path": name, "init_args": {}}, nn.Module, "model")
    assert parts.CALLED == []
    assert sys.modules["bought_parts"].CALLED == []


def test_a_function_makes_only_what_is_wanted(parts: Any) -> None:
    with pytest.raises(NotNameable, match="does not say that it makes a Optimizer"):
        find_maker("own_parts.make", (torch.optim.Optimizer,))


def test_the_modules_that_a_record_names() -> None:
    record = {
        "model": {"class_path": "own_parts.nets.Net", "init_args": {"body": {"class_path": "torch.nn.Linear"}}},
        "metrics": [{"class_path": "own_parts.nets.Other"}, {"class_path": "mine.Metric"}, {"class_path": "Bare"}],
        "loss": {"class_path": "litmaml.x.Y", "init_args": {"text": "not.a.class"}},
        "odd": {"class_path": "a b.c"},
    }
    assert users_modules(record) == ["own_parts.nets", "mine"]
    learner, data = SimpleNamespace(hparams=record), SimpleNamespace(hparams={"tasks": {"class_path": "mine.Tasks"}})
    trainer: Any = SimpleNamespace(lightning_module=learner, datamodule=data)
    assert resumed_by(trainer, Path("RUN")) == "resume with --ckpt_path RUN --imports own_parts.nets mine"
    trainer = SimpleNamespace(lightning_module=SimpleNamespace(hparams={}))  # dataloaders of somebody's own
    assert resumed_by(trainer, Path("RUN")) == "resume with --ckpt_path RUN"
