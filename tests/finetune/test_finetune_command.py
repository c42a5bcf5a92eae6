"""``litmaml finetune`` and ``litmaml classify`` as they are typed."""

from __future__ import annotations

import csv
import importlib
import json
import os
import pickle
import re
import shutil
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml
from gratings import draw
from torch import Tensor, nn

import litmaml
from litmaml.cli.classify import classify
from litmaml.cli.finetune import finetune
from litmaml.cli.main import main
from litmaml.data import ImageFormat, Sinusoid
from litmaml.finetuning.fine_tuning import FineTuned, fine_tune
from litmaml.finetuning.labelled_images import read_support
from litmaml.finetuning.meta_checkpoint import MetaCheckpoint, open_checkpoint
from litmaml.finetuning.report import _Share
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import Conv4
from litmaml.runs.checkpoint_names import locate
from litmaml.statistics.confusion import Confusion

FILES = {
    "adaptation.png",
    "classes.json",
    "config.yaml",
    "confusion.png",
    "model.safetensors",
    "predictions.csv",
    "report.md",
}


def of_images(checkpoint: str, data: str, output: str, **options: Any) -> FineTuned:
    found = finetune(checkpoint, data, output, **options)
    assert isinstance(found, FineTuned)
    return found


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def refusal(checkpoint: str | Path, data: Path, output: Path) -> str:
    """What ``litmaml finetune`` ends with: what is printed to standard error, with exit status 1."""
    with pytest.raises(SystemExit) as stopped:
        main(["finetune", "--checkpoint", str(checkpoint), "--data", str(data), "--output", str(output)])
    assert isinstance(stopped.value.code, str)
    assert stopped.value.code.startswith("litmaml finetune: ")
    return stopped.value.code


@pytest.mark.parametrize(("command", "end"), [("finetune", "photos/wren/1.jpg, ..."), ("classify", "default: False)")])
def test_help_ends_with_an_example_where_there_is_one(
    command: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"usage: litmaml {command} ")
    assert shown.endswith(end)
    assert "known subclasses: torch.nn.Module" not in shown  # hundreds


def test_with_a_labelled_query(run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four classes from a checkpoint of three: scored, exported, and used again."""
    out = tmp_path / "new" / "out"
    asked = ["--checkpoint", str(run), "--data", str(images / "data"), "--query", str(images / "query")]
    main(["finetune", *asked, "--output", str(out), "--export", "pt2", "--export", "onnx"])
    assert {file.name for file in out.iterdir()} == {*FILES, "model.pt2", "model.onnx"}
    found = rows(out / "predictions.csv")
    right = sum(row["class"] == row["label"] for row in found)
    assert (len(found), right >= 12) == (16, True)
    assert all(Path(row["file"]).parent.name == row["label"] for row in found)
    report = (out / "report.md").read_text(encoding="utf-8")
    assert f"## Accuracy: {right / 16:.1%} ({right} of 16; 95% interval" in report
    assert "`head` replaced by one that starts at zero: 4 classes, 3 in meta-training" in report
    assert "by the query's own statistics (transductive" in report
    assert "| ворона | 3 | 4 |" in report
    assert 'a\\|b, "c" \\$x\\$' in report
    shown = capsys.readouterr()
    assert "3 to 30 inner steps on 12 images of 4 classes\nabout " in shown.err
    assert re.search(r"^inner steps (\d+)/\1 in \d+ s  loss 0\.\d+  accuracy", shown.err, re.MULTILINE)
    assert "16 query images" in shown.out

    flat = tmp_path / "flat.csv"
    main(["classify", "--model", str(out), "--images", str(images / "flat"), "--output", str(flat)])
    again = rows(flat)
    assert sorted((r["class"], r["probability"][:5]) for r in again) == sorted(
        (r["class"], r["probability"][:5]) for r in found
    )

    model = litmaml.load(out)
    inputs = model.preprocess(*(row["file"] for row in found))
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == model.classes
    assert json.loads(told["preprocessing"]) == asdict(model.image_format or ImageFormat(1))
    by_onnx = torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])
    extra = {"litmaml.json": ""}
    by_program = torch.export.load(out / "model.pt2", extra_files=extra).module()(inputs)
    assert json.loads(extra["litmaml.json"]) == told
    torch.testing.assert_close(by_onnx, model(inputs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_program, model(inputs), rtol=1e-5, atol=1e-5)
    labels = [(model.classes or [])[int(k)] for k in model(inputs).argmax(1)]
    assert labels == [row["class"] for row in found]


def test_answers_are_not_written_over_unasked(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune(str(run), str(images / "data"), str(tmp_path / "out"), str(images / "flat"), steps=1)
    photos, answers = tmp_path / "photos", tmp_path / "answers.csv"
    shutil.copytree(images / "flat", photos)
    (photos / "broken.jpg").write_text("no image")
    answers.write_text("mine")
    asked = ["classify", "--model", str(tmp_path / "out"), "--images", str(photos), "--output", str(answers)]
    with pytest.raises(SystemExit, match=r"output: '.*answers\.csv' exists already; .*--replace=true"):
        main(asked)
    assert answers.read_text() == "mine"
    with pytest.raises(SystemExit, match=r"cannot read the image .*broken\.jpg"):
        main([*asked, "--replace=true", "--unreadable=refuse"])
    with pytest.warns(UserWarning, match=r"(?s)images: 1 of 17 images cannot be read and are left out.*broken\.jpg"):
        main([*asked, "--replace=true"])
    assert len(rows(answers)) == 16
    assert "16 images classified" in capsys.readouterr().out


def test_without_a_query_images_are_left_out(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = of_images(str(run / "last"), str(images / "data"), str(tmp_path / "out"), steps=30)
    said = capsys.readouterr().err
    assert "30 inner steps on 12 images of 4 classes, then 12 rounds without some of them, to score the model" in said
    assert re.search(r"^about \d+ s$", said, re.MULTILINE)
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES
    assert result.score is not None
    assert result.score.total == 12
    assert result.score.right >= 8
    assert len(result.curve) == 31
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "12 of 12 support images, left out in 12 parts" in report
    assert "Too few examples to tell closely" in report
    held_out = [row["class"] == row["label"] for row in rows(tmp_path / "out" / "predictions.csv")]
    assert sum(held_out) == result.score.right


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta"])
def test_a_device_that_is_not_there(device: str, tmp_path: Path) -> None:
    """Said before the checkpoint is looked for."""
    asked = ["--checkpoint", "none", "--data", "none", "--output", str(tmp_path / "out"), "--device", device]
    with pytest.raises(SystemExit, match=rf"^litmaml finetune: device: torch .*, got '{device}'; use cpu, or one of"):
        main(["finetune", *asked])


def test_an_unlabelled_query_is_predicted(run: Path, images: Path, tmp_path: Path) -> None:
    torch.backends.cudnn.allow_tf32 = True  # as torch has it
    result = of_images(str(run), str(images / "data"), str(tmp_path / "out"), query=str(images / "flat"), steps=3)
    assert not torch.backends.cudnn.allow_tf32
    found = rows(tmp_path / "out" / "predictions.csv")
    assert len(found) == 16
    assert list(found[0]) == ["file", "class", "probability"]
    assert result.score is not None
    assert result.score.total == 12
    assert len(classify(str(tmp_path / "out"), str(images / "query"), str(tmp_path / "p.csv"))) == 16


@pytest.mark.filterwarnings("ignore:checkpoints will not rebuild model")
def test_a_model_of_places_becomes_no_classifier(tmp_path: Path) -> None:
    learner = MetaLearner(nn.Conv2d(1, 2, 1))
    images = read_support(str(draw(tmp_path / "data", ["a", "b"], each=2)), ImageFormat(8))[0]
    with pytest.raises(ValueError, match=r"logits of each place, \(\d+, 2, 8, 8\), .* in Python by litmaml\.adapt"):
        fine_tune(MetaCheckpoint("given", learner), ["a", "b"], ImageFormat(8), images)


def test_with_one_image_a_class_it_says_that_none_can_be_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw(tmp_path / "data", ["a", "b", "c"], each=1)
    result = of_images(str(run), str(data), str(tmp_path / "out"))
    assert result.score is None
    said = "The support set is too small to tell how good the model is: with one image only of a, b, c none"
    assert said in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert said in " ".join(capsys.readouterr().out.split())
    assert {file.name for file in (tmp_path / "out").iterdir()} == FILES - {"confusion.png"}


class Touch:
    """A pickle that runs a command where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_a_malicious_checkpoint_runs_no_code(run: Path, images: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Touch(mark)))
    torch.save({"state_dict": {}, "hyper_parameters": Touch(mark)}, tmp_path / "torch.ckpt")
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    recipe = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(mark)]}}
    model = {"class_path": "litmaml.models.Conv4", "init_args": {"ways": recipe}}
    torch.save({**saved, "hyper_parameters": {**saved["hyper_parameters"], "model": model}}, tmp_path / "recipe.ckpt")
    tasks = {"class_path": "litmaml.data.Glyphs", "init_args": {"cache_dir": recipe}}
    torch.save({**saved, "datamodule_hyper_parameters": {"tasks": tasks}}, tmp_path / "tasks.ckpt")
    for name, message in (
        (
            "plain",
            "holds more than tensors and plain data, or is damaged; it was not loaded, since that could run code",
        ),
        ("torch", "holds more than tensors and plain data"),
        ("recipe", "checkpoint.model.ways: is no object, got the recipe of 'subprocess.Popen'"),
        ("tasks", "does not say what its images were made to"),
    ):
        assert message in refusal(tmp_path / f"{name}.ckpt", images / "data", tmp_path / "out")
        assert not mark.exists()
        assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_none_is_told(run: Path, sinusoid_run: Path, images: Path, tmp_path: Path) -> None:
    whole = (run / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    (tmp_path / "folder").mkdir()
    for named, message in (
        (tmp_path / "cut.ckpt", "is damaged or no checkpoint"),
        (tmp_path / "empty.ckpt", "is damaged or no checkpoint"),
        (tmp_path / "other.ckpt", "was not written by litmaml fit"),
        (tmp_path / "nowhere.ckpt", "nowhere.ckpt' is neither a file nor a run's folder; give a file, RUN"),
        (tmp_path / "folder", "checkpoints/best.ckpt; there is no checkpoint at all"),
        (
            "wandb://me/project",
            "write wandb://ENTITY/PROJECT/NAME:ALIAS, for example wandb://me/omniglot/model-RUNID:best",
        ),
        (sinusoid_run, "does not say what its images were made to"),
    ):
        assert message in refusal(named, images / "data", tmp_path / "out"), named


def test_an_artifact_out_of_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wandb's own
        with pytest.raises(ConnectionError, match=r"cannot fetch 'wandb://a/b/c:best' .* wandb login, or download"):
            locate("wandb://a/b/c:best")


@pytest.mark.parametrize("output", ["/proc/out", "/proc/below/out"])
def test_an_output_that_cannot_be_written_is_told_before_anything_is_read(output: str) -> None:
    with pytest.raises(OSError, match=r"output: cannot write to '/proc.*': .*; name another"):
        finetune("no checkpoint", "no data", output)
    with pytest.raises(OSError, match=r"output: cannot write to '/proc.*': .*; name another"):
        classify("no model", "no images", output)


def test_an_output_folder_with_something_in_it_is_left_alone(run: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    finetune(str(run), str(images / "data"), str(tmp_path / "out"), steps=1, query=str(images / "query"))
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    said = refusal(run, images / "data", tmp_path / "out")
    assert "output: " in said
    assert "exists already and is no empty folder; name a new one" in said
    assert before == {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_image_format_can_be_given(run: Path, images: Path, tmp_path: Path) -> None:
    """Also where the checkpoint names none; and a wrong one is told."""
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    del saved["datamodule_hyper_parameters"]
    torch.save(saved, tmp_path / "bare.ckpt")
    arguments = ["--checkpoint", str(tmp_path / "bare.ckpt"), "--data", str(images / "data"), "--steps=1"]
    main(
        [
            "finetune",
            *arguments,
            "--output",
            str(tmp_path / "out"),
            "--image_format.size=28",
            "--image_format.invert=true",
        ]
    )
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["image_format"] == {
        "size": 28,
        "channels": 1,
        "invert": True,
        "mean": 0.0,
        "std": 1.0,
        "white": None,
        "fit": "squeeze",
    }
    with pytest.raises(SystemExit, match=r"inputs: the model does not take examples of shape \(3, 84, 84\)"):
        main(["finetune", *arguments, "--output", str(tmp_path / "no"), "--image_format={size: 84, channels: 3}"])


def test_the_recorded_format_is_found_in_each_way_it_is_recorded(run: Path) -> None:
    found = open_checkpoint(run)
    wanted = found.image_format
    assert wanted is not None
    tasks = {"class_path": "litmaml.data.ImageFolderTasks", "init_args": {"root": "x", "image_format": {"size": 20}}}
    typed = found._replace(tasks=tasks).image_format
    assert typed is not None
    assert typed.size == 20
    by_default = found._replace(tasks={"class_path": "litmaml.data.Omniglot", "init_args": {}}).image_format
    assert by_default is not None
    assert by_default.invert
    assert found._replace(tasks={"class_path": f"{Sinusoid.__module__}.Sinusoid", "init_args": {}}).image_format is None
    assert found._replace(tasks=None).image_format is None


def test_a_model_of_the_users_own(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module is named by --imports."""
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, ways):\n"
        "        super().__init__()\n"
        "        self.ways = ways\n"
        "        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, ways))\n"
        "    def forward(self, x):\n"
        "        return self.layers(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    learner = MetaLearner(importlib.import_module("my_nets").Net(3))
    content = {"state_dict": learner.state_dict(), "hyper_parameters": dict(learner.hparams)}
    torch.save(content, tmp_path / "own.ckpt")
    monkeypatch.delitem(sys.modules, "my_nets")
    said = refusal(tmp_path / "own.ckpt", images / "data", tmp_path / "out")
    assert "checkpoint.model: 'my_nets.Net' is not loaded, and nothing is imported for a file; type --imports" in said
    asked = ["--checkpoint", str(tmp_path / "own.ckpt"), "--data", str(images / "data"), "--image_format.size=8"]
    main(["finetune", *asked, "--output", str(tmp_path / "out"), "--imports=[my_nets]", "--steps=3"])
    assert "`layers.1` replaced by one that starts at zero" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow
def test_ten_thousand_images(run: Path, images: Path, tmp_path: Path) -> None:
    for folder in (images / "data").iterdir():
        (tmp_path / "data" / folder.name).mkdir(parents=True)
        for k, file in enumerate(sorted(folder.iterdir()) * 834):
            os.link(file, tmp_path / "data" / folder.name / f"{k}.png")
    result = of_images(str(run), str(tmp_path / "data"), str(tmp_path / "out"), steps=3)
    assert sum(result.support) == 10008
    assert result.score is not None
    assert result.score.total == 2002


def test_a_dimension_of_the_batch_alone_is_no_head() -> None:
    """A model without a head to replace says what to do."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = MetaLearner(Scaled())
    with pytest.raises(ValueError, match=r"the last layer is the model itself \(Scaled\).*keep to 3 classes"):
        litmaml.adapt(learner, torch.randn(8, 3), torch.arange(8) % 4)
    assert litmaml.adapt(learner, torch.randn(9, 3), torch.arange(9) % 3)(torch.randn(2, 3)).shape == (2, 3)


def test_a_checkpoint_of_values_becomes_no_classifier(images: Path, tmp_path: Path) -> None:
    support, names = read_support(str(images / "data"), ImageFormat(28))
    start = MetaCheckpoint("mine", MetaLearner(Conv4(ways=4, filters=4), loss=nn.MSELoss()))
    with pytest.raises(ValueError, match=r"checkpoint: it was trained on values \(MSELoss\).*by litmaml\.adapt"):
        fine_tune(start, names, ImageFormat(28), support)


def test_the_pictured_interval_of_an_accuracy_lies_within_0_and_1() -> None:
    score = Confusion(["a", "b"], torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1]))
    share = _Share(score.accuracy, *score.bounds)
    assert (share.mean, share.high) == (1, 1)
    assert 0.4 < share.low < 0.5
