"""A user's own environment, from YAML in an empty folder to a tested checkpoint; and what a stranger's may name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

pytest.importorskip("gymnasium", reason="needs gymnasium: pip install 'litmaml[rl]'")

from litmaml.cli.main import main
from litmaml.runs.admission import admit_arguments
from litmaml.runs.admitted import NotAdmitted
from litmaml.runs.nameable import users_modules

pytestmark = pytest.mark.filterwarnings("ignore:.*log_every_n_steps:UserWarning")
CODE = '''
import gymnasium
import numpy as np


class Thermostat(gymnasium.Env):
    """A room that is to be kept at a temperature which it does not tell."""

    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, wanted: float = 20.0, leak: float = 0.1):
        self.wanted, self.leak = wanted, leak

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.room = self.np_random.uniform(-1.0, 1.0)
        return np.array([self.room]), {}

    def step(self, action):
        self.room += float(action[0]) - self.leak * self.room
        return np.array([self.room]), -abs(self.room - self.wanted), False, False, {}


def make(wanted: float, leak: float = 0.1) -> gymnasium.Env:
    return Thermostat(wanted, leak)


def unsaid(wanted):
    return Thermostat(wanted)


def lever(arm: float) -> gymnasium.Env:
    environment = Thermostat(arm)
    environment.action_space = gymnasium.spaces.Discrete(2)
    return environment


def run(command: str) -> int:
    raise SystemExit(command)
'''
CONFIG: dict[str, Any] = {
    "model": {
        "model": {"class_path": "litmaml.rl.GaussianPolicy", "init_args": {"hidden": [8]}},
        "experience": {"class_path": "litmaml.rl.Rollouts"},
        "loss": {"class_path": "litmaml.rl.PolicySurrogate"},
        "inner_optimizer": {"class_path": "litmaml.inner.SGD", "init_args": {"lr": 0.1}},
    },
    "data": {
        "tasks": {
            "class_path": "litmaml.rl.GymnasiumTasks",
            "init_args": {
                "make_env": "rooms.make",
                "parameters": {"wanted": [-2.0, 2.0]},
                "horizon": 8,
                "trajectories": 3,
            },
        },
        "meta_batch": 2,
        "train_tasks": 4,
        "val_tasks": 2,
        "test_tasks": 3,
    },
    "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "default_root_dir": "run"},
    "checkpoint": {"monitor": "val/return", "mode": "max"},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, which a program that is installed does not look into, with a module and a file."""
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rooms.py").write_text(CODE)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    yield tmp_path
    sys.modules.pop("rooms", None)


def returns(folder: str = "run") -> list[float]:
    found = json.loads(Path(folder, "test_results.json").read_text())
    return [step["return"]["mean"] for step in found["steps"]]


def test_from_an_empty_folder_to_a_test(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "-c", "c.yaml", "--data.tasks.query_trajectories=2"])
    recorded = torch.load("run/checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]["model"]["init_args"]
    assert (recorded["observations"], recorded["actions"]) == (1, 1)
    sys.modules.pop("rooms")
    sys.path[:] = [folder for folder in sys.path if folder != str(place)]
    with pytest.raises(ValueError, match=r"make_env: 'rooms.make' is not loaded.*type --imports rooms"):
        main(["test", "--ckpt_path=run"])
    assert "rooms" not in sys.modules
    main(["test", "--ckpt_path=run", "--imports=rooms"])
    assert len(returns()) == 2
    main(["fit", "--ckpt_path=run", "--imports=rooms", "--trainer.max_epochs=2"])
    assert "environment: Thermostat" in capsys.readouterr().out


def test_what_is_told_to_type_after_training_names_the_module(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    main(["fit", "-c", "c.yaml", "--data.tasks.make_env=rooms.Thermostat"])
    assert "--imports rooms" in caplog.text
    assert users_modules({"make_env": "rooms.make", "name": "rooms.gone", "text": "not.a.function"}) == ["rooms"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            ["--data.tasks.make_env=rooms.lever", "--data.tasks.parameters={arm: [0, 1]}"],
            r"model: an action of .* 2 cho",
        ),
        (["--model.model=litmaml.rl.CategoricalPolicy"], r"model: an action of GymnasiumTasks is 1 real numbers"),
        (["--model.model.observations=3"], r"model.observations: GaussianPolicy is for 3, and GymnasiumTasks has 1"),
        (["--data.tasks.parameters={warm: [0, 1]}"], r"make_env: cannot make an environment of warm=0.*TypeError"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(typed: list[str], said: str, place: Path) -> None:
    with pytest.raises(ValueError, match=said):
        main(["fit", "-c", "c.yaml", *typed])


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("rooms.unsaid", "is a function that does not say that it makes gymnasium.Env; annotate it: def"),
        ("rooms.run", "is a function that does not say that it makes gymnasium.Env; annotate it: def"),
        ("rooms.gone", "there is no 'gone' in "),
    ],
)
def test_a_function_has_to_say_that_it_makes_an_environment(
    named: str, said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "-c", "c.yaml", f"--data.tasks.make_env={named}"])
    assert said in capsys.readouterr().err


def test_sizes_are_taken_of_any_tasks_of_control(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shorthand = ["--model.model=GaussianPolicy", "--model.loss=PolicySurrogate", "--model.experience=Rollouts"]
    few = ["--data.tasks.horizon=4", "--data.tasks.trajectories=2", "--data.meta_batch=2", "--data.train_tasks=2"]
    few += ["--data.val_tasks=2", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    quiet = ["--trainer.enable_progress_bar=false", "--checkpoint.monitor=val/return", "--checkpoint.mode=max"]
    for tasks, sizes in (("Navigation", (2, 2)), ("TabularMDP", (5, 3))):
        policy = ["--model.model=CategoricalPolicy"] if tasks == "TabularMDP" else []
        run = f"--trainer.default_root_dir={tasks}"
        main(["fit", f"--data.tasks={tasks}", *shorthand, *policy, *few, *quiet, run])
        model = yaml.safe_load(Path(tasks, "config.yaml").read_text())["model"]["model"]["init_args"]
        assert (model["observations"], model["actions"]) == sizes
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["fit", "-c", "c.yaml", "--print_config"])
    assert not ended.value.code
    assert yaml.safe_load(capsys.readouterr().out)["model"]["model"]["init_args"]["observations"] is None
    with pytest.raises(ValueError, match=r"observations: has to be given, since there are no tasks of control"):
        main(["fit", "--data.tasks=Sinusoid", *shorthand, "--trainer.accelerator=cpu"])


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("rooms.run", "does not say that it makes a Env"),
        ("rooms.unsaid", "does not say that it makes a Env"),
        ("rooms.json", "is no class|is the name of no class"),
        ("gymnasium.make", "is no Env of yours"),
        ("gymnasium.envs.registration.EnvSpec", "is no Env of yours"),
        ("os.system", "is no Env of yours"),
        ("torch.hub.load", "cannot be named by a file"),
        ("litmaml.rl.Navigation", "is no Env"),
        ("not.loaded", "is not loaded"),
        ({"class_path": "subprocess.Popen"}, "is no Env of yours"),
        ({"class_path": "rooms.Thermostat", "init_args": {"gone": 1}}, "takes no argument of this name"),
    ],
)
def test_a_record_makes_environments_only_and_only_such_as_are_known(named: Any, said: str, place: Path) -> None:
    from litmaml.rl import GymnasiumTasks

    sys.path.append(str(place))
    __import__("rooms")
    record = {"make_env": named, "parameters": {"command": {"choices": ["true"]}}, "horizon": 3}
    with pytest.raises(NotAdmitted, match=said):
        admit_arguments(GymnasiumTasks, record, "data.tasks")
    kept = admit_arguments(GymnasiumTasks, record | {"make_env": "rooms.make"}, "data.tasks")
    assert kept["parameters"] == {"command": {"choices": ["true"]}}
