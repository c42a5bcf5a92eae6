"""Colour photographs of any shape, from meta-training to a file for elsewhere: one format all the way."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from gratings import grating
from numpy.typing import NDArray
from PIL import Image, ImageOps

import litmaml
from litmaml.cli.main import main
from litmaml.data import Augment, ImageFolderTasks, ImageFormat
from litmaml.finetuning.meta_checkpoint import open_checkpoint
from litmaml.runs.recipe import build

CONFIG = Path(__file__).parents[2] / "configs" / "image_folder.yaml"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WANTED = ImageFormat(28, 3, mean=MEAN, std=STD, fit="crop")


def photograph(folder: Path, turn: float, seed: int) -> None:
    """Coloured stripes of a direction between two margins of noise."""
    stream = np.random.default_rng([seed, int(turn * 1000)])
    shades = stream.uniform(0.4, 1, 3) * np.asarray(grating(turn, seed))[..., None]
    wide = stream.integers(256, size=(32, 48, 3), dtype=np.uint8)
    wide[:, 8:40] = shades.astype(np.uint8)
    Image.fromarray(wide).save(folder / f"{seed}.png")


def photographs(folder: Path, classes: int, each: int, seed: int = 0) -> Path:
    for k in range(classes):
        (folder / f"class {k}").mkdir(parents=True)
        for i in range(each):
            photograph(folder / f"class {k}", math.pi * k / classes, seed + i)
    return folder


def by_hand(file: str) -> NDArray[np.float32]:
    """What the network takes of a file, as somebody would write it where litmaml is not."""
    image = ImageOps.fit(Image.open(file), (28, 28), Image.Resampling.LANCZOS)
    pixels = (np.asarray(image) / 255 - np.array(MEAN)) / np.array(STD)
    return pixels.transpose(2, 0, 1)[None].astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as it is typed."""
    folder = tmp_path_factory.mktemp("photographs")
    tasks = {
        "root": photographs(folder / "images", classes=15, each=4),
        "image_format": f"{{size: 28, channels: 3, mean: {[*MEAN]}, fit: crop}}",
        "image_format.std": f"{[*STD]}",
        "augment": "{crop: 3, flip: true}",
        "augment.colour": 0.4,
        "train": "{ways: 3, shots: 1, queries: 3}",
    }
    main(
        [
            *("fit", "-c", str(CONFIG), "--model.model.init_args={ways: 3, filters: 8, channels: 3, size: 28}"),
            *(f"--data.tasks.init_args.{name}={value}" for name, value in tasks.items()),
            *("--data.meta_batch=2", "--data.train_tasks=4", "--data.val_tasks=2", "--trainer.max_epochs=1"),
            *("--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"),
            f"--trainer.default_root_dir={folder / 'run'}",
        ]
    )
    return folder / "run"


def test_a_run_is_rebuilt_with_its_format_and_changes(run: Path) -> None:
    main(["test", f"--ckpt_path={run}", "--trainer.accelerator=cpu", "--data.test_tasks=2"])
    found = open_checkpoint(run)
    assert found.image_format == WANTED
    tasks = build(found.tasks, ImageFolderTasks, "tasks")
    assert tasks.image_format == WANTED
    assert tasks.augment == Augment(crop=3, flip=True, colour=0.4)
    assert json.loads((run / "test_results.json").read_text())["protocol"]["ways"] == 3


def test_an_adapted_model_prepares_photographs_as_its_training_did(run: Path, tmp_path: Path) -> None:
    few, more = photographs(tmp_path / "few", 4, 3, seed=50), photographs(tmp_path / "more", 4, 2, seed=90)
    out, table = tmp_path / "out", tmp_path / "predictions.csv"
    asked = ["--checkpoint", str(run), "--data", str(few), "--output", str(out), "--steps=5"]
    main(["finetune", *asked, "--export", "onnx"])
    kept = yaml.safe_load((out / "config.yaml").read_text())["image_format"]
    assert {"mean": [*MEAN], "std": [*STD], "fit": "crop"}.items() <= kept.items()

    main(["classify", "--model", str(out), "--images", str(more), "--output", str(table)])
    with table.open(encoding="utf-8", newline="") as opened:
        predicted = [*csv.DictReader(opened)]
    assert len(predicted) == 8
    names = json.loads((out / "classes.json").read_text())
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    model = litmaml.load(out)
    assert model.image_format == WANTED
    for row in predicted:
        inputs = by_hand(row["file"])
        torch.testing.assert_close(model.preprocess(row["file"]), torch.from_numpy(inputs), rtol=1e-5, atol=1e-5)
        (logits,) = session.run(None, {"inputs": inputs})
        shares = torch.softmax(torch.from_numpy(logits)[0], 0)
        assert names[int(shares.argmax())] == row["class"]
        assert float(row["probability"]) == pytest.approx(float(shares.max()), abs=1e-4)


def test_a_model_of_before_has_one_mean_and_is_squeezed(run: Path, tmp_path: Path) -> None:
    few, out = photographs(tmp_path / "few", 4, 3, seed=50), tmp_path / "out"
    asked = ["--checkpoint", str(run), "--data", str(few), "--output", str(out), "--steps=1"]
    main(["finetune", *asked, "--image_format={size: 28, channels: 3, mean: 0.5, std: 0.25}"])
    config = yaml.safe_load((out / "config.yaml").read_text())
    del config["image_format"]["fit"]
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    file = next(few.rglob("*.png"))
    squeezed = np.asarray(Image.open(file).resize((28, 28), Image.Resampling.LANCZOS), np.float32)
    wanted = torch.from_numpy((squeezed / 255 - 0.5) / 0.25).permute(2, 0, 1)[None]
    torch.testing.assert_close(litmaml.load(out).preprocess(file), wanted, rtol=1e-5, atol=1e-5)


def test_a_wrong_number_of_means_is_told_before_anything_is_read(run: Path, tmp_path: Path) -> None:
    asked = ["--checkpoint", str(run), "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"image_format\.mean: is no list of 3 numbers, .* got \[0\.5, 0\.4\]; give"):
        main(["finetune", *asked, "--image_format={size: 28, channels: 3, mean: [0.5, 0.4]}"])
    with pytest.raises(ValueError, match=r"augment\.crop: must be smaller than the images, of 28 pixels, got 28; give"):
        main(["fit", "-c", str(run / "config.yaml"), "--data.tasks.init_args.augment.crop=28"])
