"""Adapted models in files that run elsewhere, checked against the module when they are written."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from litmaml.learner.trial.agreement import off, rounding_of

_BATCHES = (1, 64)


def export_pt2(model: nn.Module, inputs: Tensor, path: Path) -> None:
    """Write the model as ``torch.export`` has it; ``torch.export.load(path).module()`` runs it.

    Args:
        model: In eval mode, on the CPU; it takes and gives batches of any size.
        inputs: Some inputs (n, ...), for the shapes and for the check.
        path: The file, ``*.pt2``.

    Raises:
        ValueError: The file's predictions on 1 or on 64 inputs are not the module's.
    """
    torch.export.save(_program(model, inputs), path)
    _check(torch.export.load(path).module(), model, inputs, path)


def export_onnx(model: nn.Module, inputs: Tensor, path: Path) -> None:
    """Write the model for ONNX: input ``inputs`` (batch, ...), output ``predictions`` (batch, ...).

    Args:
        model: In eval mode, on the CPU; it takes and gives batches of any size.
        inputs: Some inputs (n, ...), for the shapes and for the check.
        path: The file, ``*.onnx``.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is missing.
        ValueError: The file's predictions on 1 or on 64 inputs are not the module's.
    """
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
            torch.onnx.export(
                _program(model, inputs),
                (),
                str(path),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=["inputs"],
                output_names=["predictions"],
            )
    finally:
        exporter.setLevel(level)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": batch.numpy()})[0])

    _check(run, model, inputs, path)


EXPORTS: dict[str, Callable[[nn.Module, Tensor, Path], None]] = {"pt2": export_pt2, "onnx": export_onnx}
"""How to write each kind of file, by its suffix."""


def _program(model: nn.Module, inputs: Tensor) -> Any:
    batch = torch.export.Dim("batch", min=1)
    # Two examples: a batch of one would be taken for the only size.
    return torch.export.export(model, (_repeated(inputs, 2),), dynamic_shapes=({0: batch},))


def _check(exported: Callable[[Tensor], Tensor], model: nn.Module, inputs: Tensor, path: Path) -> None:
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


def _repeated(inputs: Tensor, size: int) -> Tensor:
    return inputs[torch.arange(size) % len(inputs)]
