"""No checkpoint that somebody else made runs, imports or fills anything, whatever it is given to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import _of, archives, canary, put, records
from PIL import Image
from watch import told, watched

from litmaml.cli.main import main
from litmaml.cli.recorded import configuration
from litmaml.cli.sealed import unseal
from litmaml.finetuning.meta_checkpoint import open_checkpoint
from litmaml.learner.meta_learner import MetaLearner

QUICK = ["--trainer.accelerator=cpu", "--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false"]


def commands(file: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Everything that reads a checkpoint."""

    def typed(command: str, option: str, *others: str) -> Callable[[], object]:
        return lambda: main([command, f"--{option}={file}", *others])

    root = f"--trainer.default_root_dir={folder / 'run'}"
    images = ["--data", str(folder), "--output", str(folder / "out")]
    return {
        "fit": typed("fit", "ckpt_path", *QUICK, root),
        "fit --init_weights": typed("fit", "init_weights", *QUICK, root, "--data.tasks=Sinusoid"),
        "validate": typed("validate", "ckpt_path", *QUICK, root),
        "test": typed("test", "ckpt_path", *QUICK, root),
        "predict": typed("predict", "ckpt_path", *QUICK, root),
        "diagnose": typed("diagnose", "checkpoint", "--trainer.accelerator=cpu", root, "--diagnose.tasks=2"),
        "finetune": typed("finetune", "checkpoint", *images, "--image_format.size=28"),
        "load_from_checkpoint": lambda: MetaLearner.load_from_checkpoint(file),
        "open_checkpoint": lambda: open_checkpoint(file).image_format,
    }


def attack(name: str, write: Callable[[Path], object], folder: Path, mark: Path) -> dict[str, str]:
    """What each command says to a checkpoint; that nothing happened is asserted."""
    file = folder / "checkpoints" / "best.ckpt"
    file.parent.mkdir(exist_ok=True)
    write(file)
    said = {}
    for command, run in commands(file, folder).items():
        with watched() as watch:
            said[command] = told(run)
        assert not watch.events, f"{name}, {command}: {watch.events}"
        assert not mark.exists(), f"{name}, {command}"
        assert watch.seconds < 2 or not said[command], f"{name}, {command}: {watch.seconds} s, {said[command]}"
        assert watch.megabytes < 500, f"{name}, {command}: {watch.megabytes} MB"
        assert "\n" not in said[command], f"{name}, {command}: {said[command]}"
        assert len(said[command]) < 1000, f"{name}, {command}: {said[command][:1000]}"
        assert "\x1b" not in said[command]
    return said


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder with modules to import and files to read, and the mark that one would leave."""
    mark = tmp_path / "ran"
    canary(tmp_path, mark)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path, mark


def save(content: Any) -> Callable[[Path], object]:
    return lambda file: torch.save(content, file)


def part(count: int) -> list[Any]:
    """All in a slow test; in the others a few, spread evenly."""
    return [pytest.param(1, marks=pytest.mark.slow, id="all"), pytest.param(count, id=f"every {count}th")]


@pytest.mark.parametrize("every", part(29))
def test_records(every: int, scene: tuple[Path, Path]) -> None:
    folder, mark = scene
    found = list(records(mark))
    assert len(found) >= 300
    for name, content in found[::every]:
        said = attack(name, save(content), folder, mark)
        assert said["test"], f"{name} is let in: {said}"


def test_archives(scene: tuple[Path, Path]) -> None:
    folder, mark = scene
    for name, content in archives(mark):
        said = attack(name, partial(Path.write_bytes, data=content), folder, mark)
        assert all(said.values()), f"{name} is let in: {said}"


TEXTS = ["null", "~", "1e3", "{class_path: os.system}", "- a", "*a", "hostile.yaml", "os.system", "${HOME}", "a: b # c"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_parser_sees_no_text_of_a_record(text: str, scene: tuple[Path, Path]) -> None:
    """It would take it for null, a number, an object, a file; here it is the name of a file that is not there."""
    arguments = {"root": str(scene[0]), "split_file": text, "train": {"ways": 2}}
    saved = put(("datamodule_hyper_parameters", "tasks"), _of("litmaml.data.ImageFolderTasks", **arguments))
    given = configuration(saved, [])["data"]["tasks"]["init_args"]
    assert not {text, str(scene[0])} & {value for value in given.values() if isinstance(value, str)}
    assert unseal(given) == arguments
    file = scene[0] / "x.ckpt"
    torch.save(saved, file)
    for name in "abcdefgh":
        (scene[0] / name).mkdir()
        Image.new("L", (8, 8)).save(scene[0] / name / "1.png")
    said = told(lambda: main(["test", f"--ckpt_path={file}", *QUICK]))
    assert said.startswith("split_file="), said
    assert not scene[1].exists()


ENDLESS = [
    _of("torch.nn.LSTM", input_size=1, hidden_size=1, num_layers=10**7),
    _of(
        "torch.nn.TransformerEncoder",
        encoder_layer=_of("torch.nn.TransformerEncoderLayer", d_model=2, nhead=1),
        num_layers=10**7,
    ),
]


@pytest.mark.parametrize("part", [*ENDLESS, _of("torchmetrics.aggregation.RunningMean", window=10**7)])
def test_what_takes_too_long_to_make_leaves_torch_as_it_was(part: dict[str, Any], tmp_path: Path) -> None:
    where = (
        ("hyper_parameters", "metrics", "mine") if "metrics" in part["class_path"] else ("hyper_parameters", "model")
    )
    torch.save(put(where, part), tmp_path / "x.ckpt")
    profiler = sys.getprofile()
    with pytest.raises(ValueError, match=r"more than \d+ calls of functions, too many for the weights in the file"):
        MetaLearner.load_from_checkpoint(tmp_path / "x.ckpt")
    assert sys.getprofile() is profiler
    assert torch.empty(1).device.type == "cpu"
    assert torch._C._len_torch_function_stack() == 0
