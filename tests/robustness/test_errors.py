"""Whatever is wrong, the program ends with a line that names the option, and without a traceback."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from tiny import TINY, finish, fit, slow, start

from litmaml.cli.main import main, program
from litmaml.cli.recorded import training
from litmaml.learner.processes import check_devices

STUDENTS = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        self.head = nn.Linear(1, 1)
"""


def told(*arguments: str) -> tuple[object, str]:
    """The status that a command ends with, and the line it says."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
        program(arguments)
    code = ended.value.code
    return (1, code) if isinstance(code, str) else (code, said.getvalue().splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--model.outer_gradient=SecondOdrer"],
            "model.outer_gradient: there is no class 'SecondOdrer'; did you mean Sec",
        ),
        (
            ["--model.outer_gradient=litmaml.outer.Third"],
            "model.outer_gradient: there is no class 'litmaml.outer",
        ),
        (["--model.inner_stepz=3"], "model.inner_stepz: there is no such option; did you mean model.inner_steps?"),
        (["--optimizer=SGD"], "optimizer: there is no such option"),
        (["--data.tasks.init_args.test=null"], "data.tasks.init_args.test: is a group of options, got null; leave it"),
        (["-c", "no_group.yaml"], "data.tasks.init_args.train: is a group of options, got [1, 2]; leave it"),
        (["--last_checkpoint.dirpath=x"], "last_checkpoint.dirpath: there is no such option"),
        (["--model.inner_steps=zero"], "model.inner_steps: expected int, got 'zero'"),
        (["--model.inner_steps=0"], "model.inner_steps: has to be at least 1, got 0"),
        (
            ["--model.inner_optimizer.lr=-1"],
            "model.inner_optimizer.lr: the inner rate has to be a positive number, got -1",
        ),
        (["--model.model.hiden=[3]"], "model.model.hiden: there is no such option; did you mean model.model.hidden?"),
        (["--model.optimizer.lrr=3"], "model.optimizer.lrr: there is no such option; did you mean model.optimizer.lr?"),
        (["--model.loss=torch.nn.MSELos"], "model.loss: there is no class 'torch.nn.MSELos'; did you mean MSELoss?"),
        (["--model.on_nonfinite=stop"], "model.on_nonfinite: got 'stop'; one of raise, skip"),
        (
            ["--model.model=mynets.Small"],
            "model.model: there is no module 'mynets'; put mynets.py beside the conf",
        ),
        (["--data.tasks=Sinusoids"], "data.tasks: there is no class 'Sinusoids'; did you mean Sinusoid?"),
        (
            ["--model.outer_gradient=litmaml.outer_gradient.FirstOrder"],
            "model.outer_gradient: there is no class 'litmaml.outer_gradient.FirstOrder' any more; it is "
            "litmaml.outer.FirstOrder now",
        ),
        (
            ["-c", "{model: {inner_optimizer: {class_path: litmaml.inner_optimizer.SGD, init_args: {lr: 0.1}}}}"],
            "model.inner_optimizer: there is no class 'litmaml.inner_optimizer.SGD' any more; it is litmaml.inner.SGD",
        ),
        (
            ["--model.loss=litmaml.losses.HalfSquaredLoss"],
            "model.loss: there is no class 'litmaml.losses.HalfSquaredLoss' any more; it is litmaml.problems.HalfSq",
        ),
        (
            ["--data.tasks=litmaml.data.RankOne"],
            "data.tasks: there is no class 'litmaml.data.RankOne' any more; it is litmaml.problems.RankOne now",
        ),
        (["--model.loss=litmaml.losses.Halved"], "model.loss: there is no class 'litmaml.losses.Halved'"),
        (["--data.tasks.train.shots=x"], "data.tasks.train.shots: expected int | None, got 'x'"),
        (["--data.tasks.train.shots=0"], "data.tasks.train.shots: must be at least 1, got 0"),
        (["--data.train_tasks=21"], "data.train_tasks=21 must be a multiple of meta_batch"),
        (["--trainer.precision=33"], "trainer.precision: got '33'; one of"),
        (["--trainer.strategy=dddp"], "trainer.strategy: You selected an invalid strategy name"),
        (["-c", "missing.yaml"], "config: there is no such file"),
        (["-c", "utf16.yaml"], "config: 'utf16.yaml' is not in UTF-8"),
        (["-c", "latin1.yaml"], "config: 'latin1.yaml' is not in UTF-8"),
        (["-c", "broken.yaml"], "config: 'broken.yaml': no YAML: while parsing"),
        (["-c", "unknown.yaml"], "model.inner_stepz: there is no such option; did you mean model.inner_steps?"),
        (["--ckpt_path=nowhere.ckpt"], "ckpt_path: 'nowhere.ckpt' is neither a file"),
        (
            ["--checkpoint.monitor=val_loss"],
            "checkpoint.monitor: there is no metric 'val_loss'; did you mean val/loss?",
        ),
        (["--trainer.devices=99"], "trainer.devices: on a CPU it is the number of processes, and there are"),
        (["--trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val: has to be at least 0"),
        (["--trainer.log_every_n_steps=-1"], "trainer.log_every_n_steps: has to be at least 0, got -1"),
        (["--trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches: has to be at least 1, got 0"),
        (["--model.optimizer.lr=-1"], "model.optimizer: Invalid learning rate: -1"),
        (["--model.optimizer.lr=[1]"], "model.optimizer.lr: has to be one number, got [1"),
        (
            ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val_loss"],
            "trainer.callbacks.EarlyStopping.monitor: there is no metric 'val_loss'; did you mean val/loss?",
        ),
        (
            ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.monitor=val/nope"],
            "trainer.callbacks.ModelCheckpoint.monitor: there is no metric 'val/nope'",
        ),
        (["--ckpt_pat=last"], "ckpt_pat: there is no such option; did you mean ckpt_path?"),
        (["--trainer.max_ep=3"], "trainer.max_ep: there is no such option; did you mean trainer.max_"),
        (["--ckpt_path"], "ckpt_path: has to be a run's folder, a file, best, last or none, got nothing"),
        (["--ckpt_path="], "ckpt_path: has to be a run's folder, a file, best, last or none, got nothing"),
        (["-c", "list.yaml"], "config: 'list.yaml' has to hold options by their names, got "),
        (["--checkpoint.save_top_k=-2"], "checkpoint.save_top_k: has to be -1 for all, 0 for none, or more, got -2"),
        (["-c", "number.yaml"], "data.tasks: expected a TaskDistribution by its class_path, got 1"),
        (
            ["--model.model=torch.nn.Sequential", "--model.model.args=1"],
            "model.model.args: there is no such option; --help lists them",
        ),
        (["-c", "empty.yaml"], "config: 'empty.yaml' has nothing in it; leave it out, or write options into it"),
        (["-c", "null.yaml"], "trainer: is a group of options, such as trainer: {}, got None"),
        (
            ["--trainer.devices=abc"],
            "trainer.devices: has to be a number, auto, or a list of devices such as 0,1",
        ),
        (["-c", "group.yaml"], "preemption: is a group of options, such as preemption: {}, got 3"),
        (["stray"], "stray: is no option; a configuration is given by -c stray, an option by --NAME=VALUE"),
        (["--model.inner_lr=1"], "model.inner_lr: there is no such option; did you mean model.inner_optimizer.lr?"),
        (["--inner_optimizer.lr=1"], "inner_optimizer.lr: there is no such option; did you mean model.inner_optimiz"),
        (["--model.lr=1"], "model.lr: there is no such option; did you mean model.optimizer.lr of the outer loop, or"),
        (["--batch_size=2"], "batch_size: there is no such option; did you mean data.meta_batch?"),
        (
            ["--model.inner_optimizer.learning_rate=1"],
            "model.inner_optimizer.learning_rate: there is no such option; did you mean model.inner_optimizer.lr?",
        ),
        (
            ["--model.inner_optimizer.lr='0.4'"],
            "model.inner_optimizer.lr: expected float, got '0.4'; a number stands wi",
        ),
        (["-c", "tabs.yaml"], "config: 'tabs.yaml': no YAML: while scanning"),
        (
            ["--model.inner_optimizer=torch.optim.SGD"],
            "model.inner_optimizer: 'torch.optim.SGD' is no InnerOptimizer; did you mean SGD?",
        ),
        (
            ["--model.loss=torch.nn.functional.cross_entropy"],
            "model.loss: 'torch.nn.functional.cross_entropy' is no Module; did you mean CrossEntropyLoss?",
        ),
        (
            ["--model.model=Nowhere"],
            "model.model: there is no class 'Nowhere'; one of your own is named by its import path, MODU",
        ),
        (["--model.model=students.Nat"], "model.model: there is no 'Nat' in "),
        (
            ["--model.model=./students.py"],
            "model.model: got a file; name a class in it by its import path, students.CLA",
        ),
        (
            ["--model.model=students.Net"],
            "model.model: students.Net: cannot assign module before Module.__init__() call; "
            "its __init__ has to begin with super().__init__()",
        ),
        (["--trainer.callbacks=EarlyStopping"], "trainer.callbacks.monitor: have to be given, as options or in a conf"),
        (
            ["--model.inner_optimizer.learn=all"],
            "model.inner_optimizer.learn: got 'all'; one of none, one, tensor, parameter",
        ),
        (["--trainer.max_epochs=1e3"], "trainer.max_epochs: expected int, got '1e3'"),
        (["--model.optimizer.lr=abc"], "model.optimizer.lr: expected float, got 'abc'"),
        (["--trainer.precision=1_000"], "trainer.precision: got '1_000'; one of 64"),
        (["--checkpoint.mode=0x10"], "checkpoint.mode: got '0x10'; one of min, max"),
        (["--trainer.max_time=abc"], "trainer.max_time: `Timer(duration='abc')` is not a valid duration"),
        (["-c", "twice.yaml"], "config: 'twice.yaml': no YAML: 'max_epochs' stands there twice in"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_line_names_the_option(arguments: list[str], line: str) -> None:
    Path("utf16.yaml").write_bytes(TINY.encode("utf-16"))
    Path("latin1.yaml").write_bytes(("# für\n" + TINY).encode("latin-1"))
    Path("broken.yaml").write_text("model: [")
    Path("tabs.yaml").write_text("model:\n\tinner_steps: 3\n")
    Path("students.py").write_text(STUDENTS)
    Path("unknown.yaml").write_text("model: {inner_stepz: 3}")
    Path("number.yaml").write_text("data: {tasks: 1}")
    Path("empty.yaml").touch()
    Path("null.yaml").write_text("trainer: null")
    Path("group.yaml").write_text("preemption: 3")
    Path("no_group.yaml").write_text("data: {tasks: {init_args: {train: [1, 2]}}}")
    Path("list.yaml").write_text("[model]")
    Path("twice.yaml").write_text("a: &a {b: 1}\ntrainer:\n  max_epochs: 1\n  max_epochs: 2\n")
    status, said = told("fit", "-c", "tiny.yaml", *arguments)
    assert status in (1, 2)
    assert said.removeprefix("litmaml fit: ").removeprefix("litmaml: ").startswith(line)
    assert not Path("runs/tiny/checkpoints").exists()


@pytest.mark.parametrize("command", ["fit", "finetune", "classify", "diagnose"])
def test_every_command_reads_configurations_alike(command: str) -> None:
    Path("twice.yaml").write_text("checkpoint: a\ndata: x\ndata: y\n")
    for option in ("-c", "--config"):
        status, said = told(command, option, "twice.yaml")
        assert status in (1, 2)
        assert said.startswith(f"litmaml {command}: config: 'twice.yaml': no YAML: 'data' stands there twice in")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_was_typed_is_found_by_its_value() -> None:
    said = told("fit", "-c", "tiny.yaml", "--trainer.accelerator=gpu")[1]
    assert said.startswith("litmaml fit: trainer.accelerator: No supported gpu backend found")


def test_commands() -> None:
    assert told("fitt") == (1, "litmaml fitt: there is no command 'fitt'; did you mean fit? There are fit, validate, "
                            "test, predict, finetune, classify, push, diagnose, data, zoo, configs")  # fmt: skip
    assert told("-c", "tiny.yaml", "fit")[1] == "litmaml -c: -c: options come after a command, such as litmaml fit -c"
    assert told("fit")[1] == "litmaml: model.model, data.tasks: have to be given, as options or in a configuration file"
    assert told("test")[1].startswith("litmaml test: ckpt_path: test needs one")
    assert told("finetune", "--chekpoint=x")[0] == 2
    assert "there is no such option" in told("diagnose", "--model.inner_stepz=1")[1]


def test_the_program_alone_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        program(arguments)
        assert capsys.readouterr().out.startswith("usage: litmaml COMMAND [options]\n")
    with pytest.raises(SystemExit):
        program(["fit", "--help=all"])
    assert capsys.readouterr().out.startswith("usage: litmaml [options] fit [-c CONFIG]")


@pytest.mark.parametrize("device", ["cuda", *slow("gpu", "cuda:7", "meta")])
def test_a_device_that_is_not_there_is_told_before_anything_is_read(device: str) -> None:
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has one")
    status, line = told("finetune", "--checkpoint=none", "--data=none", "--output=out", f"--device={device}")
    assert status == 1
    assert line.startswith("litmaml finetune: device: torch cannot compute there")
    assert f"got {device!r}" in line


def test_more_processes_than_cores_are_warned_of() -> None:
    cores = len(os.sched_getaffinity(0))
    check_devices(Trainer(accelerator="cpu", devices=cores, logger=False))
    with pytest.warns(
        UserWarning, match=f"there are {cores} cores, got {cores + 1}: set it to at most {cores}, unless"
    ):
        check_devices(Trainer(accelerator="cpu", devices=cores + 1, logger=False))


def test_the_traceback_is_there_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMAML_DEBUG", "1")
    with pytest.raises(ValueError, match="inner_steps: has to be"):
        program(["fit", "-c", "tiny.yaml", "--model.inner_steps=0"])


def test_from_python_errors_are_raised() -> None:
    with pytest.raises(ValueError, match="inner_steps: has to be"):
        fit("--model.inner_steps=0")


@pytest.mark.slow
def test_the_program_and_its_status(tmp_path: Path) -> None:
    status, said = finish(start("fit", "-c", "tiny.yaml", "--model.inner_steps=0"))
    assert (status, said.splitlines()[-1]) == (1, "litmaml fit: model.inner_steps: has to be at least 1, got 0")
    assert "Traceback" not in said
    process = start("test", "-c", "tiny.yaml", "--ckpt_path=none", "--data.test_tasks=2000000")
    while not Path("runs").exists():
        if "GPU available" in os.read(process.stdout.fileno(), 1000).decode():  # type: ignore[union-attr]
            break
    os.killpg(process.pid, signal.SIGINT)
    status, said = finish(process)
    assert status == 130, said
    assert "Traceback" not in said


GARBAGE: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 10**30, -0.5, 0.5, float("nan"), float("inf")),
    *("", "x", "none", "ä\u202e\x00", "1e3", "../..", "/dev/null", "~", "$HOME", "os.system", "[", "{a", "0x10"),
    *("2026-01-01", "litmaml.models.MLP", "torch.nn.Linear", [], [1], ["a", None], {}),
    *({"class_path": "litmaml.models.MLP"}, {"class_path": "nowhere.X"}, {"class_path": 3}, {"init_args": {"a": 1}}),
    *({"class_path": "torch.optim.SGD", "init_args": {"lr": "x"}}, [{"class_path": "Foo"}]),
]
# Not mutated: what starts other processes, waits for other machines, or goes on for hours.
LEFT_ALONE = {"devices", "num_nodes", "strategy", "max_time"}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path, *(place for name, part in value.items() for place in places(part, (*path, name)))]
    return [path]


def mutated(chance: random.Random, options: dict[str, Any]) -> dict[str, Any]:
    """One to three parts of a configuration replaced, left out, misspelt or moved."""
    made = copy.deepcopy(options)
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        place = chance.choice([p for p in places(made) if p and not LEFT_ALONE & {*p}])
        parent = made
        for name in place[:-1]:
            parent = parent[name]
        how = chance.random()
        if how < 0.6:
            parent[place[-1]] = chance.choice(GARBAGE)
        elif how < 0.7:
            del parent[place[-1]]
        elif how < 0.85:
            name = str(place[-1])
            k = chance.randrange(len(name))
            parent[name[:k] + chance.choice("az_.") + name[k + 1 :]] = parent.pop(place[-1])
        else:
            parent[chance.choice(["x", "class_path", "init_args", "lr", "self", "logger"])] = parent.get(place[-1])
    return made


MORE = {
    "trainer": {
        "callbacks": [],
        "logger": None,
        "precision": "32-true",
        "accumulate_grad_batches": 1,
        "val_check_interval": 1.0,
        "gradient_clip_val": 1.0,
    },
    "model": {"outer_gradient": {"class_path": "litmaml.outer.SecondOrder"}, "tasks_per_chunk": 2},
    "checkpoint": {"monitor": "val/loss", "save_top_k": 1},
    "preemption": {"save_every_minutes": 10},
    "seed_everything": 1,
}


def spoilt(chance: random.Random, text: str) -> bytes:
    """A configuration that is none, or of another encoding, or broken off, or of other things."""
    raw = text.encode()
    k = chance.randrange(len(raw))
    return chance.choice(
        [
            *(b"", b"\n", b"---", b"null", b"3", b"- a\n- b", b"word", b"\x00", b"\xff\xfe\xfd", bytes(range(256))),
            *(b"model: !!python/object/apply:os.mkdir [ran]", b"&a [*a]", b"[" * 3000, b"a: 1\na: {b: 2}", b"? {a: 1}"),
            *(b"1: 2", b"null: 1", b"{trainer: [], model: 0}", b"trainer:\n\t- x", b"model: *gone", b"<<: 3"),
            *(
                raw[:k],
                raw[k:],
                raw[:k] + b"\x07" + raw[k:],
                raw[:k] + b": :" + raw[k:],
                raw[:k] + b"\t" + raw[k + 1 :],
            ),
            *(text.encode("utf-16"), text.encode("utf-32"), raw.replace(b": ", b":", 1), raw.replace(b"  ", b" ", 1)),
            raw + "ä: ö\nمفتاح: قيمة\n".encode(),
        ]
    )


def typed(chance: random.Random, command: str, base: dict[str, Any]) -> list[str]:
    """What somebody may type after a command in a bad moment: files, options and checkpoints."""
    file, how = Path("mutated.yaml"), chance.random()
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)
    arguments = ["-c", str(file)]
    if how < 0.65:
        file.write_text(yaml.safe_dump(mutated(chance, base), allow_unicode=True))
    elif how < 0.8:
        file.write_bytes(spoilt(chance, yaml.safe_dump(base)))
    elif how < 0.85:
        file.mkdir() if chance.random() < 0.5 else file.symlink_to("nowhere.yaml")
    else:
        file.write_text(yaml.safe_dump(base))
        for _ in range(chance.choice([1, 1, 2])):
            place = chance.choice([p for p in places(base) if p and not LEFT_ALONE & {*p}])
            name = ".".join(str(part) for part in place if part != "init_args" or chance.random() < 0.5)
            value = chance.choice(GARBAGE)
            value = value if isinstance(value, str) else json.dumps(value)
            arguments.append(
                chance.choice([f"--{name}={value}", f"--{name}", f"--{name[:-1]}={value}", f"-{name}", value])
            )
    if command != "fit":
        others = [
            "runs",
            "runs/run/checkpoints",
            "half.ckpt",
            "mutated.yaml",
            "best",
            "",
            "ä",
            "/dev/null",
            "runs/run\n",
        ]
        named = "runs/run" if chance.random() < 0.8 else chance.choice([*others, "none", None])
        arguments += [] if named is None else [f"--ckpt_path={named}"]
    return arguments


def tried(seeds: range, command: str = "fit") -> list[str]:
    """The lines that a command ends with after mutated configurations; empty where it runs."""
    base = yaml.safe_load(TINY)
    for section, options in MORE.items():
        base[section] = {**base.get(section, {}), **options} if isinstance(options, dict) else options
    base["trainer"] |= {"max_epochs": 1, "max_steps": 2}
    if command != "fit":
        fit("--trainer.default_root_dir=runs/run", "--trainer.max_epochs=1")
        Path("half.ckpt").write_bytes(Path("runs/run/checkpoints/last.ckpt").read_bytes()[:3000])
    lines = []
    for seed in seeds:
        arguments = typed(random.Random(seed), command, base)
        limits = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.devices=1"]
        said, code = io.StringIO(), None
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                program([command, *arguments, f"--trainer.default_root_dir=tried/{seed}", *limits])
        except SystemExit as ended:
            code = ended.code
        lines.append("" if code is None else code if isinstance(code, str) else said.getvalue().splitlines()[-1])
        assert code != 0, (seed, arguments)
        assert "\n" not in lines[-1], seed
        assert code is None or 10 < len(lines[-1]) < 800, (seed, lines[-1])
        assert "Traceback" not in said.getvalue(), seed
    assert not Path("ran").exists()
    return lines


@pytest.mark.filterwarnings("default")
def test_mutated_configurations() -> None:
    assert len(tried(range(8))) == 8
    assert len(tried(range(4), "test")) == 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("command", "count"), [("fit", 500), ("test", 170), ("validate", 170), ("predict", 160)])
def test_five_hundred_mutated_configurations(command: str, count: int) -> None:
    """Five hundred for training, and as many for the three evaluations together."""
    lines = tried(range(1000, 1000 + count), command)
    wrong = [line for line in lines if line]
    assert len(lines) == count
    assert len(wrong) > 0.4 * count
    unexpected = [line for line in wrong if "LITMAML_DEBUG" in line]
    assert len(unexpected) <= 0.01 * count, "\n".join(unexpected)


def test_main_is_the_same_from_python() -> None:
    main(["fit", "-c", "tiny.yaml", "--trainer.fast_dev_run=true"])
    assert not Path("runs").exists()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are not given out here")
def test_recorded_processes_have_the_cores_that_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a scheduler does, which gives a job some of the machine's."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    training({"trainer": {"devices": 2}}, ["fit"])
    with pytest.raises(ValueError, match=r"trainer\.devices: the run had 3 processes, and there are 2 cores here"):
        training({"trainer": {"devices": 3}}, ["fit"])
