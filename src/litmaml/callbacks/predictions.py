"""What ``predict`` leaves behind: a table to look at, and tensors to compute with."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.whole_files import write_whole
from litmaml.shown import printable


class Predictions(Callback):
    """Writes ``predictions.csv`` and ``predictions.safetensors`` to the run's folder, and says so.

    The tensors are the tasks' ``numbers`` (T,), the adapted model's ``predictions`` on their query (T, n, ...) and the
    ``targets``; the file's metadata name the ``checkpoint``. The table has a line for each example: the task's number,
    the example's, and the target with what was predicted: the class and its probability, or the values. (Where an
    example has a class at several places, such as an image's pixels, there is a line for each place.)
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, Tensor]] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if isinstance(pl_module, MetaLearner):
            self._batches.append({name: value.detach().cpu().contiguous() for name, value in outputs.items()})

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches, self._batches = self._batches, []
        if trainer.world_size > 1:
            of_all: list[list[dict[str, Tensor]]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(of_all, batches)
            batches = [batch for part in of_all for batch in part]
        if not trainer.is_global_zero or not batches:
            return
        order = torch.cat([batch["numbers"] for batch in batches]).argsort()
        tensors = {name: torch.cat([batch[name] for batch in batches])[order].contiguous() for name in batches[0]}
        folder = Path(trainer.default_root_dir)
        named = {"checkpoint": str(trainer.ckpt_path)} if trainer.ckpt_path else {}
        write_whole(folder / "predictions.safetensors", lambda fresh: _save_tensors(tensors, fresh, named))
        write_whole(folder / "predictions.csv", lambda fresh: _save_table(tensors, fresh))
        written = f"written to {folder}: predictions.csv, predictions.safetensors ({len(order)} tasks)"
        Console().print(printable(written), soft_wrap=True, highlight=False, markup=False)


def _save_tensors(tensors: dict[str, Tensor], file: Path, named: dict[str, str]) -> None:
    try:
        save_file(tensors, file, named)
    except SafetensorError as error:  # of the disk, too
        raise OSError(str(error)) from error


def _save_table(tensors: dict[str, Tensor], file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as table:
        csv.writer(table, lineterminator="\n").writerows(rows(**tensors))


def rows(numbers: Tensor, predictions: Tensor, targets: Tensor) -> Iterator[Sequence[object]]:
    """The table's lines, the first of which names its columns."""
    count = targets.shape[1]
    if targets.is_floating_point():
        true, said = targets.reshape(*targets.shape[:2], -1), predictions.reshape(*predictions.shape[:2], -1)
        yield ["task", "example", *_columns("target", true.shape[2]), *_columns("prediction", said.shape[2])]
        for number, ys, ps in zip(numbers.tolist(), true.tolist(), said.tolist(), strict=True):
            for example in range(count):
                yield [number, example, *ys[example], *ps[example]]
        return
    # (T, n, classes, ...) against (T, n, ...): the classes come right after the examples.
    best = predictions.softmax(2).max(2)
    places = targets[0, 0].numel()
    columns = [part.reshape(len(numbers), count, places).tolist() for part in (targets, best.indices, best.values)]
    yield ["task", "example", *(["place"] if places > 1 else []), "target", "prediction", "probability"]
    for k, number in enumerate(numbers.tolist()):
        for example in range(count):
            for place in range(places):
                where = [place] if places > 1 else []
                label, guess, probability = (column[k][example][place] for column in columns)
                yield [number, example, *where, label, guess, f"{probability:.6g}"]


def _columns(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{k}" for k in range(count)]
