"""What a checkpoint holds of an optimizer and its schedule: every honest one goes on, others get one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import honest
from torch import optim
from torch.optim import lr_scheduler as schedules
from watch import told

from litmaml.callbacks.training_state import check_training_state
from litmaml.cli.main import main
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.runs.checkpoint import load_plain

OPTIMIZERS: list[Any] = [
    *(optim.Adadelta, optim.Adafactor, optim.Adagrad, optim.Adam, optim.Adamax, optim.AdamW, optim.ASGD, optim.NAdam),
    *(optim.RAdam, optim.RMSprop, optim.Rprop, optim.SGD),
    functools.partial(optim.SGD, momentum=0.9, nesterov=True),
    functools.partial(optim.Adam, amsgrad=True, betas=(0.8, 0.9)),
    functools.partial(optim.RMSprop, centered=True, momentum=0.5),
]
SCHEDULES: list[Any] = [
    None,
    functools.partial(schedules.StepLR, step_size=2),
    functools.partial(schedules.MultiStepLR, milestones=[2, 3, 3]),
    functools.partial(schedules.ConstantLR, total_iters=2),
    functools.partial(schedules.LinearLR, total_iters=3),
    functools.partial(schedules.ExponentialLR, gamma=0.9),
    functools.partial(schedules.PolynomialLR, total_iters=3),
    functools.partial(schedules.CosineAnnealingLR, T_max=5),
    functools.partial(schedules.CosineAnnealingWarmRestarts, T_0=2, T_mult=2),
    functools.partial(schedules.OneCycleLR, max_lr=0.1, total_steps=9),
    functools.partial(schedules.CyclicLR, base_lr=0.01, max_lr=0.1, cycle_momentum=False),
]


def trained(learner: MetaLearner, file: Path, steps: int = 4) -> dict[str, Any]:
    """What a checkpoint has of the state after some steps."""
    made = learner.configure_optimizers()
    optimizer = made["optimizer"] if isinstance(made, dict) else made
    schedule = made["lr_scheduler"]["scheduler"] if isinstance(made, dict) else None
    for _ in range(steps):
        for weight in learner.inner_loop.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        if schedule is not None:
            schedule.step()
    states = [] if schedule is None else [schedule.state_dict()]
    saved = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": states}
    torch.save(saved | {"global_step": steps, "hyper_parameters": {}}, file)
    content: dict[str, Any] = load_plain(file)
    return content


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [*((o, None) for o in OPTIMIZERS), *((functools.partial(optim.SGD, lr=0.1), s) for s in SCHEDULES)],
    ids=lambda part: getattr(getattr(part, "func", part), "__name__", None),
)
def test_every_optimizer_and_schedule_of_torch_goes_on(
    optimizer: Any, schedule: Any, steps: int, tmp_path: Path
) -> None:
    learner = MetaLearner(MLP(hidden=[3]), loss=torch.nn.MSELoss(), optimizer=optimizer, lr_scheduler=schedule)
    check_training_state(learner, trained(learner, tmp_path / "x.ckpt", steps))


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to

    return change


GROUP, WEIGHT, SCHEDULE = (
    ("optimizer_states", 0, "param_groups"),
    ("optimizer_states", 0, "state"),
    ("lr_schedulers", 0),
)


@pytest.mark.parametrize(
    "change",
    [
        _set(*GROUP, to=5),
        _set(*GROUP, to=[]),
        _set(*GROUP, 0, "lr", to="0.1"),
        _set(*GROUP, 0, "lr", to=-1.0),
        _set(*GROUP, 0, "betas", to=[0.9, 2.0]),
        _set(*GROUP, 0, "betas", to=0.9),
        _set(*GROUP, 0, "params", to=[0]),
        _set(*GROUP, 0, "foreach", to="os.system"),
        _set(*GROUP, 0, "params", to=[0] * 4),
        _set(*GROUP, 0, "params", to=[3, 2, 1, 0]),
        _set(*GROUP, 0, "capturable", to=True),
        _set("optimizer_states", to=[]),
        lambda content: content["optimizer_states"].append(content["optimizer_states"][0]),
        _set("lr_schedulers", to=[]),
        lambda content: content["lr_schedulers"].append(content["lr_schedulers"][0]),
        _set("optimizer_states", 0, "state", to={}),
        lambda content: content["optimizer_states"][0]["state"].pop(2),
        _set(*WEIGHT, 9, to={}),
        _set(*WEIGHT, "x", to={}),
        _set(*WEIGHT, 0, "exp_avg", to=torch.zeros(1).expand(3, 1)),
        _set(*WEIGHT, 2, "exp_avg", to=torch.zeros(9).as_strided((1, 3), (1, 0))),
        lambda content: content["optimizer_states"][0]["state"][0].update(
            exp_avg=content["optimizer_states"][0]["state"][0]["exp_avg_sq"]
        ),
        _set(*WEIGHT, 0, "step", to=torch.tensor(2.0**70)),
        _set(*SCHEDULE, "base_lrs", to=[float("nan")]),
        _set(*WEIGHT, 0, to=5),
        _set(*WEIGHT, 0, to={}),
        _set(*WEIGHT, 0, "exp_avg", to="x"),
        _set(*WEIGHT, 0, "exp_avg", to=torch.zeros(7)),
        _set(*WEIGHT, 0, "exp_avg", to=torch.zeros(3, 1, dtype=torch.int64)),
        _set(*WEIGHT, 0, "step", to=torch.tensor(-1.0)),
        _set(*WEIGHT, 0, "step", to=torch.zeros(3)),
        _set(*SCHEDULE, "last_epoch", to="x"),
        _set(*SCHEDULE, "T_max", to=0),
        _set(*SCHEDULE, "base_lrs", to=[]),
        _set(*SCHEDULE, "base_lrs", to=["x"]),
        _set(*SCHEDULE, "_last_lr", to={"class_path": "os.system"}),
    ],
)
def test_a_state_of_another_form_gets_one_line(change: Any, tmp_path: Path) -> None:
    schedule = functools.partial(schedules.CosineAnnealingLR, T_max=5)
    learner = MetaLearner(MLP(hidden=[3]), loss=torch.nn.MSELoss(), lr_scheduler=schedule)
    content = trained(learner, tmp_path / "x.ckpt")
    check_training_state(learner, content)
    change(content)
    with pytest.raises(ValueError, match=r"^checkpoint\.(optimizer_states|lr_schedulers).*--init_weights$"):
        check_training_state(learner, content)


def test_a_run_is_not_resumed_from_one(tmp_path: Path) -> None:
    saved = honest()
    saved["optimizer_states"][0]["param_groups"][0]["lr"] = "0.1"
    torch.save(saved, tmp_path / "x.ckpt")
    quick = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path / 'run'}", "--trainer.max_epochs=9"]
    said = told(lambda: main(["fit", f"--ckpt_path={tmp_path / 'x.ckpt'}", *quick]))
    assert said.startswith("checkpoint.optimizer_states.lr: is of another form, got '0.1'"), said
