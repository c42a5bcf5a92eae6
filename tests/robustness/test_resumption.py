"""Resumed with other settings: no task is repeated or left out, and what is typed is obeyed or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import FIT, finish, fit, saved, start

NOTED = "--trainer.callbacks=counting.Counting"
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


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
