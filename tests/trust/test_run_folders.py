"""A run's folder that somebody else made: what commands write into it goes nowhere else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_honest_checkpoints import made
from torch import nn
from watch import told

from litmaml.callbacks import BestCheckpoint
from litmaml.cli.main import main
from litmaml.data import Sinusoid
from litmaml.finetuning.adapted_model import AdaptedModel
from litmaml.finetuning.model_folder import Recipe
from litmaml.models import MLP
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.checkpoint_io import link_checkpoint
from litmaml.runs.folder import check_places, resolve_checkpoint
from litmaml.runs.owner import OWNER, FolderInUse, claim
from litmaml.statistics.plots import plot_adaptation

WRITTEN = [
    *("config.yaml", "test_results.json", "adaptation.png", "functions.png", ".owner", "wandb_id"),
    *("predictions.csv", "predictions.safetensors", ".predictions.unfinished", "diagnosis.json", "diagnosis.png"),
    *("checkpoints/last.ckpt", "checkpoints/.last.ckpt.unfinished", "checkpoints/last.ckpt.sha256"),
    "checkpoints/.last.ckpt.sha256.unfinished",
]
"""All that commands write into a run's folder by a name that is known beforehand."""


@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize(
    "link", [Path.symlink_to, pytest.param(Path.hardlink_to, marks=pytest.mark.slow)], ids=["by name", "hard"]
)
def test_links_in_a_runs_folder_are_not_written_through(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine"
    file = made(run, MLP(hidden=[3]), nn.MSELoss(), Sinusoid())
    mine.mkdir()
    for name in WRITTEN:
        (run / name).unlink(missing_ok=True)
        (mine / name.replace("/", " ")).write_text("precious")
        link(run / name, mine / name.replace("/", " "))
    (run / "checkpoints" / "last.ckpt.sha256").unlink()
    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    for command in ("test", "validate", "predict"):
        main([command, f"--ckpt_path={file}", *quick])
    main(["diagnose", f"--checkpoint={file}", "--trainer.accelerator=cpu", "--diagnose.tasks=2"])
    main(["fit", f"--ckpt_path={file}", *quick, "--trainer.max_steps=2"])
    assert {path.read_text() for path in mine.iterdir()} == {"precious"}
    for name in ("config.yaml", "test_results.json", "adaptation.png", "predictions.csv", "checkpoints/last.ckpt"):
        assert not (run / name).is_symlink(), name
        assert not (mine / name.replace("/", " ")).samefile(run / name), name
        assert (run / name).stat().st_size > 20, name


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to], ids=["by name", "hard"])
def test_an_adapted_model_is_not_written_through_links(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    recipe = Recipe({"class_path": "litmaml.models.MLP", "init_args": {"outputs": 2}}, ["head"], 2, {})
    (tmp_path / "adapted").mkdir()
    for name in ("classes.json", "model.safetensors", *(["config.yaml"] if link == Path.symlink_to else [])):
        (tmp_path / name).write_text("precious")
        link(tmp_path / "adapted" / name, tmp_path / name)
    AdaptedModel(MLP(outputs=2), ["a", "b"], None, recipe).save(tmp_path / "adapted")
    assert {path.read_text() for path in tmp_path.iterdir() if path.is_file()} == {"precious"}


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to], ids=["by name", "hard"])
def test_a_link_among_logs_is_refused(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    """A recorded logger may name a version, whose folder is there."""
    logs = tmp_path / "run" / "logs" / "version_0"
    logs.mkdir(parents=True)
    (logs / "metrics.csv").touch()
    check_places(tmp_path / "run", [str(logs)])
    (tmp_path / "mine").write_text("precious")
    link(logs / "hparams.yaml", tmp_path / "mine")
    with pytest.raises(ValueError, match=r"hparams\.yaml' is a link, and a logger writes there; move it away"):
        check_places(tmp_path / "run", [str(logs)])


def test_a_living_owner_with_a_second_name_is_left(tmp_path: Path) -> None:
    """As by a copy of the folder that is made of links."""
    owner = claim(tmp_path)
    (tmp_path / "copy").hardlink_to(tmp_path / OWNER)
    with pytest.raises(FolderInUse):
        claim(tmp_path)
    owner.check()
    owner.release()


def test_a_pipe_in_place_of_a_file_holds_nothing_up(tmp_path: Path) -> None:
    for name in (OWNER, "x.png"):
        os.mkfifo(tmp_path / name)
    claim(tmp_path).release()
    plot_adaptation(tmp_path / "x.png", {"loss": []}, "")
    assert (tmp_path / "x.png").is_file()


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_folders_of_a_run_that_are_links_are_not_written_into(tmp_path: Path) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine"
    file = made(run, MLP(hidden=[3]), nn.MSELoss(), Sinusoid())
    link_checkpoint(file, file.with_name("last.ckpt"))
    shutil.copytree(run, mine)
    quick = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.max_steps=2"]
    before = {path: path.stat().st_mtime_ns for path in mine.rglob("*")}
    for name in ("checkpoints", "logs", "wandb"):
        here = run / name
        kept = here.rename(tmp_path / "kept") if here.is_dir() else None
        (mine / name).mkdir(exist_ok=True)
        here.symlink_to(mine / name)
        before |= {mine / name: (mine / name).stat().st_mtime_ns}
        said = told(lambda: main(["fit", f"--ckpt_path={run}", *quick]))
        assert said.startswith(f"trainer.default_root_dir: {str(here)!r} is a link or a file, and a run writes into"), (
            said
        )
        main(["test", f"--ckpt_path={run}", *quick[:2]])  # which reads there
        here.unlink()
        if kept is not None:
            kept.rename(here)
    assert {path: path.stat().st_mtime_ns for path in mine.rglob("*")} | {mine: 0} == before | {mine: 0}
    (tmp_path / "link").symlink_to(run)
    main(["fit", f"--ckpt_path={tmp_path / 'link'}", f"--trainer.default_root_dir={tmp_path / 'link'}", *quick])
    assert (run / "logs").is_dir()


NO_FILES: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to nothing": lambda path: path.symlink_to("/nowhere"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.mark.filterwarnings("ignore:The number of training batches", "ignore:unclosed <socket")
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_in_a_checkpoints_place(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's name has to be short
    best = made(Path("run"), MLP(hidden=[3]), nn.MSELoss(), Sinusoid())
    last = best.with_name("last.ckpt")
    link_checkpoint(best, last)
    best.unlink()
    NO_FILES[kind](best)
    commands = [[name, "--ckpt_path=run"] for name in ("test", "validate", "predict")]
    commands += [["diagnose", "--checkpoint=run"], ["finetune", "--checkpoint=run", "--data=.", "--output=out"]]
    commands += [["fit", "--init_weights=run", "--data.tasks=Sinusoid"]]
    for command in commands:
        said = told(lambda command=command: main(command))  # type: ignore[misc]
        assert said.endswith(f": {best} is no file; there is {last}"), said
    said = told(lambda: main(["test", f"--ckpt_path={best}"]))
    assert "there is no file" not in said
    assert "run/checkpoints/best.ckpt" in said
    last.rename(last.with_name("other.ckpt"))
    NO_FILES[kind](last)
    assert resolve_checkpoint("run", Path(), resume=True).name == "other.ckpt"
    said = told(lambda: main(["fit", "--ckpt_path=run", "--trainer.accelerator=cpu", "--trainer.max_steps=2"]))
    if kind == "folder":
        assert "best.ckpt' is a folder in a checkpoint's place; move it away" in said
    else:
        assert said == ""
        assert last.is_file()


def test_what_was_best_lies_in_the_runs_own_folder(tmp_path: Path) -> None:
    """The worst of the best is removed when there is a better one."""
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("precious")
    (tmp_path / "checkpoints").mkdir()
    for name in ("notes.txt", "a.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    kept = {name: torch.tensor(1.0) for name in (str(thesis), "../thesis.txt", "notes.txt", "a.ckpt", "gone.ckpt", "")}
    callback = BestCheckpoint(save_top_k=3)
    callback.dirpath = str(tmp_path / "checkpoints")
    callback.load_state_dict({"monitor": "val/loss", "kept": kept, "metrics": {}})
    assert callback.best_k_models == {str(tmp_path / "checkpoints" / "a.ckpt"): 1.0}


def test_a_style_in_the_current_folder_starts_no_latex(tmp_path: Path) -> None:
    """matplotlib reads one there when it is imported."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    script = (
        "import matplotlib\nassert matplotlib.rcParams['text.usetex']\nfrom pathlib import Path\n"
        "from litmaml.statistics.plots import plot_adaptation\n"
        "plot_adaptation(Path('x.png'), {'loss': []}, 'a title')\n"
        "assert matplotlib.rcParams['text.usetex']\n"
    )
    nowhere = {**os.environ, "PATH": ""}  # without a latex to be found
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=nowhere, check=True)
    assert (tmp_path / "x.png").is_file()


@pytest.mark.parametrize("name", [pytest.param("json", marks=pytest.mark.slow), "yaml"])
@pytest.mark.parametrize("where", ["current folder", pytest.param("folder of a configuration", marks=pytest.mark.slow)])
def test_no_module_beside_a_file_is_run(name: str, where: str, tmp_path: Path) -> None:
    """Nor by a process that the command line starts to look for types."""
    strange, own, mark = tmp_path / "strange", tmp_path / "own", tmp_path / "ran"
    strange.mkdir()
    own.mkdir()
    (strange / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close(); raise SystemExit(3)", encoding="utf-8")
    config = strange / "config.yaml"
    config.write_bytes((Path(__file__).parents[2] / "configs" / "sinusoid.yaml").read_bytes())
    options = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1", "--trainer.max_steps=1"]
    small = ["--data.meta_batch=1", "--data.train_tasks=1", "--data.val_tasks=1", "--trainer.accelerator=cpu"]
    small.append(f"--trainer.default_root_dir={tmp_path / 'run'}")
    script = "import sys; from litmaml.cli.main import main; main()"
    subprocess.run(
        # As the installed command is called, which has its own folder first and not the current one.
        [sys.executable, "-P", "-c", script, "fit", "-c", str(config), *options, *small],
        cwd=strange if where == "current folder" else own,
        check=True,
        capture_output=True,
    )
    assert not mark.exists()


def test_a_run_with_the_loggers_of_the_configurations_goes_on_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard's takes arguments that it hands on, which the run records as they are by default."""
    pytest.importorskip("tensorboard")
    configs = Path(__file__).parents[2] / "configs"
    run, small = tmp_path / "run", ["--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    typed = ["-c", str(configs / "sinusoid.yaml"), "-c", str(configs / "logger" / "tensorboard.yaml")]
    sizes = ["--data.meta_batch=1", "--data.train_tasks=4", "--data.val_tasks=1", f"--trainer.default_root_dir={run}"]
    main(["fit", *typed, *small, *sizes, "--trainer.max_steps=1"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    main(["fit", f"--ckpt_path={run}", *small, "--trainer.max_steps=2"])
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 2
    for name in ("logs", "tensorboard"):
        assert len([*(run / name).glob("version_*")]) == 2
    assert not [*Path().iterdir()]
