"""Classes and functions in a file beside the configuration, from the first command to the last."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import site
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from gratings import draw
from torch import nn

import litmaml
from litmaml import MetaLearner
from litmaml.cli.main import main
from litmaml.cli.unwritten import without_defaults
from litmaml.runs.nameable import python_path

NETS = """
from collections.abc import Callable
from functools import partial
from torch import nn

class Kept(nn.Module):
    def __init__(self, ways: int = 3, width: int = 4, activation: str = "tanh"):
        super().__init__()
        layer = {"tanh": nn.Tanh, "relu": nn.ReLU}[activation]()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, width), layer)
        self.head = nn.Linear(width, ways)
    def forward(self, x):
        return self.head(self.body(x))

class Open(Kept):
    def __init__(self, **options):
        super().__init__(options["ways"], options["width"])

def make(ways: int = 3, activation: str = "relu") -> nn.Module:
    return Kept(ways, 5, activation)

def make_open(ways: int = 3, **others) -> Kept:
    return Kept(ways, **others)

class Partial(Kept):
    def __init__(self, ways: int = 3, layer: Callable[..., nn.Module] = partial(nn.Softplus, beta=2.0)):
        super().__init__(ways)
        self.body[2] = layer()

class Derived(Partial):
    def __init__(self, ways: int = 3, **options):
        super().__init__(ways, **options)

class Closed(Kept):
    def __init__(self, **options):
        given = dict(options)
        super().__init__(**given)

def bare(ways=3):
    return Kept(ways)
"""
CONFIG = """
model:
  model: {class_path: %s}
  inner_optimizer: {class_path: litmaml.inner.SGD, init_args: {lr: 0.2}}
data:
  tasks:
    class_path: litmaml.data.ImageFolderTasks
    init_args: {root: images, image_format: {size: 8}, train: {ways: 3, shots: 1, queries: 2}}
  meta_batch: 2
  train_tasks: 4
  val_tasks: 2
  test_tasks: 2
trainer: {accelerator: cpu, max_epochs: 1, default_root_dir: run, enable_progress_bar: false, log_every_n_steps: 1}
"""
KINDS = {
    "own_nets.Kept": [],
    "own_nets.Open": ["--model.model.ways=3", "--model.model.width=6"],
    "own_nets.Closed": ["--model.model.dict_kwargs.width=6", "--model.model.dict_kwargs.activation=relu"],
    "own_nets.make": ["--model.model.activation=tanh"],
    "own_nets.make_open": ["--model.model.width=6", "--model.model.activation=relu"],
}


@pytest.fixture
def own(place: Path) -> Path:
    """Images, a configuration in a folder of its own, and a module beside it."""
    draw(place / "images", [f"class {k}" for k in range(15)], each=4)
    draw(place / "photos", ["a", "b", "c", "d"], each=2)
    (place / "mine").mkdir()
    (place / "mine" / "own_nets.py").write_text(NETS)
    (place / "mine" / "c.yaml").write_text(CONFIG % "own_nets.Kept")
    return place


LAYER = partial(nn.Softplus, beta=2.0)


class Held:
    def __init__(self, ways: int, layer: Any = LAYER) -> None:
        """A default that no file can hold."""


def run(*arguments: str) -> None:
    """A command of a process that has imported nothing of the user's, and whose path is as it was."""
    for name in ("own_nets", "installed_nets"):
        sys.modules.pop(name, None)
    before = list(sys.path)
    try:
        main([*arguments])
    finally:
        sys.path[:] = before


def accuracy() -> Any:
    return json.loads(Path("run/test_results.json").read_text())["steps"]


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("own_nets.make", "own_nets.Closed") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS
    ],
)
def test_every_command_takes_a_run_back(kind: str, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("fit", "-c", "mine/c.yaml", f"--model.model={kind}", *KINDS[kind])
    said = capsys.readouterr()
    assert "will not rebuild" not in said.err + said.out
    (own / "mine" / "own_nets.py").rename(own / "own_nets.py")  # the current folder will do as well
    named = ("--imports", "own_nets")
    run("test", "--ckpt_path=run", *named)
    found = accuracy()
    run("test", "--ckpt_path=run", "-c", "run/config.yaml")
    assert accuracy() == found
    run("validate", "--ckpt_path=run", *named)
    run("predict", "--ckpt_path=run", *named)
    run("fit", "--ckpt_path=run", "--trainer.max_epochs=2", *named)
    run("finetune", "--checkpoint=run", "--data=photos", "--output=out", "--steps=2", "--export=pt2", *named)
    assert "litmaml classify --model out --images FOLDER --imports own_nets" in capsys.readouterr().out
    run("classify", "--model=out", "--images=photos", *named)
    with open("predictions.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 8
    sys.path.append(str(own))
    importlib.import_module("own_nets")
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    learner = MetaLearner.load_from_checkpoint("run/checkpoints/last.ckpt")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in learner.state_dict().items())
    inputs = torch.rand(6, 3, 8, 8)
    model = litmaml.adapt("run", inputs, torch.arange(6) % 4)
    model.save("again")
    assert torch.equal(litmaml.load("again")(inputs), model(inputs))


@pytest.mark.parametrize("kind", ["Partial", "Derived"])
def test_a_default_that_no_file_can_hold_is_that_of_the_class(kind: str, own: Path) -> None:
    run("fit", "-c", "mine/c.yaml", f"--model.model=own_nets.{kind}")
    (own / "mine" / "own_nets.py").rename(own / "own_nets.py")
    run("test", "--ckpt_path=run", "--imports=own_nets")
    found = accuracy()
    run("test", "--ckpt_path=run", "-c", "run/config.yaml")
    assert accuracy() == found
    assert "serialize" not in (own / "run" / "config.yaml").read_text()


def test_only_what_stands_at_its_default_is_left_out() -> None:
    unwritten = "Unable to serialize instance"
    default = f"{unwritten} {LAYER}"
    name = f"{Held.__module__}.{Held.__qualname__}"
    for layer, kept in ((default, {"ways": 2}), (f"{unwritten} another", {"ways": 2, "layer": f"{unwritten} another"})):
        part = {"class_path": name, "init_args": {"ways": 2, "layer": layer}}
        assert without_defaults({"parts": [part]})["parts"] == [{"class_path": name, "init_args": kept}]


CHANGES = {
    ("Kept", "Renamed"): r"model: 'own_nets\.Kept' is the name of no class that there is",
    ("width: int = 4, ", ""): r"model\.width: Kept takes no argument of this name",
    ("ways: int = 3, width", "depth: int, ways: int = 3, width"): r"model: cannot be made .* 'depth'",
}


def test_a_file_that_has_changed_since(own: Path) -> None:
    run("fit", "-c", "mine/c.yaml")
    (own / "own_nets.py").write_text(NETS)
    run("finetune", "--checkpoint=run", "--data=photos", "--output=out", "--steps=1", "--imports=own_nets")
    for change, why in CHANGES.items():
        (own / "own_nets.py").write_text(NETS.replace(*change))
        for path in own.rglob("*.pyc"):  # as new as the file, to the second
            path.unlink()
        with pytest.raises(SystemExit, match=rf"checkpoint\.{why}; make its class so again, .* --model or -c CONFIG"):
            run("finetune", "--checkpoint=run", "--data=photos", "--output=new", "--imports=own_nets")
        with pytest.raises(SystemExit, match=rf"classify: {why}; make its class so again, .* --network or -c CONFIG"):
            run("classify", "--model=out", "--images=photos", "--imports=own_nets")


def test_diagnose_takes_a_run_back(own: Path) -> None:
    run("fit", "-c", "mine/c.yaml", "--model.model=own_nets.make")
    (own / "mine" / "own_nets.py").rename(own / "own_nets.py")
    few = ("--diagnose.tasks=2", "--diagnose.probed_tasks=2")
    run("diagnose", "--checkpoint=run", "--imports=own_nets", *few)
    one = json.loads((own / "run" / "diagnosis.json").read_text())
    run("diagnose", "--checkpoint=run", "-c", "run/config.yaml", *few)
    assert json.loads((own / "run" / "diagnosis.json").read_text())["setting"] == one["setting"]


def test_the_end_of_training_names_what_to_type(
    own: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it: a command that is typed so has to find the module again."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with caplog.at_level("INFO"):
        run("fit", "-c", "mine/c.yaml")
    said = "litmaml test --ckpt_path run/checkpoints/best.ckpt --imports own_nets"
    assert f"test it: PYTHONPATH=mine {said}" in caplog.text
    monkeypatch.setenv("PYTHONPATH", str(own / "mine"))
    with caplog.at_level("INFO"):
        run("fit", "-c", "mine/c.yaml")
    assert f"test it: {said}" in caplog.text, "it is found there anyway"


@pytest.fixture
def installed(own: Path) -> Path:
    """A package that pip has installed."""
    folder = own / "packages"
    (folder / "installed_nets-1.0.dist-info").mkdir(parents=True)
    (folder / "installed_nets.py").write_text(
        NETS.replace("own_nets", "installed_nets") + "\ndef create(name: str, **options) -> nn.Module:\n"
        "    return Kept(**options)\n"
    )
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    return folder


@pytest.mark.filterwarnings("ignore:the folder will not say how the network is made")
def test_a_function_of_a_package_is_typed_each_time(
    own: Path, installed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    typed = ["--model.model=installed_nets.create", "--model.model.name=x", "--model.model.dict_kwargs.width=6"]
    with caplog.at_level("INFO"), pytest.warns(UserWarning, match=r"not called for a file.* -c RUN/config\.yaml"):
        run("fit", "-c", "mine/c.yaml", *typed)
    assert "test it: litmaml test --ckpt_path run/checkpoints/best.ckpt -c run/config.yaml" in caplog.text
    again = ("-c", "run/config.yaml")
    for command in ("test", "validate", "predict"):
        for more in ((), ("--imports=installed_nets",)):
            with pytest.raises(ValueError, match=r"model\.model: .*does not record how it is made; .*-c RUN/config"):
                run(command, "--ckpt_path=run", *more)
        run(command, "--ckpt_path=run", *again)
    asked = ("finetune", "--checkpoint=run", "--data=photos", "--output=out", "--steps=2")
    with pytest.raises(SystemExit, match=r"model: the checkpoint has no recipe for it; .*-c RUN/config\.yaml"):
        run(*asked)
    run(*asked, *again)
    with pytest.raises(SystemExit, match=r"model: it does not say how its network is made.* -c RUN/config\.yaml"):
        run("classify", "--model=out", "--images=photos")
    run("classify", "--model=out", "--images=photos", *again)
    run("classify", "--model=out", "--images=photos", "--output=2.csv", "--network=installed_nets.Kept",
        "--network.width=6")  # fmt: skip
    assert (own / "predictions.csv").read_text() == (own / "2.csv").read_text()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--model.model=nowhere.Net"], r"there is no module 'nowhere'; put nowhere\.py beside the conf.* PYTHONPATH"),
        (["--model.model=own_nets.bare"], r"'own_nets\.bare' is a function that does not say .*; annotate it.*->"),
        (["--model.model=own_nets.Missing"], r"model\.model: there is no 'Missing' in .*own_nets\.py"),
        (["--model.model=own_nets.nn"], r"model\.model: "),
        (["--model.model=own_nets.Closed", "--model.model.ways=3"], r"model\.model\.ways: .*model\.dict_kwargs\.w"),
        (["--imports=nowhere"], r"imports: 'nowhere' cannot be imported .* put nowhere\.py beside .* PYTHONPATH"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_told(
    typed: list[str], message: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError)) as stopped:
        run("fit", "-c", "mine/c.yaml", *typed)
    said = (capsys.readouterr().err or str(stopped.value)).strip()
    assert "\n" not in said
    assert re.search(message, said), said


def test_a_module_that_cannot_be_imported_is_not_looked_for(own: Path) -> None:
    (own / "mine" / "broken.py").write_text("import not_there\n")
    with pytest.raises(ValueError, match=r"'broken' cannot be imported .*No module named 'not_there'\); mend it"):
        run("fit", "-c", "mine/c.yaml", "--imports=broken", "--data.tasks.root=images", "--model.loss=broken.Loss")


def test_an_editable_installation_is_not_to_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python finds it by itself, by a line of a .pth file of the environment, and no other folder."""
    for folder in ("linked", "loose", "packages"):
        (tmp_path / folder).mkdir()
    (tmp_path / "packages" / "linked.pth").write_text(f"# a note\nimport sys\n{tmp_path / 'linked'}\n")
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path / "packages")])
    for folder in ("linked", "loose"):
        (tmp_path / folder / f"nets_of_{folder}.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path / folder)
        importlib.import_module(f"nets_of_{folder}")
    assert python_path(["nets_of_linked"]) == ""
    assert python_path(["nets_of_loose"]).startswith(f"PYTHONPATH={tmp_path / 'loose'}")
