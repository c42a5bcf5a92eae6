"""What ``predict`` leaves behind: a table to look at, and tensors to compute with."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from litmaml.data.task_data_module import TaskDataModule
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.whole_files import write_whole
from litmaml.shown import printable
from litmaml.tasks import Tree, form, named_tensors, tree_map


class Predictions(Callback):
    """Writes ``predictions.csv`` and ``predictions.safetensors`` to the run's folder, and says so.

    The tensors are the tasks' ``numbers`` (T,), the adapted model's ``predictions`` on their query (T, n, ...) and the
    ``targets`` (``targets['mask']`` and so on of a dict); the file's metadata name the ``checkpoint``. Of tasks of
    unequal size those of each size stand under names with a number: ``numbers.0``, ``predictions.0``, ``numbers.1``.
    The table has a line for each example: the task's number, the example's, and the target with what was predicted:
    the class and its probability, or the values. (Where an example has a class at several places, such as an image's
    pixels, there is a line for each place; where targets are a dict or a tuple, there are predictions alone.) Values
    are in the units of what the tasks are made of, such as a table's, where the model predicts one for each target.
    Where a task is a group, such as a patient's rows, the last column, ``group``, has its name.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, Tree]] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if isinstance(pl_module, MetaLearner):
            data: object = getattr(trainer, "datamodule", None)  # set outside its class
            for stack in [outputs] if isinstance(outputs, dict) else outputs:
                kept = tree_map(lambda part: part.detach().cpu().contiguous(), stack)
                self._batches.append(_in_own_units(kept, data) if isinstance(data, TaskDataModule) else kept)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches, self._batches = self._batches, []
        if trainer.world_size > 1:
            of_all: list[list[dict[str, Tree]]] = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(of_all, batches)
            batches = [batch for part in of_all for batch in part]
        if not trainer.is_global_zero or not batches:
            return
        sizes = _of_each_size(batches)
        tensors = {
            name + (f".{k}" if len(sizes) > 1 else ""): part
            for k, size in enumerate(sizes)
            for what, tree in size.items()
            for name, part in named_tensors(tree, what)
        }
        count = sum(len(size["numbers"]) for size in sizes)
        groups = _groups(sizes, getattr(trainer, "datamodule", None))
        folder = Path(trainer.default_root_dir)
        named = {"checkpoint": str(trainer.ckpt_path)} if trainer.ckpt_path else {}
        write_whole(folder / "predictions.safetensors", lambda fresh: _save_tensors(tensors, fresh, named))
        write_whole(folder / "predictions.csv", lambda fresh: _save_table(sizes, groups, fresh))
        written = f"written to {folder}: predictions.csv, predictions.safetensors ({count} tasks)"
        Console().print(printable(written), soft_wrap=True, highlight=False, markup=False)


def _in_own_units(stack: dict[str, Tree], data: TaskDataModule) -> dict[str, Tree]:
    """Predictions of values, and the values, in the data's own units, where there is one prediction for each."""
    said, true = stack["predictions"], stack["targets"]
    if not isinstance(said, Tensor) or not isinstance(true, Tensor) or said.numel() != true.numel():
        return stack
    numbers = stack["numbers"].tolist()
    return stack | {
        name: data.tasks.in_own_units(part, numbers, data.seed)
        for name, part in (("predictions", said), ("targets", true))
    }


def _groups(sizes: Sequence[dict[str, Tree]], data: object) -> dict[int, str]:
    """The name of each task's group, where tasks are groups."""
    if not isinstance(data, TaskDataModule):
        return {}
    numbers = [number for size in sizes for number in size["numbers"].tolist()]
    names = {number: data.tasks.group_of("test", number, data.seed) for number in numbers}
    return {number: name for number, name in names.items() if name is not None}


def _save_tensors(tensors: dict[str, Tensor], file: Path, named: dict[str, str]) -> None:
    try:
        save_file(tensors, file, named)
    except SafetensorError as error:  # of the disk, too
        raise OSError(str(error)) from error


def _of_each_size(batches: Sequence[dict[str, Tree]]) -> list[dict[str, Tree]]:
    """The tasks of each size together, in the order of their numbers."""
    alike: dict[Any, list[dict[str, Tree]]] = {}
    for batch in batches:
        alike.setdefault(form(batch, lambda part: part.shape[1:]), []).append(batch)
    found = []
    for same in alike.values():
        together = tree_map(lambda *parts: torch.cat(parts), *same)
        order = together["numbers"].argsort()
        found.append(tree_map(lambda part, order=order: part[order].contiguous(), together))
    return found


def _save_table(sizes: Sequence[dict[str, Tree]], groups: Mapping[int, str], file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, lineterminator="\n")
        header: Sequence[object] = ()
        lines: list[Sequence[object]] = []
        for size in sizes:
            header, *more = rows(**size)
            lines += more
        if len(sizes) > 1:
            lines.sort(key=lambda line: line[0])  # type: ignore[arg-type, return-value]  # a number
        if groups:
            header, lines = [*header, "group"], [[*line, groups.get(line[0], "")] for line in lines]  # type: ignore[call-overload]
        writer.writerows([header, *lines])


def rows(numbers: Tensor, predictions: Tensor, targets: Tree) -> Iterator[Sequence[object]]:
    """The table's lines, the first of which names its columns."""
    count = predictions.shape[1]
    if not isinstance(targets, Tensor):
        said = predictions.reshape(*predictions.shape[:2], -1)
        yield ["task", "example", *_columns("prediction", said.shape[2])]
        for number, ps in zip(numbers.tolist(), said.tolist(), strict=True):
            yield from ([number, example, *ps[example]] for example in range(count))
        return
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
