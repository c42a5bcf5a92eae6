"""The same metrics through TensorBoard and CSV, where there is no wandb."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TENSORBOARD = Path(__file__).parents[2] / "configs" / "logger" / "tensorboard.yaml"
# With None in its place, `import wandb` fails as if it were not installed.
WITHOUT_WANDB = "import sys; sys.modules['wandb'] = None; from litmaml.cli.main import main; main(sys.argv[1:])"


@pytest.mark.slow
def test_tensorboard_and_csv_need_no_wandb(experiment: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = ["fit", "-c", str(experiment), "-c", str(TENSORBOARD), f"--trainer.default_root_dir={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_WANDB, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    (file,) = tmp_path.glob("logs/version_*/metrics.csv")
    lines = list(csv.DictReader(file.read_text().splitlines()))
    (events,) = tmp_path.glob("tensorboard/version_*/events*")
    board = EventAccumulator(str(events)).Reload()
    names = set(lines[0]) - {"step"}
    assert names == set(board.Tags()["scalars"]) - {"hp_metric"}
    assert {"train/gradient_norm", "train/meta_gradient_seconds", "val/accuracy", "val/loss_step_0"} <= names
    for name in names:
        written = [(int(line["step"]), float(line[name])) for line in lines if line[name]]
        shown = [(event.step, event.value) for event in board.Scalars(name)]
        assert [step for step, _ in shown] == [step for step, _ in written]
        assert [value for _, value in shown] == pytest.approx([value for _, value in written], rel=1e-5)
    # The configuration too, each logger in its own way.
    for logger in ("logs", "tensorboard"):
        (hparams,) = tmp_path.glob(f"{logger}/version_*/hparams.yaml")
        assert "max_epochs: 2" in hparams.read_text()


@pytest.mark.slow
def test_lightnings_own_goes_on_in_the_runs_folder(experiment: Path, tmp_path: Path) -> None:
    """Where it writes by default is the current folder, which is another one when the run goes on by its folder."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    typed = ["-c", str(experiment), f"--trainer.default_root_dir={run}", "--trainer.max_steps=1"]
    typed += ["--trainer.logger=lightning.pytorch.loggers.WandbLogger", "--trainer.logger.project=own"]
    for arguments in (typed, [f"--ckpt_path={run}", "--trainer.max_steps=2"]):
        done = subprocess.run(
            [sys.executable, "-m", "litmaml", "fit", *arguments], capture_output=True, text=True, cwd=elsewhere
        )
        assert done.returncode == 0, done.stderr
        if arguments is typed:
            assert [path.name for path in elsewhere.iterdir()] == ["wandb"]
            shutil.rmtree(elsewhere / "wandb")
    assert not [*elsewhere.iterdir()]
    assert [*(run / "wandb").glob("offline-run-*/*.wandb")]
