"""Several processes compute what one does: whichever way they are started."""

from __future__ import annotations

import csv
import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from runs import CONFIGS, FIT, ONE, TWO, assert_close, callback, finish, start
from torch import nn

from litmaml.cli.main import main
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP


def noted(folder: Path) -> list[dict[str, Any]]:
    """What the ranks noted, in their order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9].json"))]


def one_process(folder: Path, *arguments: str) -> None:
    main([*FIT, *ONE, *arguments, f"--trainer.default_root_dir={folder}"])


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_two_processes_share_the_tasks_and_agree_with_one(tmp_path: Path) -> None:
    """With random directions, too: those of a chunk belong to its tasks, wherever it is computed."""
    sampled = ["--model.outer_gradient=GaussianSmoothing", "--model.tasks_per_chunk=4"]
    notes = callback(tmp_path / "two", "Notes", folder=str(tmp_path / "two"))
    statuses, said = finish(start([*FIT, *TWO, "--trainer.devices=2", *sampled, notes], tmp_path / "run"))
    assert statuses == [0], said
    notes = callback(tmp_path / "one", "Notes", folder=str(tmp_path / "one"))
    one_process(tmp_path / "whole", *sampled, notes)

    (first, second), (alone,) = noted(tmp_path / "two"), noted(tmp_path / "one")
    assert (first["world"], alone["world"]) == (2, 1)
    for mine, other, together in zip(first["tasks"], second["tasks"], alone["tasks"], strict=True):
        assert not set(mine) & set(other)
        assert mine + other == together
    assert not set(first["directions"]) & set(second["directions"])
    assert {*first["directions"], *second["directions"]} == {*alone["directions"]}
    assert_close(tmp_path / "run", tmp_path / "whole")


def test_two_processes_take_the_way_of_convolutions_that_the_first_one_measures(tmp_path: Path) -> None:
    """Though the second one would measure the other way to be the faster one; and the gradients are those of one."""
    small = [
        *("fit", f"--config={CONFIGS / 'glyphs.yaml'}", "--model.model.init_args.filters=2"),
        *(
            "--data.tasks.init_args.train.ways=2",
            "--model.model.init_args.ways=2",
            "--data.tasks.init_args.test.queries=1",
        ),
        *(
            "--data.tasks.init_args.train.queries=1",
            "--data.train_tasks=16",
            "--data.val_tasks=2",
            "--trainer.max_epochs=1",
        ),
        *(option for option in FIT if option.startswith("--trainer.") and "epochs" not in option),
    ]
    likened = callback(tmp_path / "two", "LikeGpus", folder=str(tmp_path / "two"))
    statuses, said = finish(start([*small, *TWO, "--trainer.devices=2", likened], tmp_path / "run"))
    assert statuses == [0], said
    assert noted(tmp_path / "two") == [{"measured": 2, "grouped": True}, {"measured": 0, "grouped": True}]
    assert said.count("model: convolutions are computed grouped") == 1
    main([*small, *ONE, "--trainer.devices=1", f"--trainer.default_root_dir={tmp_path / 'whole'}"])
    assert_close(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_process_without_a_finite_task_in_validation_leaves_the_means_to_the_others(tmp_path: Path) -> None:
    spoilt = [
        "--data.tasks=saboteur.Spoilt",
        "--data.val_tasks=8",
        "--model.on_nonfinite=skip",
        "--trainer.precision=32-true",
    ]
    short = ["--trainer.devices=2", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    statuses, said = finish(start([*FIT, *TWO, *spoilt, *short], tmp_path))
    assert statuses == [0], said
    assert "no task has a finite loss" not in said
    (file,) = tmp_path.glob("logs/**/metrics.csv")
    losses = [float(line["val/loss"]) for line in csv.DictReader(file.read_text().splitlines()) if line["val/loss"]]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.slow
def test_accumulated_and_clipped_over_processes(tmp_path: Path) -> None:
    same = ["--trainer.gradient_clip_val=0.05"]
    accumulated = ["--data.meta_batch=2", "--trainer.accumulate_grad_batches=2"]
    process = start(
        [*FIT, *TWO, "--trainer.devices=2", *same, *accumulated, "--trainer.max_epochs=1"], tmp_path / "run"
    )
    statuses, said = finish(process)
    assert statuses == [0], said
    one_process(tmp_path / "whole", *same, "--trainer.max_epochs=1")
    assert_close(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_two_nodes_by_torchrun(tmp_path: Path) -> None:
    port = free_port()
    nodes = [
        start(
            [*FIT, *TWO, "--trainer.devices=1", "--trainer.num_nodes=2"],
            tmp_path / "run",
            [
                *("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
                *(f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}"),
            ],
        )
        for node in (0, 1)
    ]
    statuses, said = finish(*nodes)
    assert statuses == [0, 0], said
    one_process(tmp_path / "whole")
    assert_close(tmp_path / "run", tmp_path / "whole")


def slurm(rank: int, port: str) -> dict[str, str]:
    """What SLURM sets for one of two tasks on two nodes."""
    return {
        "SLURM_JOB_ID": "12345",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


@pytest.mark.slow
def test_two_nodes_by_slurm_preempted_and_requeued(tmp_path: Path) -> None:
    """Every rank ends with the status to requeue on, and Lightning's own requeueing stays away."""
    two = [*FIT, *TWO, "--trainer.devices=1", "--trainer.num_nodes=2"]
    sabotage = callback(tmp_path, "Saboteur", name="SIGUSR1", step=3, rank=1)
    port = free_port()
    nodes = [start([*two, sabotage], tmp_path / "run", **slurm(rank, port)) for rank in (0, 1)]
    statuses, said = finish(*nodes)
    assert statuses == [75, 75], said
    assert "requeue" not in said
    assert not list((tmp_path / "run").glob("hpc_ckpt*"))
    port = free_port()
    nodes = [start([*two, "--ckpt_path=last"], tmp_path / "run", **slurm(rank, port)) for rank in (0, 1)]
    statuses, said = finish(*nodes)
    assert statuses == [0, 0], said
    one_process(tmp_path / "whole")
    assert_close(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_sharded_strategies_are_refused_with_the_reason(strategy: type[Strategy]) -> None:
    """Lightning makes them on a GPU only, so the learner is asked directly."""
    learner = MetaLearner(MLP(hidden=[4]), loss=nn.MSELoss())
    learner.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    learner.trainer._accelerator_connector.strategy = strategy()
    with pytest.raises(ValueError, match=rf"strategy: {strategy.__name__} splits weights.*use ddp"):
        learner.setup("fit")
