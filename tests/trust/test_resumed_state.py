"""What a checkpoint has of a run under way: fit goes on from what fit wrote, and from nothing else."""

from __future__ import annotations

import copy
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, Timer
from test_honest_checkpoints import made
from torch import optim
from watch import told, watched

import litmaml
from litmaml.callbacks import BestCheckpoint
from litmaml.callbacks.training_state import check_callbacks
from litmaml.cli.main import main
from litmaml.data import Sinusoid
from litmaml.data.training_place import read_place
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs import checkpoint as checkpoint_module
from litmaml.runs.checkpoint import checksum_file, load_plain, read_checkpoint
from litmaml.runs.checkpoint_io import DurableCheckpointIO

pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches")
SINUSOID = str(Path(__file__).parents[2] / "configs" / "sinusoid.yaml")
SMALL = ["--data.train_tasks=4", "--data.meta_batch=2", "--data.val_tasks=2", "--model.model.hidden=[3]"]
QUICK = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture(scope="module")
def under_way(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last checkpoint of a run with every kind of state, in the middle of an epoch."""
    folder = tmp_path_factory.mktemp("run")
    early = "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"
    where = f"--trainer.default_root_dir={folder}"
    schedule = ["--model.lr_scheduler=torch.optim.lr_scheduler.StepLR", "--model.lr_scheduler.step_size=2"]
    main(["fit", "-c", SINUSOID, *SMALL, *QUICK, *early, *schedule, where, "--trainer.max_steps=3"])
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def go_on(content: dict[str, Any], folder: Path, *typed: str) -> str:
    """What ``fit`` says to a checkpoint; nothing where it goes on."""
    torch.save(content, folder / "x.ckpt")
    with watched() as watch:
        said = told(
            lambda: main(["fit", f"--ckpt_path={folder / 'x.ckpt'}", *QUICK, *typed, f"{ROOT}={folder / 'on'}"])
        )
    assert not watch.events
    assert watch.megabytes < 500
    assert "\n" not in said
    return said


ROOT = "--trainer.default_root_dir"


def test_the_run_itself_goes_on(under_way: dict[str, Any], tmp_path: Path) -> None:
    assert go_on(copy.deepcopy(under_way), tmp_path, "--trainer.max_steps=5") == ""
    assert read_checkpoint(tmp_path / "on" / "checkpoints" / "last.ckpt")["global_step"] == 5


FIT = ("loops", "fit_loop")
COUNTS = (*FIT, "epoch_loop.batch_progress")
STEPS = (*FIT, "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total")
GONE = object()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("pytorch-lightning_version",), GONE, "version of Lightning is none"),
        (("pytorch-lightning_version",), "0.0.1", "version of Lightning is none"),
        (("loops",), {}, r"^checkpoint\.loops: has none"),
        (("loops", "test_loop"), GONE, "loops are none of Lightning"),
        ((*FIT, "epoch_progress"), GONE, "have no fit_loop.epoch_progress"),
        ((*FIT, "epoch_progress"), "x", "no counts at fit_loop.'epoch_progress'"),
        ((*FIT, "epoch_progress", "current"), {}, "no counts at fit_loop.'epoch_progress'"),
        ((*FIT, "epoch_progress", "current", "ready"), -1, "no counts at fit_loop.'epoch_progress'"),
        ((*FIT, "state_dict"), "x", "no state at fit_loop.'state_dict'"),
        ((*FIT, "epoch_loop.state_dict", "_batches_that_stepped"), "x", "no state at fit_loop.'epoch_loop.state_dict'"),
        ((*COUNTS, "is_last_batch"), "x", "no counts at fit_loop.'epoch_loop.batch_progress'"),
        ((*COUNTS, "is_last_batch"), GONE, "no counts at fit_loop.'epoch_loop.batch_progress'"),
        ((*COUNTS, "current", "ready"), 10**30, "no counts at fit_loop.'epoch_loop.batch_progress'"),
        ((*COUNTS, "current", "increment_by"), 1, "no counts at fit_loop.'epoch_loop.batch_progress'"),
        ((*STEPS, "completed"), 10**9, "its epoch and global_step are others than those of its loops"),
        (("epoch",), 10**9, "its epoch and global_step are others than those of its loops"),
        (("optimizer_states",), GONE, r"^checkpoint\.optimizer_states: there has to be one"),
        (("lr_schedulers",), [], r"^checkpoint\.lr_schedulers: there have to be 1, got 0"),
        (("TaskDataModule",), "x", r"^checkpoint\.TaskDataModule: is no place"),
        (("TaskDataModule", "place"), [0, 0], r"^checkpoint\.TaskDataModule: is no place"),
        (("TaskDataModule", "place"), [0, -1, 0], r"^checkpoint\.TaskDataModule\.first: is no count"),
        (("TaskDataModule", "place"), [9, 0, 0], r"^checkpoint\.TaskDataModule\.place: lies beyond"),
        (("TaskDataModule", "whole"), "x", r"^checkpoint\.TaskDataModule\.whole"),
        (("TaskDataModule", "together"), 0, r"^checkpoint\.TaskDataModule\.together"),
        (("TaskDataModule", "together"), 10**12, r"^checkpoint\.TaskDataModule\.together"),
        (("TaskDataModule", "train_tasks"), 10**15, r"^checkpoint\.TaskDataModule\.train_tasks: the run had 4"),
        (("callbacks", "BestCheckpoint"), "x", r"^checkpoint\.callbacks\.BestCheckpoint: is of another form"),
        (("callbacks", "BestCheckpoint", "kept"), "x", r"^checkpoint\.callbacks\.BestCheckpoint\.kept"),
        (("callbacks", "BestCheckpoint", "kept"), {"a.ckpt": "x"}, r"^checkpoint\.callbacks\.BestCheckpoint"),
        (("callbacks", "BestCheckpoint", "metrics"), GONE, r"^checkpoint\.callbacks\.BestCheckpoint"),
        (("litmaml_weights", "slow"), ["__class__"], "records a weight '__class__', and the model has none"),
        (("state_dict", "inner_loop.model.head.bias"), torch.ones(1, dtype=torch.complex64), "has torch.complex64"),
    ],
)
def test_what_fit_did_not_write_gets_one_line_before_a_step(
    place: tuple[str, ...], value: Any, message: str, under_way: dict[str, Any], tmp_path: Path
) -> None:
    content = copy.deepcopy(under_way)
    inner: Any = content
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    with pytest.raises(ValueError, match=message):
        raise ValueError(go_on(content, tmp_path, "--trainer.max_steps=5"))
    assert not list(tmp_path.rglob("on/**/*.ckpt"))


def test_weights_with_a_recipe_alone_are_adapted_and_not_resumed(under_way: dict[str, Any], tmp_path: Path) -> None:
    content = {name: under_way[name] for name in ("state_dict", "hyper_parameters")}
    assert go_on(content, tmp_path).endswith(
        "x.ckpt' has weights and a recipe, and nothing of a run; begin one with --init_weights, or adapt it"
    )
    inputs = torch.zeros(2, 1)
    assert litmaml.adapt(tmp_path / "x.ckpt", inputs, inputs, steps=1)(inputs).shape == (2, 1)


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """All containers in a value with the keys of their parts."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _leaves(value[key])


@pytest.mark.parametrize("count", [pytest.param(300, marks=pytest.mark.slow), 12])
def test_odd_values_anywhere_in_the_state(count: int, under_way: dict[str, Any], tmp_path: Path) -> None:
    """It goes on, or ends with one line of ours: any other error is raised here."""
    stream = random.Random(3)
    values: list[Any] = [None, True, -1, 0, 1, 7, 2**40, 2**70, 0.5, float("nan"), "", "x", [], [1], {}, {"a": 1}]
    values += [torch.ones(2), torch.tensor(3.0), torch.tensor(-1), 1j, {"current": {"ready": 1}}]
    parts = ("loops", "callbacks", "TaskDataModule", "optimizer_states", "lr_schedulers", "litmaml_weights")
    for k in range(count):
        content = copy.deepcopy(under_way)
        part = parts[k % len(parts)]
        container, key = stream.choice([(content, part), *_leaves(content[part])])
        if stream.random() < 0.2 and isinstance(container, dict):
            del container[key]
        else:
            container[key] = stream.choice(values)
        said = go_on(content, tmp_path, "--trainer.max_steps=5")
        assert not said or said.startswith(("checkpoint", "model", "trainer", "ckpt_path")), said
        shutil.rmtree(tmp_path / "on", ignore_errors=True)


def test_a_place_without_a_record_of_the_task_data() -> None:
    state = {"place": [1, 8, 2], "whole": False, "train_tasks": 8, "together": 2}
    assert read_place(state, 2, None, 6).place == (1, 8, 2)
    assert read_place(state, 2, 6, 8).train_tasks == 8
    with pytest.raises(ValueError, match="the run had 6, got 8"):
        read_place(state, 2, 6, 6)


@pytest.mark.parametrize("callback", [EarlyStopping("val/loss"), Timer(duration={"hours": 1}), BestCheckpoint()])
def test_states_of_lightnings_callbacks(callback: Any) -> None:
    state = callback.state_dict()
    check_callbacks([callback], {callback.state_key: copy.deepcopy(state)})
    for key in state:
        odd = {**state, key: [] if key == "monitor" else "\x1b[2Jx"}
        for changed in (odd, {k: state[k] for k in state if k != key}):
            # What is None when it begins may be anything later.
            if changed and not (changed is odd and state[key] is None):
                with pytest.raises(ValueError, match=r"^checkpoint\.callbacks\."):
                    check_callbacks([callback], {callback.state_key: changed})


def test_a_reason_to_stop_that_lightning_does_not_know() -> None:
    callback = EarlyStopping("val/loss")
    with pytest.raises(ValueError, match=r"^checkpoint\.callbacks\.EarlyStopping: 99 is not a valid .*--init_weights$"):
        check_callbacks([callback], {callback.state_key: {**callback.state_dict(), "stopping_reason": 99}})
    assert callback.stopping_reason.value == 0


def test_a_run_whose_first_steps_had_no_finite_task_goes_on(tmp_path: Path) -> None:
    """Its optimizer has no state after steps."""
    skip = ["--model.on_nonfinite=skip", "--model.inner_optimizer.lr=1e38", "--model.inner_steps=5"]
    where = f"{ROOT}={tmp_path}"
    main(
        ["fit", "-c", SINUSOID, *SMALL, *QUICK, *skip, where, "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]
    )
    saved = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert (saved["global_step"], saved["optimizer_states"][0]["state"]) == (2, {})
    main(["fit", f"--ckpt_path={tmp_path}", *QUICK, "--trainer.max_steps=3"])
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("profiler", ["pytorch", "advanced"])
def test_a_run_that_is_profiled_begins_and_goes_on(profiler: str, tmp_path: Path) -> None:
    typed = [f"--trainer.profiler={profiler}", f"{ROOT}={tmp_path}", "--trainer.max_steps=2"]
    for arguments in (
        ["fit", "-c", SINUSOID, *SMALL, *QUICK, *typed],
        ["fit", f"--ckpt_path={tmp_path}", *QUICK, "--trainer.max_steps=4"],
    ):
        # Each in a process of its own, since Lightning's profiler leaves what it began to the garbage collector.
        subprocess.run([sys.executable, "-m", "litmaml", *arguments], check=True, capture_output=True, cwd=tmp_path)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4


def test_a_backend_that_torch_does_not_have(under_way: dict[str, Any], tmp_path: Path) -> None:
    strategy = {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"process_group_backend": "x"}}
    content = copy.deepcopy(under_way)
    content["configuration"]["trainer"]["strategy"] = strategy
    said = go_on(content, tmp_path)
    assert said.startswith("trainer.strategy.process_group_backend: there is no 'x'; leave it out, or take one of gloo")


def _replacing(real: Callable[..., Any], file: Path, other: bytes) -> Callable[..., Any]:
    """A function before which a file is replaced, as by another program."""

    def call(*arguments: Any, **named: Any) -> Any:
        beside = file.with_name("other")
        beside.write_bytes(other)
        beside.replace(file)
        return real(*arguments, **named)

    return call


def test_what_is_checked_is_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.ckpt"
    torch.save({"a": 1}, file)
    whole = file.read_bytes()
    torch.save({"a": 2}, file)
    other = file.read_bytes()
    for name in ("check_archive", "count_values", "checksums"):
        file.write_bytes(whole)
        with monkeypatch.context() as patched:
            real = getattr(checkpoint_module, name)
            patched.setattr(checkpoint_module, name, _replacing(real, file, other))
            assert load_plain(file) == {"a": 1}


def test_a_file_that_a_run_replaces_meanwhile_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.ckpt"
    DurableCheckpointIO().save_checkpoint({"a": 1}, file)
    real, runs = checkpoint_module.checksums, iter([1])

    def once(path: Path) -> list[str]:
        for _ in runs:
            DurableCheckpointIO().save_checkpoint({"a": 2}, file)
        return real(path)

    monkeypatch.setattr(checkpoint_module, "checksums", once)
    assert load_plain(file) == {"a": 2}
    file.write_bytes(file.read_bytes()[:-1])
    assert checksum_file(file).is_file()
    with pytest.raises(ValueError, match="is damaged: its content does not fit"):
        load_plain(file)


def test_weights_of_another_kind_are_not_cut(under_way: dict[str, Any], tmp_path: Path) -> None:
    content = copy.deepcopy(under_way)
    content["state_dict"] = {name: w.double() for name, w in content["state_dict"].items()}
    torch.save(content, tmp_path / "x.ckpt")
    assert MetaLearner.load_from_checkpoint(tmp_path / "x.ckpt").inner_loop.fast_names
    content["state_dict"]["inner_loop.model.head.bias"] = torch.ones(1, dtype=torch.complex128)
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"head\.bias holds torch\.float32, and the checkpoint has torch\.complex128"):
        MetaLearner.load_from_checkpoint(tmp_path / "x.ckpt")


class Unused(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)
        self.unused = torch.nn.Parameter(torch.ones(2))


def test_a_weight_that_nothing_depends_on_has_a_state_too(tmp_path: Path) -> None:
    """So a state with fewer weights than the learner was not written by fit."""
    file = made(tmp_path, Unused(), torch.nn.MSELoss(), Sinusoid(), optimizer=optim.Adam)
    assert len(read_checkpoint(file)["optimizer_states"][0]["state"]) == 3
