"""No run writes into another run's folder, however it is named."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from tiny import FIT, TINY, everything, fit, saved, slow, steps, sums

from litmaml.cli.main import main
from litmaml.runs.configuration import write_configuration, written_by_fit
from litmaml.runs.folder import put_back
from litmaml.runs.owner import OWNER, FolderInUse, claim


def test_a_run_from_an_earlier_runs_configuration_leaves_that_run_alone() -> None:
    fit("--trainer.max_epochs=3")
    before = everything("runs/tiny")
    second = ["--trainer.default_root_dir=runs/second", "--seed_everything=2", "--trainer.max_epochs=1"]
    main(["fit", "-c", "runs/tiny/config.yaml", *second])
    assert everything("runs/tiny") == before
    assert steps("runs/second") == {"best": 4, "last": 4}
    assert Path("runs/second/logs/version_0/metrics.csv").is_file()
    main(["test", "--ckpt_path=runs/second"])
    assert everything("runs/tiny") == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("--data.train_tasks=21", "train_tasks"),
        *slow(("--checkpoint.monitor=val_loss", "monitor"), ("--model.loss=torch.nn.CrossEntropyLoss", "targets")),
    ],
)
def test_a_run_that_does_not_come_to_its_first_step_leaves_the_earlier_one_where_it_is(
    wrong: str, message: str
) -> None:
    fit("--trainer.max_epochs=1")
    before = everything("runs")
    with pytest.raises(ValueError, match=message):
        fit(wrong)
    assert everything("runs") == before
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]
    fit("--trainer.max_epochs=1")
    assert sorted(path.name for path in Path("runs").iterdir()) == ["tiny", "tiny.1"]


@pytest.mark.parametrize("wrong", ["max_epochs", *slow("max_steps", "limit_train_batches")])
def test_a_run_that_would_train_nothing_takes_no_place(wrong: str) -> None:
    fit("--trainer.max_epochs=1")
    before = everything("runs")
    for resumed in ([], ["--ckpt_path=last"]):
        with pytest.raises(ValueError, match=rf"trainer\.{wrong}: nothing would be trained, got 0"):
            fit(f"--trainer.{wrong}=0", *resumed)
    assert everything("runs") == before
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]


def test_a_run_that_ends_before_its_first_step_makes_room_again() -> None:
    fit("--trainer.max_epochs=1")
    before = everything("runs")
    fit("--trainer.max_time=00:00:00:00")
    assert everything("runs") == before
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]


def test_a_run_that_goes_on_within_an_earlier_one_is_not_moved() -> None:
    fit("--trainer.max_epochs=1")
    before = everything("runs")
    inner = claim(Path("runs/tiny/sub/b"))
    inside = rf"'.*/runs/tiny/sub/b' in it is in use by another run \(process {os.getpid()} on .*, since 20"
    with pytest.raises(FolderInUse, match=rf"trainer\.default_root_dir: 'runs/tiny' .* cannot be moved, as {inside}"):
        fit()
    assert everything("runs") == before
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]
    dead = (inner.folder / OWNER).read_text()
    inner.release()
    (inner.folder / OWNER).write_text(dead.replace(f'"pid": {os.getpid()}', '"pid": 1'))
    fit("--trainer.max_epochs=1")  # one that was killed moves along
    assert Path("runs/tiny.1/sub/b", OWNER).is_file()


def test_the_configuration_tells_the_versions(tmp_path: Path) -> None:
    write_configuration(tmp_path, {"seed_everything": 0})
    file = tmp_path / "config.yaml"
    assert f"torch {torch.__version__}," in file.read_text().splitlines()[1]
    assert yaml.safe_load(file.read_text()) == {"seed_everything": 0}
    assert written_by_fit(file)
    file.write_text(file.read_text().replace("torch ", "torch 9."))
    assert not written_by_fit(file)


def test_a_configuration_that_no_fit_wrote_is_not_written_over() -> None:
    own = TINY.replace("max_epochs: 2", "max_epochs: 1  # enough")
    Path("exp").mkdir()
    Path("exp/config.yaml").write_text(own)
    message = r"trainer\.default_root_dir: 'exp/config\.yaml' is your own or an adapted model's.*name another folder"
    with pytest.raises(ValueError, match=message):
        main(["fit", "-c", "exp/config.yaml", "--trainer.default_root_dir=exp"])
    assert everything("exp") == {"config.yaml": own.encode()}
    main(["fit", "-c", "exp/config.yaml"])
    # A run that was killed before its first checkpoint begins again in its folder, and what it wrote is no user's.
    shutil.rmtree("runs/tiny/checkpoints")
    fit("--trainer.max_epochs=1", "--ckpt_path=last")
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]
    edited = Path("runs/tiny/config.yaml").read_text().replace("max_epochs: 1", "max_epochs: 2  # more")
    Path("runs/tiny/config.yaml").write_text(edited)
    main(["fit", "-c", "runs/tiny/config.yaml", "--ckpt_path=last"])
    assert steps("runs/tiny")["last"] == 8
    assert Path("runs/tiny/config.1.yaml").read_text() == edited
    assert yaml.safe_load(Path("runs/tiny/config.yaml").read_text())["trainer"]["max_epochs"] == 2


def test_a_failed_run_in_a_linked_folder_leaves_link_and_run() -> None:
    Path("scratch/tiny").mkdir(parents=True)
    Path("runs").mkdir()
    Path("runs/tiny").symlink_to("../scratch/tiny")
    fit("--trainer.max_epochs=1")
    before = everything("scratch")
    with pytest.raises(ValueError, match="train_tasks"):
        fit("--data.train_tasks=21")
    assert everything("scratch") == before
    assert Path("runs/tiny").is_symlink()
    assert [path.name for path in Path("scratch").iterdir()] == ["tiny"]


@pytest.mark.parametrize("wrong", ["--model.inner_optimizer.lr=1e30", "--data.train_tasks=21"])
def test_a_run_that_goes_on_elsewhere_and_fails_makes_room_again(wrong: str) -> None:
    """It begins at another step than 0, and makes none of its own."""
    fit("--trainer.max_epochs=1")
    fit("--trainer.max_epochs=1", "--trainer.default_root_dir=runs/b")
    before = everything("runs")
    with pytest.raises((ValueError, FloatingPointError)):
        fit("--ckpt_path=runs/tiny", "--trainer.default_root_dir=runs/b", wrong)
    assert everything("runs") == before


def test_only_a_run_that_has_done_nothing_makes_room_again(tmp_path: Path) -> None:
    earlier, new = tmp_path / "run.1", tmp_path / "run"
    for kept in ("checkpoints/best.ckpt", "other/.owner"):
        earlier.mkdir()
        (new / kept).parent.mkdir(parents=True)
        (new / kept).touch()
        assert not put_back(earlier, new)
        assert (new / kept).exists()
        (new / kept).unlink()
        assert put_back(earlier, new)
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "run"))] == ["run"]
        assert not list(new.iterdir())
        new.rmdir()


@pytest.mark.slow
def test_the_configuration_holds_no_place_and_no_beginning() -> None:
    fit("--trainer.max_epochs=1")
    fit("--trainer.default_root_dir=runs/b", "--init_weights=runs/tiny", "--trainer.max_epochs=1")
    main(["fit", "--ckpt_path=runs/b", "--trainer.max_epochs=2"])
    text = Path("runs/b/config.yaml").read_text()
    config = yaml.safe_load(text)
    assert not {"ckpt_path", "init_weights", "weights_only"} & {*config}
    assert "dirpath" not in text
    assert "save_dir" not in text
    assert config["trainer"]["max_epochs"] == 2
    assert config["seed_everything"] == 0


def test_a_renamed_run_goes_on_where_it_lies() -> None:
    fit("--trainer.max_epochs=1")
    Path("runs/tiny").rename("runs/seed1")
    fit()
    before = everything("runs/tiny")
    fit("--ckpt_path=runs/seed1", "--trainer.max_epochs=3")
    assert everything("runs/tiny") == before
    assert steps("runs/seed1")["last"] == 12
    main(["test", "-c", "tiny.yaml", "--ckpt_path=runs/seed1"])
    assert everything("runs/tiny") == before
    assert Path("runs/seed1/test_results.json").is_file()


@pytest.mark.slow
def test_a_folder_that_is_typed_takes_a_copy_of_the_run_further() -> None:
    fit("--trainer.max_epochs=1")
    fit("--trainer.default_root_dir=runs/other", "--trainer.max_epochs=1")
    first, other = everything("runs/tiny"), sums("runs/other")
    fit("--ckpt_path=runs/tiny", "--trainer.default_root_dir=runs/other")
    assert everything("runs/tiny") == first
    assert sums("runs/other.1") == other
    assert steps("runs/other")["last"] == 8


@pytest.mark.parametrize("typed", ["~/runs/x", *slow("$HOME/runs/x", "${HOME}/./runs//x/")])
def test_home_is_home(typed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = f"--trainer.default_root_dir={typed}"
    fit(root, "--trainer.max_epochs=1")
    fit(root, "--ckpt_path=last")
    assert [path.name for path in (tmp_path / "home" / "runs").iterdir()] == ["x"]
    assert steps("home/runs/x")["last"] == 8
    main(["test", "-c", "tiny.yaml", root, "--ckpt_path=best"])
    main(["test", f"--ckpt_path={typed}"])
    assert not Path("~").exists()


@pytest.mark.slow
def test_the_last_that_is_typed_counts_in_whatever_order() -> None:
    fit("--trainer.max_epochs=1")
    Path("place.yaml").write_text("trainer: {default_root_dir: runs/b}")
    main(["fit", "--trainer.default_root_dir=runs/a", "-c", "tiny.yaml", "--config=place.yaml"])
    assert steps("runs/b")["last"] == 8
    assert not Path("runs/a").exists()
    # The option before the files: they win, also for the name "last".
    again = ["--trainer.default_root_dir", "runs/a", "-c", "tiny.yaml", "-c", "place.yaml"]
    main(["fit", *again, "--ckpt_path", "last", "--trainer.max_epochs=3"])
    assert steps("runs/b")["last"] == 12
    assert not Path("runs/a").exists()


@pytest.mark.parametrize(
    "how",
    [
        ["-ctiny.yaml"],
        *slow(
            ["-c=tiny.yaml"], ["-c", "dotted.yaml"], ["--config", "{trainer: {default_root_dir: runs/tiny}}", *FIT[1:]]
        ),
        *slow(["-c", "tiny.yaml", "--trainer", "{default_root_dir: runs/tiny, accelerator: cpu}"]),
    ],
    ids=lambda how: " ".join(how)[:30],
)
def test_a_run_is_resumed_however_its_folder_is_named(how: list[str]) -> None:
    fit("--trainer.max_epochs=1")
    dotted = yaml.safe_load(TINY)
    dotted |= {f"trainer.{name}": value for name, value in dotted.pop("trainer").items()}
    Path("dotted.yaml").write_text(yaml.safe_dump(dotted))
    main(["fit", *how, "--ckpt_path=last", "--trainer.max_epochs=2"])
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]
    assert steps("runs/tiny")["last"] == 8


@pytest.mark.slow
def test_where_the_folder_is_a_link_the_new_run_lies_where_it_points() -> None:
    Path("scratch/tiny").mkdir(parents=True)
    Path("runs").mkdir()
    Path("runs/tiny").symlink_to("../scratch/tiny")
    for _ in range(3):
        fit("--trainer.max_epochs=1")
    assert Path("runs/tiny").is_symlink()
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]
    assert sorted(path.name for path in Path("scratch").iterdir()) == ["tiny", "tiny.1", "tiny.2"]
    fit("--ckpt_path=last")
    assert steps("scratch/tiny")["last"] == 8


@pytest.mark.slow
def test_a_run_is_known_through_a_link() -> None:
    fit("--trainer.max_epochs=1")
    Path("newest").symlink_to("runs/tiny")
    fit("--ckpt_path=newest")
    assert steps("runs/tiny")["last"] == 8
    assert Path("newest").is_symlink()
    fit("--trainer.default_root_dir=newest", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert steps("runs/tiny")["last"] == 12
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]


def test_a_checkpoint_is_known_by_a_link_and_by_its_folder() -> None:
    fit("--trainer.max_epochs=1")
    Path("here.ckpt").symlink_to("runs/tiny/checkpoints/last.ckpt")
    fit("--ckpt_path=here.ckpt")
    assert steps("runs/tiny")["last"] == 8
    fit("--ckpt_path=runs/tiny/checkpoints", "--trainer.max_epochs=3")
    assert steps("runs/tiny")["last"] == 12
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]


@pytest.mark.parametrize("where", ["tiny.yaml", "tiny.yaml/below", "/proc/run"])
def test_a_folder_that_cannot_be_written_is_named(where: str) -> None:
    with pytest.raises(OSError, match=r"trainer\.default_root_dir: cannot write to '.*': "):
        fit(f"--trainer.default_root_dir={where}")


@pytest.mark.slow
def test_the_checkpoint_may_be_named_in_a_configuration_file() -> None:
    fit("--trainer.max_epochs=1")
    Path("resume.yaml").write_text("ckpt_path: last")
    fit("-c", "resume.yaml")
    assert steps("runs/tiny")["last"] == 8
    assert [path.name for path in Path("runs").iterdir()] == ["tiny"]
    shutil.rmtree("runs")
    fit("-c", "resume.yaml", "--trainer.max_epochs=1")  # not there yet: from the beginning
    assert steps("runs/tiny")["last"] == 4


@pytest.mark.slow
def test_a_checkpoint_outside_of_a_run_resumes_in_the_folder_that_is_named() -> None:
    fit("--trainer.max_epochs=1")
    before = everything("runs/tiny")
    shutil.copy("runs/tiny/checkpoints/last.ckpt", "given.ckpt")
    fit("--ckpt_path=given.ckpt", "--trainer.default_root_dir=runs/b")
    assert steps("runs/b")["last"] == 8
    assert everything("runs/tiny") == before


def test_a_bucket_is_refused() -> None:
    for key in ("--trainer.default_root_dir=s3://bucket/run", "--trainer.default_root_dir=gs://b"):
        with pytest.raises(ValueError, match=r"trainer\.default_root_dir: has to be a folder, got '(s3|gs)://"):
            fit(key)
    assert not list(Path().glob("*:"))


def test_a_folder_alone_resumes_the_run_with_its_trainer_and_callbacks() -> None:
    Path("more.yaml").write_text(
        "trainer:\n  precision: 64-true\n  accumulate_grad_batches: 2\n  gradient_clip_val: 0.5\n"
        "  callbacks: [{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val/loss}}]\n"
        "preemption: {save_every_minutes: 3}\ncheckpoint: {save_top_k: 2}\nseed_everything: 7\n"
    )
    fit("-c", "more.yaml", "--trainer.max_epochs=1")
    before = yaml.safe_load(Path("runs/tiny/config.yaml").read_text())
    Path("runs/tiny").rename("moved")
    main(["fit", "--ckpt_path=moved", "--trainer.max_epochs=2"])
    after = yaml.safe_load(Path("moved/config.yaml").read_text())
    assert after["trainer"].pop("max_epochs") == 2
    assert before["trainer"].pop("max_epochs") == 1
    assert after["trainer"].pop("default_root_dir") == "moved"
    before["trainer"].pop("default_root_dir")
    assert after == before
    assert not Path("runs/tiny").exists()
    assert saved("moved")["global_step"] == 4


CALLBACKS = "lightning.pytorch.callbacks"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ModelCheckpoint", {"every_n_train_steps": 3, "filename": "{epoch}-{val/loss:.2f}", "monitor": "val/loss"}),
        ("EMAWeightAveraging", {"decay": 0.9}),
        *slow(("WeightAveraging", {}), ("ModelSummary", {"max_depth": 2}), ("LearningRateMonitor", {})),
        *slow(("Timer", {"duration": "00:01:00:00"})),
        *slow(("GradientAccumulationScheduler", {"scheduling": {0: 2}})),
    ],
)
def test_lightnings_own_callbacks_come_back(name: str, arguments: dict[str, object]) -> None:
    recipe = [{"class_path": f"{CALLBACKS}.{name}", "init_args": arguments}]
    Path("more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": recipe}}))
    fit("-c", "more.yaml", "--trainer.max_epochs=4", "--trainer.default_root_dir=straight")
    fit("-c", "more.yaml")
    main(["fit", "--ckpt_path=runs/tiny", "--trainer.max_epochs=4"])
    resumed, straight = saved("runs/tiny"), saved("straight")
    assert resumed["configuration"]["trainer"]["callbacks"] == straight["configuration"]["trainer"]["callbacks"]
    assert resumed["global_step"] == straight["global_step"]
    for part in {"state_dict", "current_model_state"} & straight.keys():
        assert all(torch.equal(weight, straight[part][key]) for key, weight in resumed[part].items())


@pytest.mark.slow
def test_own_classes_of_a_recorded_run_have_to_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("more.yaml").write_text("trainer: {callbacks: [{class_path: counting.Counting}]}")
    fit("-c", "more.yaml", "--trainer.max_epochs=1")
    monkeypatch.delitem(sys.modules, "counting")
    message = r"checkpoint\.trainer\.callbacks\[0\]: 'counting\.Counting' is not loaded.*--imports counting.* -c RUN"
    with pytest.raises(ValueError, match=message):
        main(["fit", "--ckpt_path=runs/tiny", "--trainer.max_epochs=2"])
    assert "counting" not in sys.modules
    main(["fit", "--ckpt_path=runs/tiny", "--imports=counting", "--trainer.max_epochs=2"])
    assert steps("runs/tiny")["last"] == 8
    main(["fit", "-c", "runs/tiny/config.yaml", "--ckpt_path=runs/tiny", "--trainer.max_epochs=3"])
    assert steps("runs/tiny")["last"] == 12
    main(["fit", "--ckpt_path=runs/tiny", "--trainer.callbacks=null", "--trainer.max_epochs=4"])
    assert steps("runs/tiny")["last"] == 16


@pytest.mark.parametrize("command", ["test", *slow("validate", "predict")])
def test_an_evaluation_needs_a_checkpoint_or_none(command: str) -> None:
    fit("--trainer.max_epochs=1")
    before = everything("runs/tiny")
    with pytest.raises(ValueError, match=f"ckpt_path: {command} needs one"):
        main([command, "-c", "tiny.yaml"])
    assert everything("runs/tiny") == before
    main([command, "-c", "tiny.yaml", "--trainer.default_root_dir=fresh", "--ckpt_path", "none"])


@pytest.mark.parametrize("command", ["test", *slow("predict")])
def test_results_of_another_checkpoint_do_not_take_the_place_of_a_runs_own(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fit("--trainer.max_epochs=1")
    Path("runs/tiny").rename("runs/a")
    fit("--trainer.max_epochs=1")
    main([command, "--ckpt_path=runs/tiny"])
    before = everything("runs/tiny")
    for other, named in (("none", "no checkpoint"), ("runs/a", "runs/a/checkpoints/best.ckpt")):
        message = rf"trainer\.default_root_dir: 'runs/tiny' holds a run, .* by those of {named}; name another folder"
        with pytest.raises(ValueError, match=message):
            main([command, "-c", "tiny.yaml", "--trainer.default_root_dir=runs/tiny", f"--ckpt_path={other}"])
        assert everything("runs/tiny") == before
        main([command, "-c", "tiny.yaml", f"--trainer.default_root_dir=beside/{other}", f"--ckpt_path={other}"])
    assert "in place of" not in capsys.readouterr().out
    main([command, "--ckpt_path=runs/tiny/checkpoints/last.ckpt"])
    if command == "test":
        assert "in place of those of runs/tiny/checkpoints/best.ckpt" in capsys.readouterr().out
    else:
        with safe_open("runs/tiny/predictions.safetensors", "pt") as file:
            assert file.metadata() == {"checkpoint": "runs/tiny/checkpoints/last.ckpt"}


@pytest.mark.slow
def test_data_named_from_another_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    for k in range(15):
        for n in range(3):
            Path(f"imgs/class{k}").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), (17 * k, 10 * n, 5)).save(f"imgs/class{k}/{n}.png")
    Path("images.yaml").write_text(
        "model: {model: {class_path: litmaml.models.Conv4, init_args: {ways: 2, filters: 2, channels: 3, size: 16}}}\n"
        "data:\n  tasks:\n    class_path: litmaml.data.ImageFolderTasks\n"
        "    init_args: {root: imgs, train: {ways: 2, shots: 1, queries: 1}, image_format: {size: 16}}\n"
        "  meta_batch: 1\n  train_tasks: 2\n  val_tasks: 1\n  test_tasks: 1\n"
        "trainer: {default_root_dir: runs/imgs, max_epochs: 1, accelerator: cpu, log_every_n_steps: 1}\n"
    )
    main(["fit", "-c", "images.yaml"])
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    main(["test", "--ckpt_path=../runs/imgs", "--trainer.accelerator=cpu"])
    assert Path("../runs/imgs/test_results.json").is_file()
    assert not list(Path().iterdir())


CSV, WANDB = "lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.loggers.WandbLogger"

HOSTILE = [
    ("callbacks", [{"class_path": "subprocess.Popen", "init_args": {"args": "touch ran"}}]),
    ("callbacks", ["counting.Counting"]),
    ("callbacks", "counting.Counting"),
    ("callbacks", ["OnExceptionCheckpoint"]),
    ("logger", ["MLFlowLogger"]),
    ("logger", "evil.yaml"),
    (
        "logger",
        [{"class_path": CSV, "init_args": {"save_dir": "..", "name": "a"}}],
    ),
    (
        "logger",
        {"class_path": CSV, "init_args": {"save_dir": "", "name": "/tmp/x"}},
    ),
    ("plugins", [{"class_path": "os.system"}]),
    ("strategy", "own.Strategy"),
    ("profiler", {"class_path": "lightning.pytorch.profilers.SimpleProfiler", "init_args": {"dirpath": "/"}}),
    ("profiler", "../evil"),
    ("devices", 4096),
    ("devices", "4096"),
    ("max_time", "${HOME}"),
    ("logger", {"class_path": WANDB, "init_args": {"settings": {"base_url": "http://3232235777"}}}),
    ("logger", {"class_path": WANDB, "init_args": {"experiment": {"class_path": "wandb.sdk.wandb_run.Run"}}}),
    ("callbacks", [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": "/tmp"}}]),
    (
        "callbacks",
        [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"filename": "{epoch:09999999999}"},
            }
        ],
    ),
    (
        "callbacks",
        [{"class_path": "lightning.pytorch.callbacks.WeightAveraging", "init_args": {"avg_fn": "os.system"}}],
    ),
    ("callbacks", [{"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"setup": "os.system"}}]),
]


def test_a_checkpoint_of_somebody_else_makes_nothing_of_a_run() -> None:
    fit("--trainer.max_epochs=1")
    honest = saved("runs/tiny")
    for key, value in HOSTILE:
        trainer = honest["configuration"]["trainer"] | {key: value}
        configuration = honest["configuration"] | {"trainer": trainer}
        torch.save(honest | {"configuration": configuration}, "hostile.ckpt")
        before = everything(".")
        with pytest.raises(ValueError, match=rf"^checkpoint\.trainer.*{key}|^You selected an invalid strategy name"):
            main(["fit", "--ckpt_path=hostile.ckpt", "--trainer.max_epochs=2"])
        assert everything(".") == before
