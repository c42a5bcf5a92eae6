"""Resumed with other settings: no task is repeated or left out, and what is typed is obeyed or refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml
from test_checkpoints import same
from tiny import FIT, finish, fit, saved, slow, start, steps, sums

from litmaml.callbacks.resumption import check_resumed
from litmaml.cli.main import main

NOTED = "--trainer.callbacks=counting.Counting"
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]
BATCHES = [1, 2, 3, 4, 6, 8, 12]


def seen() -> list[int]:
    """The numbers of all tasks that any process has trained on."""
    files = sorted(Path().glob("seen-*.jsonl"))
    return sorted(n for file in files for line in file.read_text().splitlines() for n in json.loads(line))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stop", [1, 3, 4, 6])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["--data.meta_batch=4"], ["--data.meta_batch=2"]),
        (["--data.meta_batch=4"], ["--data.meta_batch=8"]),
        (["--data.meta_batch=2", *TWO], ["--data.meta_batch=2"]),
        (["--data.meta_batch=2", *TWO], ["--data.meta_batch=4"]),
        (["--data.meta_batch=4"], ["--data.meta_batch=2", *TWO]),
        (["--data.meta_batch=4"], ["--data.meta_batch=4", *TWO]),
        (["--data.meta_batch=4"], ["--data.meta_batch=4", "--trainer.accumulate_grad_batches=2"]),
        (["--data.meta_batch=4"], ["--data.meta_batch=4", "--data.num_workers=2"]),
    ],
    ids=lambda value: " ".join(value).replace("--data.", "").replace("--trainer.", ""),
)
def test_every_task_is_seen_once(first: list[str], then: list[str], stop: int) -> None:
    common = [NOTED, "--data.train_tasks=24", "--data.val_tasks=2"]
    for arguments in ([*first, f"--trainer.max_steps={stop}"], [*then, "--ckpt_path=last", "--trainer.max_epochs=3"]):
        if TWO[0] in arguments:
            status, said = finish(start(*FIT, *common, *arguments))
            assert status == 0, said
        else:
            fit(*common, *arguments)
    assert seen() == list(range(72))
    assert saved("runs/tiny")["TaskDataModule"]["place"] == [2, 48, 24]


def test_another_batch_in_the_middle_of_an_epoch() -> None:
    common = [NOTED, "--data.train_tasks=24"]
    fit(*common, "--data.meta_batch=4", "--trainer.max_steps=3")
    fit(*common, "--data.meta_batch=8", "--ckpt_path=last")
    assert seen() == list(range(48))
    fit(*common, "--data.meta_batch=2", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert seen() == list(range(72))


@pytest.mark.parametrize("first", [[], *slow(["--trainer.max_steps=1000"])])
def test_an_epoch_is_not_counted_twice_where_steps_are_limited_too(first: list[str]) -> None:
    fit(NOTED, *first, "--trainer.max_epochs=1")
    fit(NOTED, "--trainer.max_steps=1000", "--ckpt_path=last")
    fit(NOTED, "--trainer.max_steps=1000", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert steps("runs/tiny")["last"] == 12
    assert saved("runs/tiny")["epoch"] == 2
    assert seen() == list(range(60))


def test_a_single_step_after_resuming_is_kept() -> None:
    for step in (2, 3, 5, 6):
        fit(NOTED, f"--trainer.max_steps={step}", *(["--ckpt_path=last"] if step > 2 else []))
        assert steps("runs/tiny")["last"] == step
    assert seen() == list(range(30))


def rates() -> list[float]:
    return [group["lr"] for state in saved("runs/tiny")["optimizer_states"] for group in state["param_groups"]]


def test_an_option_of_the_optimizer_is_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    fit("--trainer.max_epochs=1")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit("--ckpt_path=last", "--model.optimizer.lr=0.5", "--model.optimizer.betas=[0.8, 0.9]")
    assert rates() == [0.5]
    assert saved("runs/tiny")["optimizer_states"][0]["param_groups"][0]["betas"] == (0.8, 0.9)
    assert "resumed with other settings: " in caplog.text
    assert "model.optimizer.lr 0.001 -> 0.5" in caplog.text
    fit("--ckpt_path=last", "--trainer.max_epochs=3", "--model.optimizer.lr=0.5")
    assert rates() == [0.5]
    # Once more without it: what is typed now is tiny.yaml's 0.001.
    fit("--ckpt_path=last", "--trainer.max_epochs=4")
    assert rates() == [0.001]
    assert yaml.safe_load(Path("runs/tiny/config.yaml").read_text())["model"]["optimizer"]["init_args"]["lr"] == 0.001


COSINE = ["--model.lr_scheduler=torch.optim.lr_scheduler.CosineAnnealingLR", "--model.lr_scheduler.T_max=20"]
HELD = [
    "--model.inner_optimizer=Proximal",
    "--model.inner_optimizer.optimizer=SGD",
    "--model.inner_optimizer.optimizer.lr=0.01",
]
LEARNT = ["--model.inner_optimizer.learn=one", "--model.inner_optimizer.per_step=true"]


@pytest.mark.parametrize(
    ("before", "typed", "message"),
    [
        ([], ["--model.optimizer=SGD"], r"model\.optimizer: the run has torch\.optim\.Adam with a state of"),
        (COSINE, ["--model.lr_scheduler.T_max=40"], r"model\.lr_scheduler\.T_max: .* with 20, got 40"),
        (LEARNT, ["--model.inner_optimizer.lr=0.1"], r"model\.inner_optimizer\.lr: the rates were learnt on from"),
        (
            [*HELD, "--model.inner_optimizer.strength=2.0", "--model.inner_optimizer.learn=true"],
            ["--model.inner_optimizer.strength=3.0"],
            r"model\.inner_optimizer\.strength: it was learnt on from 2\.0 and is restored, got 3\.0",
        ),
        *slow(
            (
                [*HELD, "--model.inner_optimizer.optimizer.learn=one"],
                ["--model.inner_optimizer.optimizer.lr=0.1"],
                r"model\.inner_optimizer\.optimizer\.lr: the rates were learnt on from 0\.01",
            )
        ),
        ([], ["--seed_everything=5"], r"seed_everything: the run began with the weights of seed 0, got 5"),
        *slow(
            ([], COSINE, r"model\.lr_scheduler: the run has None .*, got .*Cosine.*; leave it out, or"),
            (
                COSINE,
                ["--model.lr_scheduler=null"],
                r"model\.lr_scheduler: the run has .*Cosine.*, got None",
            ),
            (
                COSINE,
                ["--model.optimizer.lr=0.5"],
                r"model\.optimizer\.lr: the schedule has it, begun with 0\.001",
            ),
            (COSINE, ["--model.lr_scheduler_interval=epoch"], r"model\.lr_scheduler_interval: .* 'step', got 'epoch'"),
            (LEARNT, ["--model.inner_steps=2"], r"model\.inner_steps: rates were learnt for each of 1 steps, got 2"),
            (
                ["--trainer.max_epochs=3"],
                ["--trainer.max_epochs=1"],
                r"trainer\.max_epochs: the checkpoint is of epoch 2",
            ),
        ),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_what_cannot_be_changed_in_the_middle_is_refused(before: list[str], typed: list[str], message: str) -> None:
    fit(*before)
    kept, config = saved("runs/tiny")["global_step"], Path("runs/tiny/config.yaml").read_text()
    with pytest.raises(ValueError, match=message):
        fit(*before, *typed, "--ckpt_path=last", *([] if "max_epochs" in str(typed) else ["--trainer.max_epochs=3"]))
    assert saved("runs/tiny")["global_step"] == kept
    assert Path("runs/tiny/config.yaml").read_text() == config  # what is refused is not recorded either
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    "typed",
    [
        "--data.meta_batch=7",
        "--model.inner_optimizer.lr=1e30",
        *slow("--data.train_tasks=41", "--data.tasks=Glyphs", "--trainer.val_check_interval=30"),
        *slow("--model.loss=torch.nn.CrossEntropyLoss", "--trainer.accumulate_grad_batches=0"),
    ],
)
@pytest.mark.parametrize("stop", [5, *slow(4, 8)])  # in the middle of an epoch, at the end of one, and of the run
def test_a_run_that_fails_before_its_first_step_leaves_everything_as_it_was(typed: str, stop: int) -> None:
    fit(f"--trainer.max_steps={stop}")
    before = [sums("runs/tiny"), Path("runs/tiny/config.yaml").read_bytes()]
    with pytest.raises(Exception, match=r"."):
        fit(typed, "--ckpt_path=last", "--trainer.max_epochs=3")
    assert [sums("runs/tiny"), Path("runs/tiny/config.yaml").read_bytes()] == before
    main(["fit", "--ckpt_path=runs/tiny", "--trainer.max_epochs=3", "--trainer.max_steps=-1"])
    assert steps("runs/tiny")["last"] == 12


def test_the_configuration_is_that_of_the_steps_in_the_checkpoint() -> None:
    fit("--trainer.max_steps=5")
    fit("--ckpt_path=last", "--trainer.max_steps=6", "--model.optimizer.lr=0.5")
    assert yaml.safe_load(Path("runs/tiny/config.yaml").read_text())["model"]["optimizer"]["init_args"]["lr"] == 0.5
    assert rates() == [0.5]


WORSE = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.5"]
EARLY = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss", *WORSE]


def test_an_early_stop_holds_until_its_settings_are_others(caplog: pytest.LogCaptureFixture) -> None:
    fit(*EARLY, "--trainer.callbacks.patience=1", "--trainer.max_epochs=6")
    before = [sums("runs/tiny"), Path("runs/tiny/config.yaml").read_bytes()]
    assert steps("runs/tiny")["last"] == 12
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(["fit", "--ckpt_path=runs/tiny"])
        assert "the run was stopped early after epoch 2: " in caplog.text
        assert [sums("runs/tiny"), Path("runs/tiny/config.yaml").read_bytes()] == before
        main(["fit", "--ckpt_path=runs/tiny", "--trainer.callbacks.patience=3"])
    assert "trainer.callbacks.EarlyStopping.patience 1 -> 3" in caplog.text
    assert steps("runs/tiny")["last"] == 20  # the one that it had waited counts
    caplog.clear()
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        main(["fit", "--ckpt_path=runs/tiny", "--trainer.callbacks=null"])
    assert steps("runs/tiny")["last"] == 24
    assert "trainer.callbacks.EarlyStopping lightning.pytorch.callbacks.EarlyStopping -> None" in caplog.text


PLATEAU = ["--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.lr_scheduler.patience=50"]


@pytest.mark.parametrize(
    "typed",
    [
        "--data.tasks.train.shots=4",
        *slow("--model.loss=torch.nn.L1Loss", "--model.test_inner_steps=2", "--data.val_tasks=8", "--data.seed=3"),
    ],
)
def test_the_best_is_chosen_anew_where_the_validation_is_another_one(
    typed: str, caplog: pytest.LogCaptureFixture
) -> None:
    fit(*WORSE, *PLATEAU, "--trainer.max_epochs=3")
    assert steps("runs/tiny")["best"] == 8
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(*WORSE, *PLATEAU, typed, "--ckpt_path=last", "--trainer.max_epochs=4")
    option = typed[2:].partition("=")[0].replace(".train.shots", "")
    assert f"BestCheckpoint: val/loss is of another validation ({option}): its comparison begins anew" in caplog.text
    assert f"ReduceLROnPlateau: val/loss is of another validation ({option})" in caplog.text
    assert steps("runs/tiny")["best"] == 16
    assert saved("runs/tiny")["lr_schedulers"][0]["num_bad_epochs"] == 0


@pytest.mark.parametrize("top_k", [1, *slow(2)])
def test_the_best_so_far_goes_with_a_run_into_another_folder(top_k: int, caplog: pytest.LogCaptureFixture) -> None:
    fit(*WORSE)
    best = sums("runs/tiny")["best.ckpt"]
    more = ["--trainer.default_root_dir=other", f"--checkpoint.save_top_k={top_k}", "--trainer.max_epochs=4"]
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit(*WORSE, *more, "--ckpt_path=runs/tiny")
    assert "best so far, in other/checkpoints too: runs/tiny/checkpoints/best.ckpt (val/loss" in caplog.text
    assert sums("other")["best.ckpt"] == sums("runs/tiny")["best.ckpt"] == best
    assert steps("other")["last"] == 16


@pytest.mark.parametrize("limit", ["2", *slow("1", "3", "4", "0.5", "1.0")])
def test_no_task_is_repeated_where_the_batches_of_an_epoch_are_limited_in_its_middle(limit: str) -> None:
    common = [NOTED, "--data.train_tasks=40", "--data.meta_batch=4"]
    fit(*common, "--trainer.max_steps=13")
    fit(*common, "--ckpt_path=last", "--trainer.max_epochs=4", f"--trainer.limit_train_batches={limit}")
    assert seen() == sorted({*seen()})
    each = {"0.5": 5, "1.0": 10}.get(limit) or int(limit)
    assert steps("runs/tiny")["last"] == 10 + max(3, each) + 2 * each


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed",
    [
        "--model.inner_optimizer.lr=0.1",
        "--model.inner_steps=3",
        "--trainer.precision=64-true",
        "--trainer.accumulate_grad_batches=2",
        "--data.seed=3",
        "--checkpoint.monitor=val/loss_step_0",
    ],
)
def test_what_can_be_changed_is_obeyed_and_said(typed: str, caplog: pytest.LogCaptureFixture) -> None:
    fit("--trainer.max_epochs=1", "--seed_everything=4")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        fit("--ckpt_path=last", typed)
    assert f"{typed[2:].partition('=')[0]} " in caplog.text
    assert yaml.safe_load(Path("runs/tiny/config.yaml").read_text())["seed_everything"] == 4
    assert steps("runs/tiny")["last"] == (6 if "accumulate" in typed else 8)


@pytest.mark.parametrize(
    "schedule",
    [
        ["--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau", "--model.lr_scheduler.patience=0"],
        *slow(
            [*COSINE, "--model.lr_scheduler_interval=epoch"],
            COSINE,
            [
                "--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau",
                "--model.lr_scheduler.monitor=val/loss_step_0",
                "--model.lr_scheduler.patience=0",
            ],
            ["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=1", "--model.lr_scheduler_interval=epoch"],
        ),
    ],
    ids=lambda value: value[0][-20:] + value[-1][-8:],
)
def test_schedules_go_on_as_if_nothing_had_happened(schedule: list[str]) -> None:
    worse = ["--model.optimizer.lr=0.3"]
    fit(*schedule, *worse, "--trainer.default_root_dir=whole", "--trainer.max_epochs=4")
    fit(*schedule, *worse, "--trainer.max_epochs=2")
    fit(*schedule, *worse, "--trainer.max_epochs=4", "--ckpt_path=last")
    assert same("runs/tiny", "whole")
    assert saved("runs/tiny")["lr_schedulers"] == saved("whole")["lr_schedulers"]
    if "Cosine" not in schedule[0]:
        assert rates()[0] < 0.3
    else:
        taken = saved("runs/tiny")["lr_schedulers"][0]["last_epoch"]
        assert taken == (4 if "epoch" in schedule[-1] else 16)


def test_a_plateau_needs_a_metric_that_there_is() -> None:
    with pytest.raises(
        ValueError, match=r"model\.lr_scheduler\.monitor: there is no metric 'val_loss'; did you mean val/"
    ):
        fit("--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor=val_loss")


def test_records_without_the_newer_options_are_compared_by_what_they_have() -> None:
    old = {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1}}, "inner_steps": 1}
    new = {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.1, "fused": None}}, "inner_steps": 1}
    check_resumed(old, new | {"lr_scheduler": None, "lr_scheduler_interval": "step"}, restored=set())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(12))
def test_every_task_is_seen_once_in_a_chain_of_resumptions_with_all_changed(seed: int) -> None:
    """Stopped anywhere, four times, each time with another batch, accumulation, epoch and interval of validation."""
    chance = random.Random(seed)
    step = 0
    for part in range(5):
        tasks = chance.choice([24, 24, 48])
        interval = chance.choice([["--trainer.val_check_interval=2"], ["--trainer.check_val_every_n_epoch=2"], []])
        step += chance.randint(1, 9)
        fit(
            *(
                NOTED,
                f"--data.train_tasks={tasks}",
                "--data.val_tasks=2",
                f"--data.meta_batch={chance.choice(BATCHES)}",
            ),
            *(f"--trainer.accumulate_grad_batches={chance.choice([1, 1, 2, 3])}", f"--trainer.max_steps={step}"),
            *(f"--data.num_workers={chance.choice([0, 0, 1])}", "--trainer.max_epochs=-1", *interval),
            *(["--ckpt_path=last"] if part else []),
        )
        assert saved("runs/tiny")["global_step"] == step
        _, first, seen_of_it = saved("runs/tiny")["TaskDataModule"]["place"]
        assert seen() == list(range(first + seen_of_it)), part
