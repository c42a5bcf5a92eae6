"""Segmentation: each image with its own mask, changed alike, whatever the layout."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything
from PIL import Image
from torch import Tensor, nn
from torch.optim import Adam

from litmaml.data import Augment, Episode, ImageFormat, MaskTasks, TaskDataModule
from litmaml.inner import SGD
from litmaml.learner.meta_learner import MetaLearner
from litmaml.outer import FirstOrder
from quiet_trainer import quiet_trainer

SIZE = 8


def written(root: Path, form: str, classes: int = 5, images: int = 4) -> None:
    """Squares that are brighter than anything else, on noise: the mask is where the image is bright."""
    lines = ["file,class"]
    for k in range(classes):
        for image in range(images):
            stream = np.random.default_rng([k, image])
            pixels = stream.integers(0, 100, (SIZE, SIZE, 3), np.uint8)
            place = np.zeros((SIZE, SIZE), bool)
            top, left = stream.integers(0, 4, 2)
            place[top : top + 3, left : left + 4] = True
            pixels[place] = 200 + k
            name = f"class{k}/{image}" if form != "list" else f"{k}_{image}"
            photo, mask = {
                "beside": (root / f"{name}.jpg", root / f"{name}.png"),
                "folders": (root / "images" / f"{name}.png", root / "masks" / f"{name}.gif"),
                "list": (root / "images" / f"{name}.png", root / "marks" / f"{name}.bmp"),
            }[form]
            for path, content in ((photo, pixels), (mask, (place * 255).astype(np.uint8))):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(path, "PNG" if form == "beside" else None)
            lines.append(f"{photo.name},class{k}")
    if form == "list":
        (root / "labels.csv").write_text("\n".join(lines))


FORMS: dict[str, dict[str, Any]] = {"beside": {}, "folders": {"masks": "masks"}, "list": {"masks": "marks"}}


def mask_tasks(root: Path, **options: Any) -> MaskTasks:
    settings: dict[str, Any] = {"image_format": ImageFormat(SIZE, 3), "train": Episode(shots=2, queries=2)} | options
    return MaskTasks(str(root), **settings)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("changes", [{}, {"rotations": True}, {"augment": Augment(crop=2, flip=True)}, {"affine": 1.0}])
def test_every_mask_is_that_of_its_image(form: str, changes: dict[str, Any], tmp_path: Path) -> None:
    written(tmp_path, form)
    tasks = mask_tasks(tmp_path, **FORMS[form], **changes)
    for _ in range(2):  # the second time from what is kept
        tasks.load("train")
        batch = tasks.render(tasks.sample("train", range(8), seed=0)).query
        assert batch.inputs.shape == (8, 2, 3, SIZE, SIZE)
        assert batch.targets.shape == (8, 2, SIZE, SIZE)
        assert batch.targets.dtype == torch.int64
        bright = batch.inputs.mean(2) > 150 / 255
        agree = (bright == (batch.targets == 1)).float().mean()
        assert agree == 1 if "affine" not in changes else agree > 0.97
        assert 0 < batch.targets.float().mean() < 1
        tasks = mask_tasks(tmp_path, **FORMS[form], **changes)


def test_masks_are_mirrored_and_moved_where_images_are(tmp_path: Path) -> None:
    written(tmp_path, "beside")
    plain, mirrored, moved = (
        (tasks := mask_tasks(tmp_path, augment=augment)).render(tasks.sample("train", range(6), seed=0)).query
        for augment in (Augment(colour=1e-9), Augment(flip=True), Augment(crop=2))
    )
    flipped = (mirrored.targets != plain.targets).flatten(2).any(2)
    assert 0 < flipped.sum() < flipped.numel()
    assert torch.equal(mirrored.targets[flipped], plain.targets[flipped].flip(-1))
    assert (moved.targets != plain.targets).any()


def test_each_class_of_a_task_has_its_own_label(tmp_path: Path) -> None:
    written(tmp_path, "beside", classes=6)
    tasks = mask_tasks(tmp_path, train=Episode(ways=2, shots=1, queries=2), split=(4, 1, 1), test=Episode(ways=1))
    batch = tasks.render(tasks.sample("train", range(5), seed=0)).query
    assert [{*image.flatten().tolist()} for image in batch.targets[0]] == [{0, 1}, {0, 1}, {0, 2}, {0, 2}]
    shades = (batch.inputs * 255).round().amax((2, 3, 4))
    assert (shades[:, 0] == shades[:, 1]).all()
    assert (shades[:, 0] != shades[:, 2]).all()
    assert mask_tasks(tmp_path).sizes("test").ways == 1


def test_the_value_of_the_class_is_told_by_foreground(tmp_path: Path) -> None:
    written(tmp_path, "folders")
    for path in (tmp_path / "masks").rglob("*.gif"):
        with Image.open(path) as opened:
            place = np.array(opened.convert("L")) > 0
        image = Image.fromarray((place * 3).astype(np.uint8))
        image.putpalette(bytes(9) + bytes((255, 128, 0)))  # colours 0 to 2 are black
        image.save(path.with_suffix(".png"))
        path.unlink()
    batch = {}
    for foreground in (3, 7):
        tasks = mask_tasks(tmp_path, masks="masks", foreground=foreground)
        batch[foreground] = tasks.render(tasks.sample("train", [0], seed=0)).query
    assert ((batch[3].inputs.mean(2) > 150 / 255) == (batch[3].targets == 1)).all()
    assert (batch[7].targets == 0).all()


def test_missing_and_unreadable_masks_are_named(tmp_path: Path) -> None:
    written(tmp_path, "folders")
    (tmp_path / "masks" / "class1" / "2.gif").unlink()
    with pytest.raises(ValueError, match=r"masks=masks: 1 of 20 images have no mask: .*class1/2\.png; each needs"):
        mask_tasks(tmp_path, masks="masks").class_names("train")
    written(tmp_path, "folders")
    for path in (tmp_path / "masks").rglob("*.gif"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"masks: cannot read .*\.gif: .*; save it as a grey PNG of 8 bits"):
        mask_tasks(tmp_path, masks="masks").load("train")


class Marks(nn.Module):
    """Two logits for each pixel, of what is around it."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        marks: Tensor = self.out(self.near(images).relu())
        return marks


def test_a_network_learns_to_mark_squares(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    written(tmp_path / "set", "beside")
    data = TaskDataModule(mask_tasks(tmp_path / "set"), meta_batch=4, train_tasks=80, val_tasks=4, test_tasks=4)
    learner = MetaLearner(Marks(), SGD(lr=0.5), FirstOrder(), inner_steps=2, optimizer=partial(Adam, lr=0.03))
    trainer = quiet_trainer(tmp_path, max_epochs=3)
    before = trainer.test(learner, data, verbose=False)[0]["test/accuracy"]
    trainer.fit(learner, data)
    assert trainer.test(learner, data, verbose=False)[0]["test/accuracy"] > max(before, 0.95)
