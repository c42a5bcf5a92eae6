"""A model of a dict of inputs and several outputs, from its first training step to an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from tree_models import Reader, Texts

import litmaml
from litmaml import MetaLearner
from litmaml.callbacks import Predictions, Report
from litmaml.data import TaskDataModule
from litmaml.diagnosis import diagnose
from litmaml.finetuning.export import export_onnx
from litmaml.inner import SGD
from litmaml.tasks import select, stacks_of
from quiet_trainer import quiet_trainer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_a_dict_and_an_output_go_the_whole_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = MetaLearner(Reader(), SGD(lr=0.2), output="logits", inner_steps=2)
    data = TaskDataModule(Texts(), meta_batch=4, train_tasks=16, val_tasks=8, test_tasks=8)
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=2, num_sanity_val_steps=0)
    trainer.fit(learner, data)
    file = tmp_path / "checkpoints" / "best.ckpt"
    trainer.save_checkpoint(file)
    again = MetaLearner.load_from_checkpoint(file)
    assert again.inner_loop.output == "logits"

    def evaluated(module: MetaLearner, folder: str) -> tuple[Any, Any, Any]:
        run = quiet_trainer(tmp_path / folder, callbacks=[Predictions(), Report()])
        (val,), (test,) = run.validate(module, data, verbose=False), run.test(module, data, verbose=False)
        run.predict(module, data)
        return val, test, load_file(tmp_path / folder / "predictions.safetensors")

    (val, test, found), (val_again, test_again, found_again) = evaluated(learner, "a"), evaluated(again, "b")
    assert (val, test) == (val_again, test_again)
    assert {"val/accuracy", "test/accuracy"} <= {*val, *test}
    assert found.keys() == found_again.keys()
    assert all(torch.equal(part, found_again[name]) for name, part in found.items())

    (stack,) = stacks_of(data.tasks.sample("test", range(8), data.seed))
    tasks = data.tasks.render(stack)
    assert diagnose(again.double(), tasks).curvature.smoothness.value is not None
    again.float()

    # The support of one task, adapted to as in the test, predicts what predict has written of its query.
    one = tasks.support[0].task(3)
    model = litmaml.adapt(file, one.inputs, one.targets, steps=2)
    query = tasks.query.task(3).inputs
    (row,) = (found["numbers"] == 3).nonzero()[0]
    torch.testing.assert_close(model(query), found["predictions"][row], rtol=1e-5, atol=1e-6)

    model.save(tmp_path / "model")
    loaded = litmaml.load(tmp_path / "model")
    assert torch.equal(loaded(query), model(query))
    export_onnx(loaded, one.inputs, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    given = {name: part.numpy() for name, part in select(query, slice(3)).items()}
    torch.testing.assert_close(
        torch.from_numpy(session.run(None, given)[0]), model(query)[:3].detach(), rtol=1e-5, atol=1e-6
    )
