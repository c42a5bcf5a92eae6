"""Going on with meta-training from a checkpoint on other data: its weights, and a new optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from litmaml.cli.main import main
from litmaml.inner import SGD
from litmaml.learner.initial_weights import start_from
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP

QUICK = [
    "--data.tasks=litmaml.data.Sinusoid",
    "--data.meta_batch=4",
    "--data.train_tasks=8",
    "--data.val_tasks=4",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def test_weights_are_the_checkpoints_and_the_optimizer_is_new(sinusoid_run: Path, tmp_path: Path) -> None:
    rate = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1e-12"]
    main(["fit", *QUICK, *rate, f"--init_weights={sinusoid_run}", f"--trainer.default_root_dir={tmp_path}"])
    start = torch.load(sinusoid_run / "checkpoints" / "best.ckpt", weights_only=True)
    end = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert start["state_dict"].keys() == end["state_dict"].keys()
    for name, weight in start["state_dict"].items():
        torch.testing.assert_close(end["state_dict"][name], weight)
    assert end["global_step"] == 2  # its own steps, not those before
    assert end["hyper_parameters"]["inner_steps"] == 5  # the checkpoint's, since nothing else was typed
    assert end["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-12


def test_another_architecture_is_told(sinusoid_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights of another architecture than the model or inner optimizer"):
        main(
            [
                "fit",
                *QUICK,
                f"--init_weights={sinusoid_run}",
                "--model.model.init_args.hidden=[7]",
                f"--trainer.default_root_dir={tmp_path}",
            ]
        )
    with pytest.raises(ValueError, match="weights of another architecture"):
        start_from(MetaLearner(MLP(), SGD(learn="tensor")), str(sinusoid_run))


def test_a_start_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="init_weights: 'nowhere' is neither a file nor a run's folder"):
        main(["fit", *QUICK, "--init_weights=nowhere", f"--trainer.default_root_dir={tmp_path}"])


def test_starting_and_resuming_exclude_each_other(sinusoid_run: Path) -> None:
    with pytest.raises(ValueError, match="init_weights: is for a new run, ckpt_path to resume or test one"):
        main(["fit", *QUICK, f"--init_weights={sinusoid_run}", "--ckpt_path=last"])
