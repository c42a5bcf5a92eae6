"""From a meta-checkpoint of a policy to an environment of one's own, by the command."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import litmaml
from litmaml import MetaLearner, TaskDataModule
from litmaml.cli.main import main
from litmaml.inner import SGD
from litmaml.rl import CategoricalPolicy, GaussianPolicy, Navigation, PolicySurrogate, Rollouts, TabularMDP
from litmaml.rl.control_tasks import ControlTasks
from litmaml.rl.policy_tuning import MeanAction, halved
from quiet_trainer import quiet_trainer


def checkpoint_of(folder: Path, model: torch.nn.Module, source: ControlTasks) -> Path:
    torch.manual_seed(0)
    learner = MetaLearner(model, SGD(0.1), loss=PolicySurrogate(), experience=Rollouts(0.95))
    trainer = quiet_trainer(folder, max_epochs=1, limit_val_batches=0)
    trainer.fit(learner, TaskDataModule(source, meta_batch=2, train_tasks=2))
    trainer.save_checkpoint(folder / "policy.ckpt")
    return folder / "policy.ckpt"


@pytest.fixture(scope="module")
def navigation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("navigation")
    return checkpoint_of(folder, GaussianPolicy(2, 2, [8]), Navigation(horizon=12, trajectories=4))


def test_a_policy_adapts_to_one_task_and_is_kept(navigation: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    typed = ["--checkpoint", str(navigation), "--task", "x=0.3,y=-0.2", "--steps", "2", "--trajectories", "6"]
    main(["finetune", *typed, "--output", str(out), "--export", "pt2"])
    with (out / "returns.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["start"], row["inner_steps"]) for row in rows] == [
        (start, str(step)) for start in ("meta-learnt", "random weights") for step in range(3)
    ]
    assert {"report.md", "adaptation.png", "trajectories.png", "model.safetensors"} <= {p.name for p in out.iterdir()}
    assert "for Navigation with x 0.3, y" in (out / "report.md").read_text()

    # What is kept are the weights after the steps, with the rate halved after the first.
    start = MetaLearner.load_from_checkpoint(navigation)
    loop, rollouts = start.inner_loop, start.experience
    loop.optimizer = SGD(0.1, later_lr=0.05)
    assert isinstance(rollouts, Rollouts)
    source = Navigation(horizon=12, trajectories=6).only({"x": 0.3, "y": -0.2})
    rollouts.connect(loop.model, source, 0, 1)
    path, adapted = rollouts.along_path(loop, source.sample("test", [0], 0), 2, "test")
    kept = load_file(out / "model.safetensors")
    assert all(torch.allclose(weight[0], kept[name.removeprefix("model.")]) for name, weight in adapted.items())
    assert float(rows[2]["return"]) == pytest.approx(float(path[-1].returns), rel=1e-4)

    seen = torch.randn(5, 2)
    policy = litmaml.load(out)
    exported = torch.export.load(out / "model.pt2").module()
    assert torch.allclose(exported(seen), policy(seen)[:, :2], atol=1e-6)


def test_choices_are_exported_as_their_index() -> None:
    policy = CategoricalPolicy(3, 4, [8])
    seen = torch.randn(6, 3)
    assert torch.equal(MeanAction(policy, discrete=True)(seen), policy(seen).argmax(-1))


def test_only_a_fixed_rate_is_halved() -> None:
    assert halved(SGD(0.1)) == SGD(0.1, later_lr=0.05)
    for other in (SGD(0.1, learn="tensor"), SGD(0.1, later_lr=0.2)):
        assert halved(other) is other


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--task", "x=1"], "task: has to say x, y, got x; such as x=0.3,y=0.3"),
        (["--task", "x=1,y=far"], "task: has to be numbers, got {'x': 1, 'y': 'far'}"),
        (["--task", "x=1,x=2,y=1"], "task: says x twice, got 'x=1,x=2,y=1'"),
        (["--task", "x={,y=1"], "task: x has to be a number or a word, got '{'"),
        (["--task", "x=true,y=1"], "task: has to be numbers, got {'x': True, 'y': 1}"),
        (["--task", "x=1,y=1", "--steps", "-1"], "steps: has to be at least 0, got -1"),
        (["--task", "x=1,y=1", "--trajectories", "0"], "trajectories: has to be at least 1, got 0"),
        (["--env", "litmaml.rl.AntDirection"], "task: has to say the parameters of the environment, got none"),
        (["--task", "north"], "task: has to be name=value,name=value, got 'north'"),
        (["--data", "photos"], "data: the checkpoint is of a policy, .* got 'photos'; give"),
        (["--task", "x=1,y=1", "--data", "photos"], "env: a policy has its data of its environment; leave out data"),
        (["--env", "nowhere.make", "--task", "x=1"], "env: there is no 'nowhere.make'"),
    ],
)
def test_what_is_typed_wrong_is_told(navigation: Path, typed: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=message):
        main(["finetune", "--checkpoint", str(navigation), "--output", str(tmp_path / "out"), *typed])
    assert not (tmp_path / "out").exists()


def test_examples_are_none_of_a_policys(navigation: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint: .* is of a policy, which adapts to what it does itself"):
        litmaml.adapt(navigation, torch.zeros(3, 2), torch.zeros(3, 2))


def test_tasks_without_names_are_told(tmp_path: Path) -> None:
    made = checkpoint_of(tmp_path, CategoricalPolicy(5, 3, [8]), TabularMDP(trajectories=4))
    with pytest.raises(SystemExit, match="task: those of TabularMDP have no parameters by name, got x"):
        main(["finetune", "--checkpoint", str(made), "--output", str(tmp_path / "out"), "--task", "x=1"])
