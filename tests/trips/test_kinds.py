"""Every kind of model from ``fit`` to a file for ONNX: what one command writes the next takes and predicts alike."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml

import litmaml
from litmaml.cli.main import main
from litmaml.finetuning.export import export_onnx
from litmaml.tasks import tree_map

CLASSES: dict[str, Any] = {}
VALUES = {"loss": {"class_path": "torch.nn.MSELoss"}}
KINDS = {
    "unet": ("kinds.UNet", "pictures", CLASSES),
    "lstm": ("kinds.Recurrent", "sequences", VALUES),
    "two inputs": ("kinds.Two", "pairs", VALUES),
    "graphs": ("kinds.Graphs", "graphs", CLASSES),
    "bert": ("kinds.bert", "texts", {"output": "logits", "tasks_per_chunk": 1}),
}


LONG = {"lstm", "two inputs"}


def configured(place: Path, model: str, tasks: str, more: dict[str, Any]) -> None:
    (place / "kinds.py").write_text((Path(__file__).parent / "kinds.py").read_text())
    config = {
        "model": {
            "model": {"class_path": model},
            "inner_optimizer": {"class_path": "litmaml.inner.SGD", "init_args": {"lr": 0.1}},
            "inner_steps": 2,
            **more,
        },
        "data": {"tasks": {"class_path": "kinds.Drawn", "init_args": {"kind": tasks}}, "meta_batch": 2}
        | {"train_tasks": 4, "val_tasks": 2, "test_tasks": 4},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "default_root_dir": "run"},
    }
    (place / "c.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.filterwarnings("ignore:.*log_every_n_steps:UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*:torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in LONG)) for k in KINDS])
def test_a_run_is_taken_back(kind: str, place: Path) -> None:
    if kind == "bert":
        pytest.importorskip("transformers", reason="BERT is of the package transformers")
    configured(place, *KINDS[kind])
    main(["fit", "-c", "c.yaml"])
    del sys.modules["kinds"]
    main(["test", "--ckpt_path=run", "--imports=kinds"])
    first = json.loads((place / "run" / "test_results.json").read_text())["steps"]
    main(["test", "--ckpt_path=run", "-c", "run/config.yaml"])
    assert json.loads((place / "run" / "test_results.json").read_text())["steps"] == first
    tasks = sys.modules["kinds"].Drawn(KINDS[kind][1])
    support = tasks.sample("test", [0], 0).support[0].task(0)
    if kind == "unet":
        from litmaml.finetuning.fine_tuner import FineTuner
        from litmaml.finetuning.meta_checkpoint import open_checkpoint

        steps = list(FineTuner(open_checkpoint("run").learner, support.inputs, 2, steps=3).path(*support[:2]))
        assert all(step.accuracy is not None and 0 <= step.accuracy <= 1 for step in steps)
        assert steps[-1].loss < steps[0].loss
    model = litmaml.adapt("run", support.inputs, support.targets, steps=2)
    found = model(support.inputs)
    model.save("model")
    assert torch.equal(litmaml.load("model")(support.inputs), found)
    export_onnx(model, support.inputs, place / "model.onnx")
    session = onnxruntime.InferenceSession(place / "model.onnx", providers=["CPUExecutionProvider"])
    given: dict[str, Any] = {}
    tree_map(lambda part: given.setdefault(session.get_inputs()[len(given)].name, part.numpy()), support.inputs)
    assert torch.allclose(torch.from_numpy(session.run(None, given)[0]), found, atol=1e-4)
