"""Heads that start anew in tasks of unequal numbers of classes, and baselines, over several processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import finish, start, weights

from litmaml.cli.main import main

SETTINGS = ["--trainer.precision=64-true", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
FIT = [
    *(
        "fit",
        "--model.model=litmaml.models.MLP",
        "--model.model.init_args.inputs=4",
        "--model.model.init_args.outputs=4",
    ),
    *("--model.model.init_args.hidden=[6]", "--model.inner_steps=2", "--model.head_start=prototypes"),
    *("--model.inner_optimizer=SGD", "--model.inner_optimizer.init_args.lr=0.1"),
    *("--data.tasks=clouds.Clouds", "--data.train_tasks=24", "--data.val_tasks=6", "--trainer.max_epochs=1"),
    *("--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1", *SETTINGS),
]
TWO = ["--data.meta_batch=4", "--trainer.strategy=ddp", "--trainer.devices=2"]


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    statuses, said = finish(start([*FIT, *TWO], tmp_path / "two"))
    assert statuses == [0], said
    main([*FIT, "--data.meta_batch=8", f"--trainer.default_root_dir={tmp_path / 'one'}"])
    one, other = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=0, atol=1e-12)

    test = ["test", f"--ckpt_path={tmp_path / 'one' / 'checkpoints' / 'last.ckpt'}", "--data.test_tasks=16"]
    test += ["--data.tasks=clouds.Clouds", *SETTINGS]
    statuses, said = finish(start([*test, *TWO], tmp_path / "tested by two"))
    assert statuses == [0], said
    main([*test, "--data.meta_batch=8", f"--trainer.default_root_dir={tmp_path / 'tested by one'}"])
    found, wanted = (
        json.loads((tmp_path / f"tested by {number}" / "test_results.json").read_text()) for number in ("two", "one")
    )
    assert found["protocol"]["tasks"] == 16
    for name, metric in (("nearest_class_mean", "accuracy"), ("fresh_head", "accuracy"), ("fresh_head", "loss")):
        assert found["baselines"][name][metric] == pytest.approx(wanted["baselines"][name][metric], rel=1e-6)
    # Without a step a head from class means is the nearest of them.
    assert found["steps"][0]["accuracy"] == pytest.approx(found["baselines"]["nearest_class_mean"]["accuracy"])

    main([*test, "--model.baselines=false", f"--trainer.default_root_dir={tmp_path / 'without'}"])
    without = json.loads((tmp_path / "without" / "test_results.json").read_text())
    assert "baselines" not in without
    assert without["steps"] == wanted["steps"]
