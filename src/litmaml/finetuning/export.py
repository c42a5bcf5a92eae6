"""Adapted models in files that run elsewhere, checked against the module when they are written."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from litmaml.finetuning.adapted_model import AdaptedModel
from litmaml.learner.trial.agreement import off, rounding_of
from litmaml.shown import listed
from litmaml.tasks import Tree, count_of, select, tensors_of, tree_map

_BATCHES = (1, 64)


def export_pt2(model: nn.Module, inputs: Tree, path: Path) -> None:
    """Write the model as ``torch.export`` has it; ``torch.export.load(path).module()`` runs it on inputs in one piece.

    What ``description`` says of the model is in the extra file ``litmaml.json``.

    Args:
        model: In eval mode, on the CPU; it takes and gives batches of any size.
        inputs: Some inputs (n, ...), or a tree of such, for the shapes and for the check.
        path: The file, ``*.pt2``.

    Raises:
        ValueError: The file's predictions on 1 or on 64 inputs are not the module's.
    """
    torch.export.save(_program(model, inputs), path, extra_files={"litmaml.json": json.dumps(description(model))})
    _check(torch.export.load(path).module(), model, inputs, path)


def export_onnx(model: nn.Module, inputs: Tree, path: Path) -> None:
    """Write the model for ONNX: input ``inputs`` (batch, ...), output ``predictions`` (batch, ...).

    Inputs that are a dict have the names of its keys, those of a tuple ``inputs.0``, ``inputs.1``, and what lies deeper
    the name of what holds it before its own, such as ``pair.0``. The file's metadata hold what ``description`` says of
    the model.

    Args:
        model: In eval mode, on the CPU; it takes and gives batches of any size.
        inputs: Some inputs (n, ...), or a tree of such, for the shapes and for the check.
        path: The file, ``*.onnx``.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: The file's predictions on 1 or on 64 inputs are not the module's, or two inputs have one name.
    """
    names = [*_names(inputs)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"export: two inputs would be called {listed(twice)}; name the model's inputs otherwise")
    try:
        for package in ("onnx", "onnxscript"):
            importlib.import_module(package)
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ImportError(
            f"export: onnx needs what the extra litmaml[onnx] names ({error}): pip install onnx onnxscript onnxruntime"
        ) from error
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about its own parts
            program = torch.onnx.export(
                _program(model, inputs),
                (),
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=["predictions"],
            )
            assert program is not None
            program.model.metadata_props.update(description(model))
            program.save(str(path), external_data=False)
    finally:
        exporter.setLevel(level)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    used = {part.name for part in session.get_inputs()}

    def run(batch: Tree) -> Tensor:
        given = zip(names, tensors_of(batch), strict=True)
        return torch.from_numpy(session.run(None, {name: part.numpy() for name, part in given if name in used})[0])

    _check(run, model, inputs, path)


EXPORTS: dict[str, Callable[[nn.Module, Tree, Path], None]] = {"pt2": export_pt2, "onnx": export_onnx}
"""How to write each kind of file, by its suffix."""


def description(model: nn.Module) -> dict[str, str]:
    """What a program has to know of a model beside its numbers, as texts by name.

    Of an adapted model: ``classes``, a list of names in the order of the predictions; ``preprocessing``, what becomes
    of an image (``ImageFormat``); ``table``, what becomes of a row; in JSON, and only what it has. And ``litmaml``, the
    version that wrote it.
    """
    told = {"litmaml": version("litmaml")}
    if not isinstance(model, AdaptedModel):
        return told
    parts = {
        "classes": model.classes,
        "preprocessing": None if model.image_format is None else asdict(model.image_format),
        "table": None if model.table is None else model.table.plain(),
    }
    return told | {name: json.dumps(part, ensure_ascii=False) for name, part in parts.items() if part is not None}


def _names(inputs: Tree, of: str = "") -> Iterator[str]:
    """The name of each tensor, in their order."""
    if isinstance(inputs, Tensor):
        yield of or "inputs"
    elif isinstance(inputs, dict):
        for key, part in inputs.items():
            yield from _names(part, f"{of}.{key}".lstrip("."))
    else:
        for place, part in enumerate(inputs):
            yield from _names(part, f"{of or 'inputs'}.{place}")


def _program(model: nn.Module, inputs: Tree) -> Any:
    batch = torch.export.Dim("batch", min=1)
    # Two examples: a batch of one would be taken for the only size.
    two = _repeated(inputs, 2)
    with warnings.catch_warnings():
        # Of recurrent layers, which keep a list of their weights; what is written is checked.
        warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export")
        return torch.export.export(model, (two,), dynamic_shapes=(tree_map(lambda _: {0: batch}, two),))


def _check(exported: Callable[[Tree], Tensor], model: nn.Module, inputs: Tree, path: Path) -> None:
    """Refuse a file whose predictions are off from the module's by more than rounding."""
    allowed = rounding_of(model, inputs)
    for size in _BATCHES:
        batch = _repeated(inputs, size)
        with torch.no_grad():
            wanted, got = cast(Tensor, model(batch)), exported(batch)
        if apart := off(got, wanted, allowed):
            raise ValueError(
                f"export: {path.name} predicts otherwise than the module on {size} inputs, by up to {apart:.2g}; it "
                "was not kept"
            )


def _repeated(inputs: Tree, size: int) -> Tree:
    return select(inputs, torch.arange(size) % count_of(inputs))
