"""Checkpoints and adapted models on the Hugging Face Hub: written, read back, and trusted no more than a local file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, Hub, serving

import litmaml
from litmaml.cli.finetune import finetune
from litmaml.cli.main import main
from litmaml.cli.push import push
from litmaml.finetuning.meta_checkpoint import open_checkpoint
from litmaml.finetuning.model_card import is_own, told_of
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.runs.checkpoint_io import DurableCheckpointIO
from litmaml.runs.checkpoint_names import locate

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("huggingface_hub") is None, reason="needs huggingface_hub: pip install 'litmaml[hub]'"
    ),
    # huggingface_hub 2.4's own, where it uploads without xet.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub, at which the library of this process asks as its owner; its cache is empty."""
    constants = importlib.import_module("huggingface_hub.constants")
    with serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        for name, file in (("HF_HUB_CACHE", "cache"), ("HF_TOKEN_PATH", "token"), ("AGENT_HARNESSES_PATH", "agents")):
            monkeypatch.setattr(constants, name, str(tmp_path / "hub" / file), raising=False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture(scope="session")
def adapted(run: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``litmaml finetune`` writes, beside things that are nobody else's business."""
    folder = tmp_path_factory.mktemp("adapted") / "birds"
    finetune(str(run), str(images / "data"), str(folder), query=str(images / "query"), steps=1)
    for name in ("token.txt", "wandb/run.wandb", "photos/me.jpg", "README.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("secret", encoding="utf-8")
    return folder


def front(card: bytes) -> dict[str, object]:
    """The metadata of a page."""
    found: dict[str, object] = yaml.safe_load(card.decode().split("---")[1])
    return found


def test_an_adapted_model_is_read_back_as_it_was(
    adapted: Path, hub: Hub, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["push", str(adapted), "hf://me/birds", "--licence", "mit"])
    stored = hub.stored["me/birds"].files()
    published = {*stored} - {".gitattributes", "README.md"}
    assert published == {
        *("model.safetensors", "config.yaml", "classes.json"),
        *("report.md", "adaptation.png", "confusion.png"),
    }
    assert all(stored[name] == (adapted / name).read_bytes() for name in published)
    said = capsys.readouterr().out
    assert "everybody gets to know: the names of its 4 classes" in said
    assert "litmaml classify --model hf://me/birds --images FOLDER" in said
    assert front(stored["README.md"]) == {
        "library_name": "litmaml",
        "tags": ["litmaml", "maml", "meta-learning", "few-shot-learning"],
        "pipeline_tag": "image-classification",
        "license": "mit",
    }
    card = stored["README.md"].decode()
    assert is_own(card)
    assert "## Accuracy: " in card
    assert 'litmaml.load("hf://me/birds")' in card
    assert "predictions.csv" not in card
    assert "secret" not in card

    model, own = litmaml.load("hf://me/birds"), litmaml.load(adapted)
    assert model.classes == own.classes
    pictures = model.preprocess(*sorted((images / "flat").iterdir())[:3])
    assert torch.equal(model(pictures), own(pictures))
    assert not any(name.endswith((".png", ".md")) for name in hub.asked), "pictures and pages are not fetched"
    main(
        ["classify", "--model", "hf://me/birds", "--images", str(images / "flat"), "--output", str(tmp_path / "p.csv")]
    )
    assert (tmp_path / "p.csv").is_file()
    with pytest.raises(FileNotFoundError, match="'hf://me/birds' has no meta-checkpoint"):
        locate("hf://me/birds")


def test_a_later_push_takes_the_place_of_the_earlier_but_of_nothing_else(
    adapted: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.put("me/birds", {"notes.txt": b"mine", "functions.png": b"of an earlier push", "README.md": b"# My birds\n"})
    push(str(adapted), "hf://me/birds")
    stored = hub.stored["me/birds"].files()
    assert stored["README.md"] == b"# My birds\n"
    assert stored["notes.txt"] == b"mine"
    assert "functions.png" not in stored
    hub.put("me/birds", {name: content for name, content in stored.items() if name != "README.md"})
    push(str(adapted), "hf://me/birds")
    first = hub.stored["me/birds"].files()["README.md"]
    push(str(adapted), "hf://me/birds", licence="mit")
    assert front(hub.stored["me/birds"].files()["README.md"])["license"] == "mit"
    hub.put("me/birds", {**hub.stored["me/birds"].files(), "README.md": first.replace(b"# birds", b"# Our birds")})
    push(str(adapted), "hf://me/birds")
    assert b"# Our birds" in hub.stored["me/birds"].files()["README.md"]


def test_a_run_is_read_wherever_a_checkpoint_is(
    run: Path, sinusoid_run: Path, hub: Hub, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    summed = tmp_path / "summed"
    DurableCheckpointIO().save_checkpoint(read_checkpoint(locate(run)), summed / "checkpoints" / "best.ckpt")
    push(str(summed), "hf://me/gratings")
    stored = hub.stored["me/gratings"].files()
    assert {*stored} == {".gitattributes", "README.md", "checkpoints/best.ckpt", "checkpoints/best.ckpt.sha256"}
    for name in ("checkpoints/best.ckpt", "checkpoints/best.ckpt.sha256"):
        assert stored[name] == (summed / name).read_bytes()
    assert b"litmaml finetune --checkpoint hf://me/gratings --data FOLDER" in stored["README.md"]
    found, own = open_checkpoint("hf://me/gratings"), open_checkpoint(run)
    assert found.name == "hf://me/gratings"
    assert all(
        torch.equal(weight, own.learner.state_dict()[name]) for name, weight in found.learner.state_dict().items()
    )
    finetune("hf://me/gratings", str(images / "data"), str(tmp_path / "out"), query=str(images / "query"), steps=1)
    push(str(tmp_path / "out"), "hf://me/birds")
    assert front(hub.stored["me/birds"].files()["README.md"])["base_model"] == "me/gratings"

    push(str(sinusoid_run), "hf://me/sinusoid")
    assert b"litmaml finetune" not in hub.stored["me/sinusoid"].files()["README.md"], "it takes values, in Python alone"
    cached = {file: file.stat().st_mtime_ns for file in (tmp_path / "hub" / "cache").rglob("*best.ckpt*")}
    main(["test", "--ckpt_path=hf://me/sinusoid", "--trainer.accelerator=cpu", "--data.test_tasks=4"])
    assert (tmp_path / "runs" / "me" / "sinusoid" / "test_results.json").is_file()
    assert not [*(tmp_path / "hub" / "cache").rglob("test_results.json")]
    assert cached == {file: file.stat().st_mtime_ns for file in cached}
    with pytest.raises(ValueError, match=r"own folder, got 'hf://me/sinusoid'; .* --init_weights=hf://me/sinusoid"):
        main(["fit", "--ckpt_path=hf://me/sinusoid"])


def test_the_page_of_a_run_has_the_results_of_its_checkpoint(sinusoid_run: Path, hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for file in (sinusoid_run / "checkpoints").iterdir():
        (folder / "checkpoints" / file.name).write_bytes(file.read_bytes())
    (folder / "config.yaml").write_text("mine: 1", encoding="utf-8")
    main(["test", f"--ckpt_path={folder}", "--trainer.accelerator=cpu", "--data.test_tasks=4"])
    push(str(folder), "hf://me/sinusoid")
    stored = hub.stored["me/sinusoid"].files()
    card = stored["README.md"].decode()
    assert "| inner steps | loss |" in card
    assert "| tasks | 4 |" in card
    assert str(folder) not in card
    assert "config.yaml" not in stored, "it is not of a fit"
    assert stored["adaptation.png"] == (folder / "adaptation.png").read_bytes()
    assert 'litmaml.adapt("hf://me/sinusoid", inputs, targets)' in card
    os.utime(folder / "test_results.json", (1, 1))
    with pytest.raises(ValueError, match=r"test_results.json' is older than best.ckpt, .* litmaml test --ckpt_path="):
        push(str(folder), "hf://me/sinusoid")
    (folder / "test_results.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"test_results.json' is damaged"):
        push(str(folder), "hf://me/sinusoid")


def test_revisions_are_read_and_written(run: Path, hub: Hub) -> None:
    push(str(run), "hf://me/gratings", revision="v1")
    assert "checkpoints/best.ckpt" not in hub.stored["me/gratings"].files()
    commit = hub.stored["me/gratings"].branches["v1"]
    assert locate("hf://me/gratings@v1").samefile(locate(f"hf://me/gratings@{commit}"))
    with pytest.raises(FileNotFoundError, match="'hf://me/gratings' has no meta-checkpoint"):
        locate("hf://me/gratings")
    with pytest.raises(FileNotFoundError, match=r"'hf://me/gratings@v2': me/gratings has no revision 'v2'"):
        locate("hf://me/gratings@v2")


def test_a_hostile_repository_is_refused_as_a_local_file_is(run: Path, adapted: Path, hub: Hub, tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'mark'}",)

    whole = (run / "checkpoints" / "best.ckpt").read_bytes()
    outside = {"../../../evil.ckpt": b"x", "checkpoints/../../../evil.ckpt": b"x", "evil.py": b"x", "a.pkl": b"x"}
    hub.put("foe/code", {"checkpoints/best.ckpt": pickle.dumps(Touch()), **outside})
    hub.put("foe/cut", {"checkpoints/best.ckpt": whole[:5000], **outside})
    hub.put("foe/sum", {"checkpoints/best.ckpt": whole, "checkpoints/best.ckpt.sha256": b"0" * 64 + b"  best.ckpt\n"})
    files = {name: (adapted / name).read_bytes() for name in ("model.safetensors", "config.yaml", "classes.json")}
    config = yaml.safe_load(files["config.yaml"])
    code = {**config, "model": {"class_path": "os.system", "init_args": {"command": f"touch {tmp_path / 'mark'}"}}}
    hub.put("foe/model", {**files, "config.yaml": yaml.safe_dump(code).encode()})
    hub.put("foe/yaml", {**files, "config.yaml": b"!!python/object/apply:os.system [touch mark]"})
    for name, message in (
        ("code", "holds more than tensors and plain data, or is damaged; it was not loaded"),
        ("cut", "is damaged or no checkpoint"),
        ("sum", r"its content does not fit best\.ckpt\.sha256"),
    ):
        with pytest.raises(ValueError, match=message):
            open_checkpoint(f"hf://foe/{name}")
    for name, message in (("model", r"os\.system"), ("yaml", "is no YAML of plain values")):
        with pytest.raises(ValueError, match=message):
            litmaml.load(f"hf://foe/{name}")
    assert not (tmp_path / "mark").exists()
    assert not [*tmp_path.rglob("evil*"), *tmp_path.rglob("*.pkl")]
    assert not any("evil" in asked or "pkl" in asked for asked in hub.asked)


def test_what_the_disk_has_no_room_for_is_not_begun(run: Path, hub: Hub) -> None:
    hub.put("foe/large", {"checkpoints/best.ckpt": (run / "checkpoints" / "best.ckpt").read_bytes()})
    hub.announced["checkpoints/best.ckpt"] = 10**18
    with pytest.raises(OSError, match=r"checkpoint: 'hf://foe/large' is larger than the disk has room for .* HF_HOME"):
        locate("hf://foe/large")
    assert not any(asked.startswith("GET /foe/large/resolve") for asked in hub.asked)


def test_the_cache_answers_where_the_hub_does_not(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("me/gratings", {"checkpoints/best.ckpt": (run / "checkpoints" / "best.ckpt").read_bytes()})
    found = locate("hf://me/gratings")
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert locate("hf://me/gratings") == found
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("hf://me/gratings") == found
    with pytest.raises(
        ConnectionError, match=r"'hf://me/other' cannot be fetched .*, and is not in the cache .*OFFLINE"
    ):
        locate("hf://me/other")


def test_what_is_private_stays_so(run: Path, adapted: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["push", str(adapted), "hf://me/birds", "--private"])
    assert hub.stored["me/birds"].private
    hub.put("me/public", {})
    with pytest.raises(ValueError, match="private: hf://me/public is there already and public"):
        push(str(adapted), "hf://me/public", private=True)
    assert not hub.stored["me/public"].files()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FileNotFoundError, match=r"model: 'hf://me/birds' is not on the .* hf auth login or HF_TOKEN"):
        litmaml.load("hf://me/birds")
    with pytest.raises(FileNotFoundError, match=r"repository: 'hf://me/birds' is not .* hf auth login or HF_TOKEN"):
        push(str(adapted), "hf://me/birds")
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(PermissionError, match="'hf://me/public' is not for you to write") as refused:
        push(str(run), "hf://me/public")
    assert "hf_of_somebody_else" not in str(refused.value)


def test_nothing_is_published_of_what_is_no_model_of_litmaml(adapted: Path, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("model.safetensors", "config.yaml", "classes.json"):
        (linked / name).write_bytes((adapted / name).read_bytes())
    (linked / "report.md").symlink_to(adapted / "token.txt")
    for folder, message in (
        (tmp_path / "empty", r"output: there is no .*best.ckpt; there is no checkpoint at all"),
        (tmp_path / "nowhere", r"output: .*nowhere' is no folder; give one that litmaml finetune or fit wrote"),
        (linked, r"output: .*report.md' is a link, and what it leads to is not published; copy it there"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            push(str(folder), "hf://me/birds")
    (linked / "report.md").unlink()
    (linked / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"model.safetensors' is not what its config.yaml is of"):
        push(str(linked), "hf://me/birds")
    assert not hub.stored


@pytest.mark.parametrize(
    "end", ["## Files\n\n- `a`", "`predictions.csv` has the values.", '```python\nlitmaml.load("OUT")\n```']
)
def test_a_page_does_not_tell_of_the_folder_on_the_machine(end: str) -> None:
    assert told_of(f"# Fine-tuning\n\n| a |\n\n{end}\n") == "\n| a |\n\n"


@pytest.mark.parametrize(
    "named",
    [
        *("hf://birds", "hf://me/", "hf://me/birds@", "hf://me/../birds", "hf://../birds", "hf://me/..@v1"),
        *("hf://me/birds@../../x", "hf://me/birds@a/../b", "hf://me/birds@v1@v2", "hf://me/birds/best", "hf://me/b%2f"),
        *("hf://me/birds\n", "hf://me/birds?x=1", "hf://mé/birds"),
    ],
)
def test_a_name_that_is_none_is_refused(named: str) -> None:
    with pytest.raises(ValueError, match="init_weights: has to be hf://USER/NAME or hf://USER/NAME@REVISION, got"):
        locate(named, "init_weights")


def test_without_the_extra_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"checkpoint: 'hf://me/birds' needs huggingface_hub .* 'litmaml\[hub\]'"):
        locate("hf://me/birds")


def test_the_program_asks_the_hub_of_the_environment_and_imports_the_library_only_then(
    run: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.put("me/gratings", {"checkpoints/best.ckpt": (run / "checkpoints" / "best.ckpt").read_bytes()})
    code = (
        "import sys, litmaml.cli.main; from litmaml.runs.checkpoint_names import locate; "
        "assert 'huggingface_hub' not in sys.modules; print(locate('hf://me/gratings'))"
    )
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home")
