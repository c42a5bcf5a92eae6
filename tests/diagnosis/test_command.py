"""``litmaml diagnose`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from litmaml.cli.main import main

SMALL = [
    "--model.model=litmaml.models.MLP",
    "--model.model.init_args.hidden=[8]",
    "--model.loss=torch.nn.MSELoss",
    "--data.tasks=litmaml.data.Sinusoid",
    "--trainer.accelerator=cpu",
]
CONFIGS = Path(__file__).parents[2] / "configs"


def _diagnosis(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "diagnosis.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run."""
    folder = tmp_path_factory.mktemp("run")
    main(
        [
            "fit",
            *SMALL,
            "--model.inner_steps=2",
            "--data.meta_batch=4",
            "--data.train_tasks=8",
            "--data.val_tasks=4",
            "--trainer.max_epochs=1",
            "--trainer.enable_progress_bar=false",
            "--trainer.log_every_n_steps=1",
            f"--trainer.default_root_dir={folder}",
        ]
    )
    return folder


def test_a_configuration_is_diagnosed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.backends.cudnn.allow_tf32 = True  # as torch has it
    main(
        [
            "diagnose",
            "-c",
            str(CONFIGS / "sinusoid.yaml"),
            "--model.model.init_args.hidden=[8]",
            "--data.meta_batch=7",
            "--trainer.accelerator=cpu",
            "--diagnose.tasks=4",
            f"--trainer.default_root_dir={tmp_path}",
        ]
    )
    found = _diagnosis(tmp_path)
    assert not torch.backends.cudnn.allow_tf32
    assert found["setting"]["tasks"] == 4
    assert found["advice"]["batches"]["configured"] == 7
    assert (tmp_path / "diagnosis.png").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["diagnosis.json", "diagnosis.png"]
    shown = capsys.readouterr().out
    assert "Recommended" in shown
    assert "written to" in shown


def test_a_checkpoint_brings_its_own_configuration(run: Path) -> None:
    main(["diagnose", f"--checkpoint={run}", "--diagnose.tasks=4", "--data.tasks.init_args.train.shots=6"])
    found = _diagnosis(run)
    assert found["setting"]["inner_steps"] == 2
    assert found["noise"]["samples"] == 6
    assert found["setting"]["checkpoint"].endswith("best.ckpt")


def test_the_weights_are_those_of_the_checkpoint(run: Path, tmp_path: Path) -> None:
    effort = ["--diagnose.tasks=4", "--trainer.default_root_dir"]
    main(["diagnose", f"--checkpoint={run}", *effort, str(tmp_path / "trained")])
    main(["diagnose", "-c", str(run / "config.yaml"), *effort, str(tmp_path / "fresh")])
    trained, fresh = (_diagnosis(tmp_path / name)["curvature"]["by_point"][0] for name in ("trained", "fresh"))
    assert trained["value"] != pytest.approx(fresh["value"], rel=1e-4)  # two steps of Adam lie between


def test_a_checkpoint_and_a_configuration_that_disagree(run: Path) -> None:
    with pytest.raises(SystemExit, match=r"litmaml diagnose: checkpoint: .* disagree: .* another architecture"):
        main(["diagnose", f"--checkpoint={run}", "--model.model.init_args.hidden=[9]", "--diagnose.tasks=4"])


def test_a_checkpoint_and_tasks_that_disagree(run: Path) -> None:
    with pytest.raises(SystemExit, match=r"model: MLP cannot take the tasks' inputs of shape \(1, 28, 28\)"):
        main(["diagnose", f"--checkpoint={run}", "--data.tasks=litmaml.data.Glyphs", "--diagnose.tasks=2"])


def test_more_classes_than_logits(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ways: the tasks have 7 classes, but the model gives 5 logits"):
        main(
            [
                "diagnose",
                "-c",
                str(CONFIGS / "glyphs.yaml"),
                "--data.tasks.init_args.train.ways=7",
                "--trainer.accelerator=cpu",
                "--diagnose.tasks=2",
                f"--trainer.default_root_dir={tmp_path}",
            ]
        )


def test_one_task_only(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"diagnose.tasks: got 1; how tasks differ"):
        main(["diagnose", *SMALL, "--diagnose.tasks=1", f"--trainer.default_root_dir={tmp_path}"])


def test_a_checkpoint_that_is_not_there() -> None:
    with pytest.raises(SystemExit, match="checkpoint: 'nowhere' is neither a file nor a run's folder"):
        main(["diagnose", "--checkpoint", "nowhere"])


def test_tasks_of_unequal_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unequal = ["--data.tasks=unequal.UnequalSines", "--diagnose.tasks=5", f"--trainer.default_root_dir={tmp_path}"]
    main(["diagnose", *SMALL, *unequal])
    assert _diagnosis(tmp_path)["setting"]["tasks"] == 3
    assert "the tasks have 2 sizes; those of the commonest are looked at" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"diagnose\.tasks: no two of 2 have one size; set it higher"):
        main(["diagnose", *SMALL, *unequal, "--diagnose.tasks=2"])
