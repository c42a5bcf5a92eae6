"""The command line as a user types it, in processes of its own where the exit counts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_data import arguments

from litmaml.cli.main import main
from litmaml.data import Sinusoid
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.runs.checkpoint import read_checkpoint

CONFIGS = Path(__file__).parents[2] / "configs"
SINUSOID = str(CONFIGS / "sinusoid.yaml")
QUICK = [
    "--data.meta_batch=4",
    "--data.train_tasks=16",
    "--data.val_tasks=4",
    "--data.test_tasks=6",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.max_epochs=2",
    "--trainer.log_every_n_steps=2",
]
# Settings that make every complete configuration small.
SMALL = {
    "glyphs.yaml": ["--model.model.init_args.filters=4"],
    "omniglot_5w1s.yaml": ["--model.model.init_args.filters=4"],
    "omniglot_5w5s.yaml": ["--model.model.init_args.filters=4"],
    "omniglot_20w1s.yaml": ["--model.model.init_args.filters=4"],
    "omniglot_20w5s.yaml": ["--model.model.init_args.filters=4"],
    "image_folder.yaml": ["--model.model.init_args.filters=4"],
    "pretrained_body.yaml": ["--model.model.init_args.name=test_resnet", "--model.model.init_args.pretrained=false"],
}


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "litmaml", *arguments], cwd=cwd, capture_output=True, text=True, timeout=250
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run's folder."""
    folder = tmp_path_factory.mktemp("run") / "sinusoid"
    main(["fit", "-c", SINUSOID, *QUICK, f"--trainer.default_root_dir={folder}"])
    return folder


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "test_results.json").read_text())
    return found


def test_fit_leaves_checkpoints_logs_and_its_configuration(trained: Path) -> None:
    assert {"best.ckpt", "last.ckpt"} <= {p.name for p in (trained / "checkpoints").iterdir()}
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["data"]["meta_batch"] == 4
    header = (trained / "logs" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "train/loss_before", "val/loss", "val/loss_step_0", "val/loss_step_10"} <= set(header)


class Shifted(MLP):
    """A network with an argument that may be null and is not by default."""

    def __init__(self, shift: float | None = 1.0) -> None:
        super().__init__()
        self.shift = shift


def test_null_is_recorded_where_the_default_is_another(tmp_path: Path) -> None:
    model = ["--model.model=test_cli.Shifted", "--model.model.init_args.shift=null"]
    main(["fit", "-c", SINUSOID, *QUICK, *model, "--trainer.max_epochs=1", f"--trainer.default_root_dir={tmp_path}"])
    logged = yaml.safe_load((tmp_path / "logs" / "version_0" / "hparams.yaml").read_text())
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["hyper_parameters"]
    for model_recipe in (saved["model"]["model"], logged["model"]["model"], checkpoint["model"]):
        assert model_recipe == {"class_path": "test_cli.Shifted", "init_args": {"shift": None}}


def test_test_needs_the_checkpoint_alone(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    main(["test", f"--ckpt_path={trained}", "--trainer.accelerator=cpu"])
    found = results(trained)
    assert found["protocol"]["tasks"] == 6
    assert found["protocol"]["normalisation"] == "none"
    assert found["protocol"]["outer_gradient"] == "SecondOrder"
    assert [row["inner_steps"] for row in found["steps"]] == list(range(11))
    assert found["steps"][10]["loss"]["half_width"] > 0
    assert (trained / "adaptation.png").stat().st_size > 5000
    assert (trained / "functions.png").stat().st_size > 5000
    assert "Sinusoid: mean and 95% interval over 6 tasks\n" in capsys.readouterr().out  # not broken to the width


@pytest.mark.parametrize("where", ["model", "optimizer", "tasks", "function"])
def test_a_checkpoint_that_names_other_classes_runs_nothing(where: str, trained: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    touch = {"class_path": "subprocess.Popen", "init_args": {"args": f"touch '{mark}'", "shell": True}}
    saved = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
    if where == "model":
        saved["hyper_parameters"]["model"] = touch
    elif where == "optimizer":
        saved["hyper_parameters"]["optimizer"] = touch
    elif where == "function":
        saved["hyper_parameters"]["optimizer"] = "os.system"
    else:
        tasks = {
            "class_path": "litmaml.data.Learn2LearnTasks",
            "init_args": {"train_taskset": touch, "val_taskset": touch, "test_taskset": touch},
        }
        saved["datamodule_hyper_parameters"]["tasks"] = tasks
    torch.save(saved, tmp_path / "hostile.ckpt")
    refused = {
        "model": r"checkpoint\.model\.model: 'subprocess\.Popen' is no Module .* type --model\.model to take",
        "optimizer": r"checkpoint\.model\.optimizer: 'subprocess\.Popen' is no Optimizer",
        "tasks": r"checkpoint\.data\.tasks\.train_taskset: 'subprocess\.Popen' is no Module",
        "function": r"checkpoint\.model\.optimizer: 'os\.system' is no Optimizer of yours",
    }[where]
    for command in ("test", "fit", "validate"):
        with pytest.raises(ValueError, match=refused):
            main([command, f"--ckpt_path={tmp_path / 'hostile.ckpt'}", "--trainer.accelerator=cpu"])
    assert not mark.exists()


def test_a_result_counts_the_tasks_that_were_tested(trained: Path) -> None:
    main(["test", f"--ckpt_path={trained}", "--trainer.accelerator=cpu", "--trainer.limit_test_batches=1"])
    assert results(trained)["protocol"]["tasks"] == 3  # the first of two batches of the six


def test_whole_numbers_stay_whole_whatever_was_imported_first() -> None:
    program = (
        "from typing import Optional, Union\nOptional[Union[float, int]]\n"
        "import litmaml.data, litmaml.cli.main, inspect\n"
        "from lightning.pytorch import Trainer\n"
        "print(inspect.signature(Trainer).parameters['limit_test_batches'].annotation)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "typing.Union[int, float, NoneType]\n"


def test_a_wrong_option_leaves_the_earlier_run_where_it_is(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    with pytest.raises(ValueError, match="fast_weights: 'tail' fits none"):
        main(["fit", "-c", SINUSOID, "--model.fast_weights=[tail]", f"--trainer.default_root_dir={folder}"])
    main(["fit", "-c", SINUSOID, *QUICK, "--trainer.fast_dev_run=true", f"--trainer.default_root_dir={folder}"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("steps", [3, 12])
def test_what_is_typed_wins_over_the_checkpoint(trained: Path, steps: int) -> None:
    main(
        [
            "test",
            "--ckpt_path",
            str(trained / "checkpoints" / "last.ckpt"),
            f"--model.test_inner_steps={steps}",
            "--data.test_tasks=5",
            "--trainer.accelerator=cpu",
        ]
    )
    assert len(results(trained)["steps"]) == steps + 1
    assert results(trained)["protocol"]["tasks"] == 5


def test_the_precision_of_float32_is_an_option(trained: Path) -> None:
    command = ["validate", f"--ckpt_path={trained}", "--trainer.accelerator=cpu"]
    try:
        main([*command, "--float32_matmul_precision=high"])
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        main(command)
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_a_second_fit_sets_the_first_aside(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        main(["fit", "-c", SINUSOID, *QUICK, "--trainer.max_epochs=1", f"--trainer.default_root_dir={folder}"])
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert (tmp_path / "run.1" / "checkpoints" / "best.ckpt").is_file()
    assert [p.name for p in (folder / "logs").iterdir()] == ["version_0"]


def test_the_last_checkpoint_is_of_the_last_epoch_also_where_it_is_not_the_best(tmp_path: Path) -> None:
    """At an absurd rate every epoch is worse than the one before."""
    folder = tmp_path / "run"
    worse = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.5", "--model.test_inner_steps=1"]
    main(["fit", "-c", SINUSOID, *QUICK, *worse, "--trainer.max_epochs=3", f"--trainer.default_root_dir={folder}"])
    saved = {p.stem: read_checkpoint(p)["global_step"] for p in (folder / "checkpoints").glob("*.ckpt")}
    assert saved["best"] < saved["last"] == 12


def test_a_resumed_run_ends_as_an_undisturbed_one(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    base = ["fit", "-c", SINUSOID, *QUICK, f"--trainer.default_root_dir={folder}"]
    main([*base, "--trainer.max_epochs=1"])
    main([*base, "--ckpt_path=last"])
    whole = MetaLearner.load_from_checkpoint(trained / "checkpoints" / "last.ckpt").state_dict()
    resumed = MetaLearner.load_from_checkpoint(folder / "checkpoints" / "last.ckpt").state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.outer_gradient=litmaml.outer.ThirdOrder"], "ThirdOrder"),
        (
            ["--model.outer_gradient=FiniteDifference", "--model.outer_gradient.radius=-1"],
            "radius: has to be a positive number or left out for the default, got -1",
        ),
        (["--model.inner_stepz=3"], "model.inner_stepz: there is no such option; did you mean model.inner_steps?"),
        (["--model.inner_steps=zero"], "model.inner_steps: expected int, got 'zero'"),
        (["--ckpt_path=nowhere.ckpt"], "ckpt_path: 'nowhere.ckpt' is neither a file"),
        (["--data.tasks=Glyphs", "--data.tasks.train.ways=500"], "train.ways: the split val has 106 classes, got 500"),
        (["-c", "missing.yaml"], "missing.yaml"),
    ],
    ids=lambda value: value[0][:40] if isinstance(value, list) else "",
)
def test_bad_input_ends_with_a_message(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"--trainer.default_root_dir={tmp_path / 'run'}"
    with pytest.raises((SystemExit, ValueError, FileNotFoundError)) as stopped:
        main(["fit", "-c", SINUSOID, *QUICK, folder, *arguments])
    assert stopped.value.args != (0,)
    assert message in " ".join((capsys.readouterr().err + str(stopped.value)).split())


def test_help_explains_options_from_the_docstrings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run("fit", "--help=all", cwd=tmp_path)
    text = " ".join(done.stdout.split())
    assert done.returncode == 0
    assert done.stdout.startswith("usage: litmaml ")  # also under python -m
    for part in ("Patterns of the parameters to adapt", "Tasks of one training epoch", "which is exact"):
        assert part in text
    with pytest.raises(SystemExit):
        main(["fit", "--model.outer_gradient.help=litmaml.outer.ZerothOrder"])
    assert "Q, the number of directions" in " ".join(capsys.readouterr().out.split())


def overlays() -> list[Path]:
    return sorted(p for folder in ("outer_gradient", "trainer", "logger") for p in (CONFIGS / folder).glob("*.yaml"))


@pytest.mark.parametrize(
    "overlay",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem == "ddp")) for p in overlays()],
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_every_overlay_runs(overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if overlay.stem in ("gpu",) and not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    monkeypatch.setenv("WANDB_MODE", "offline")
    quick = [q for q in QUICK if overlay.parent.name != "trainer" or "accelerator" not in q]
    arguments = [
        "fit",
        "-c",
        SINUSOID,
        "-c",
        str(overlay),
        *quick,
        f"--trainer.default_root_dir={tmp_path / 'r'}",
    ]
    arguments += ["--trainer.max_epochs=1"]
    if overlay.stem == "ddp":  # starts processes of its own
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    else:
        main(arguments)
    assert (tmp_path / "r" / "checkpoints" / "best.ckpt").is_file()


def images(folder: Path) -> Path:
    """Fifteen classes of seven noisy stripes."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label in range(15):
        (folder / f"class {label}").mkdir(parents=True)
        for k in range(7):
            noise = torch.randint(0, 120, (90, 84, 3), generator=generator)
            noise[:, label * 5 : label * 5 + 6] += 120
            Image.fromarray(noise.to(torch.uint8).numpy()).save(folder / f"class {label}" / f"{k}.png")
    return folder


LONG = {"mixture.yaml", *(path.name for path in CONFIGS.glob("omniglot_*.yaml"))}
COMPLETE = sorted(p.name for p in CONFIGS.glob("*.yaml") if p.name != "sweep.yaml")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in COMPLETE])
def test_every_complete_configuration_runs(name: str, tmp_path: Path, omniglot: Path | None) -> None:
    where: list[str] = []
    if name == "pretrained_body.yaml":
        pytest.importorskip("timm", reason="needs timm and a torchvision that fits torch")
        warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")  # which is meant
        warnings.filterwarnings("ignore", "batch_norm: frozen, and the running statistics")  # of random weights
        warnings.filterwarnings("ignore", ".*is deprecated", DeprecationWarning)  # timm's
    if name in ("image_folder.yaml", "pretrained_body.yaml"):
        where = [
            f"--data.tasks.init_args.root={images(tmp_path / 'images')}",
            "--data.tasks.init_args.test.ways=3",
        ]
        where += ["--data.tasks.init_args.train.queries=3", "--data.tasks.init_args.test.queries=3"]
    where += arguments(name, tmp_path)
    if name == "mixture.yaml":
        if omniglot is None:
            pytest.skip("LITMAML_DATA names no folder with omniglot in it")
        where = [f"--data.tasks.init_args.sources.handwritten.init_args.root={omniglot}"]
        where += ["--data.tasks.init_args.sources.handwritten.init_args.download=false"]
    if name.startswith("omniglot"):
        if omniglot is None:
            pytest.skip("LITMAML_DATA names no folder with omniglot in it")
        where = [f"--data.tasks.init_args.root={omniglot}", "--data.tasks.init_args.download=false"]
    folder = tmp_path / "run"
    main(
        [
            "fit",
            "-c",
            str(CONFIGS / name),
            *QUICK,
            *SMALL.get(name, []),
            *where,
            "--trainer.max_epochs=1",
            "--trainer.max_steps=2",
            f"--trainer.default_root_dir={folder}",
            "--data.meta_batch=2",
            "--data.train_tasks=4",
        ]
    )
    main(["test", f"--ckpt_path={folder}", "--trainer.accelerator=cpu", "--data.test_tasks=2"])
    assert results(folder)["protocol"]["tasks"] == 2
    if name == "pretrained_body.yaml":
        assert results(folder)["protocol"]["normalisation"] == "frozen statistics (inductive)"


def test_frozen_weights_have_neither_gradient_nor_optimizer_state(tmp_path: Path) -> None:
    """From YAML alone; only the head and its rates are trained."""
    frozen = tmp_path / "frozen.yaml"
    frozen.write_text("model: {frozen_weights: ['body.*'], fast_weights: ['head.*'], inner_optimizer.learn: one}")
    folder = tmp_path / "run"
    main(["fit", "-c", SINUSOID, "-c", str(frozen), *QUICK, f"--trainer.default_root_dir={folder}"])
    saved = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    (optimizer,) = saved["optimizer_states"]
    weights = saved["state_dict"]
    trained = {"inner_loop.model.head.weight", "inner_loop.model.head.bias", "inner_loop.learnt.rate"}
    assert {name for name in weights if "body" not in name} == trained
    assert sorted(state["exp_avg"].shape for state in optimizer["state"].values()) == sorted(
        weights[name].shape for name in trained
    )
    learner = MetaLearner.load_from_checkpoint(folder / "checkpoints" / "last.ckpt")
    body = {name: weight for name, weight in learner.inner_loop.named_parameters() if ".body." in name}
    assert body
    assert not any(weight.requires_grad for weight in body.values())
    gradients = learner.meta_gradient(Sinusoid().sample("train", range(2), 0)).gradients
    assert {"inner_loop." + name for name in gradients} == trained
