"""Images, archives, folders and damaged checkpoints of somebody else's: one line each, soon and in little memory."""

from __future__ import annotations

import gc
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hostile import KEPT, PLACES, _of, canary, honest, payloads, put
from PIL import Image
from safetensors.torch import load_file, save, save_file
from watch import told, watched

import litmaml
from litmaml.cli.main import main
from litmaml.data import Episode, ImageFolderTasks, ImageFormat, Omniglot
from litmaml.finetuning.adapted_model import AdaptedModel
from litmaml.finetuning.model_folder import Recipe
from litmaml.learner.meta_learner import MetaLearner
from litmaml.models import MLP
from litmaml.runs.artifact import fetch_artifact
from litmaml.runs.checkpoint import read_checkpoint, sha256
from litmaml.runs.checkpoint_names import locate
from litmaml.runs.nameable import find_class
from litmaml.shown import markdown, one_line, printable, table_cell

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of many files before it refuses them
COLOUR = ImageFormat(28, 3)


def part(least: int, most: int) -> list[Any]:
    return [pytest.param(most, marks=pytest.mark.slow, id=f"{most}"), pytest.param(least, id=f"{least}")]


def mutated(content: bytes, stream: random.Random) -> bytes:
    """Bytes changed, cut, doubled or filled."""
    data = bytearray(content)
    for _ in range(stream.choice((1, 1, 3, 20))):
        place = stream.randrange(len(data))
        match stream.randrange(5):
            case 0:
                data[place] ^= 1 << stream.randrange(8)
            case 1:
                data[place : place + 4] = stream.randbytes(4)
            case 2:
                data[place : place + 4] = b"\xff\xff\xff\x7f"
            case 3:
                del data[place : place + stream.randrange(1, 40)]
            case 4:
                data[place:place] = data[place : place + 40]
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.mark.parametrize("count", part(150, 2000))
def test_mutated_images(count: int, tmp_path: Path) -> None:
    stream, pixels = random.Random(0), np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    kinds: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"progressive": True},
        "BMP": {},
        "GIF": {},
        "TIFF": {"compression": "tiff_lzw"},
        "WEBP": {},
    }
    originals = []
    for kind, options in kinds.items():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        originals.append(file.getvalue())
    path, refused = tmp_path / "image.png", 0
    COLOUR.read(io.BytesIO(originals[0]))
    for k in range(count):
        path.write_bytes(mutated(originals[k % len(originals)], stream))
        with watched() as watch:
            said = told(lambda: COLOUR.read(path))
        refused += bool(said)
        assert not watch.events
        assert watch.seconds < 1
        assert watch.megabytes < 500
        assert "\x1b" not in said
    assert refused > count // 5


def test_a_picture_that_is_a_program(tmp_path: Path) -> None:
    for content in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", b"<svg/>", b"%PDF-1.4"):
        (tmp_path / "x.png").write_bytes(content)
        with watched() as watch:
            assert "cannot read the image" in told(lambda: COLOUR.read(tmp_path / "x.png"))
        assert not watch.events


@pytest.mark.slow
def test_large_images(tmp_path: Path) -> None:
    Image.new("RGB", (12000, 9000), "red").save(tmp_path / "large.jpg")
    Image.fromarray(np.zeros((9400, 9400), dtype=np.uint16)).save(tmp_path / "bomb.png")
    for name, seconds in (("large.jpg", 5), ("bomb.png", 8)):
        with watched() as watch:
            COLOUR.read(tmp_path / name)
        assert watch.seconds < seconds
        assert watch.megabytes < 500


@pytest.mark.parametrize("beside", [True, False], ids=["with its sum", "alone"])
@pytest.mark.parametrize("count", part(60, 400))
def test_mutated_checkpoints(count: int, beside: bool, tmp_path: Path) -> None:
    """None is read with other content, whether its sum lies beside it or not."""
    whole, stream = KEPT.read_bytes(), random.Random(1)
    expected = read_checkpoint(KEPT)
    file = tmp_path / "x.ckpt"
    if beside:
        shutil.copy(KEPT, file)
        (tmp_path / "x.ckpt.sha256").write_text(f"{sha256(file)}  x.ckpt\n")
    same = 0
    for _ in range(count):
        file.write_bytes(mutated(whole, stream))
        found: list[Any] = []
        with watched() as watch:
            said = told(lambda found=found: found.append(read_checkpoint(file)))  # type: ignore[misc]
        assert watch.seconds < 2
        assert watch.megabytes < 500
        assert said or _equal(found[0], expected)
        same += not said
    assert same < count // 4
    for text in ("", "\n", "zz  x.ckpt\n", "\x00" * 9):
        shutil.copy(KEPT, file)
        (tmp_path / "x.ckpt.sha256").write_text(text)
        assert "holds no SHA-256 sum" in told(lambda: read_checkpoint(file))


def test_a_bit_of_a_weight_is_found_by_the_archives_own_sum(tmp_path: Path) -> None:
    """torch itself reads the file, with another weight."""
    file = tmp_path / "x.ckpt"
    torch.save({**honest(), "state_dict": {"w": torch.ones(1000)}}, file)
    data = bytearray(file.read_bytes())
    place = data.index(bytes.fromhex("0000803f") * 100) + 2
    data[place] ^= 1
    file.write_bytes(data)
    assert not torch.equal(torch.load(file, weights_only=True)["state_dict"]["w"], torch.ones(1000))
    assert "does not fit its sum" in told(lambda: read_checkpoint(file))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("optimizer_states", [5], "no list of dictionaries"),
        ("optimizer_states", [{"state": 5}], "have no state"),
        ("lr_schedulers", [{"get_lr": 5}], "names its methods"),
        ("loops", {"fit_loop": 5}, "none of Lightning"),
        ("callbacks", {"x": {"best_model_path": "/a/../b"}}, "by way of"),
        ("state_dict", {"w": 5}, "no dictionary of tensors"),
        ("pytorch-lightning_version", "1.x; y", "version of Lightning is none"),
    ],
)
def test_the_state_of_a_run_has_its_form(part: str, value: Any, message: str, tmp_path: Path) -> None:
    torch.save({**honest(), part: value}, tmp_path / "x.ckpt")
    assert message in told(lambda: read_checkpoint(tmp_path / "x.ckpt"))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


@pytest.mark.parametrize("count", part(100, 500))
def test_recorded_arguments(count: int, tmp_path: Path) -> None:
    """Odd values in odd places of a record: a learner, or one line."""
    stream, file = random.Random(2), tmp_path / "x.ckpt"
    values: list[Any] = [None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf"), "", "null", "1", "~", "\x1b[2J"]
    values += [
        "litmaml.models.MLP",
        [],
        [[]],
        {},
        {"a": 1},
        {"class_path": "x"},
        ["*"],
        [None],
        b"",
        3 + 4j,
        "x" * 10**5,
    ]
    keys = list(read_checkpoint(KEPT)["hyper_parameters"])
    places = [*PLACES, *(("hyper_parameters", key) for key in keys)]
    for _ in range(count):
        torch.save(put(stream.choice(places), stream.choice(values)), file)
        with watched() as watch:
            said = told(lambda: MetaLearner.load_from_checkpoint(file))
        assert "\n" not in said
        assert "\x1b" not in said
        assert not watch.events
        assert watch.seconds < 2
        assert watch.megabytes < 500


@pytest.fixture
def adapted(tmp_path: Path) -> Path:
    folder = tmp_path / "adapted"
    recipe = Recipe(_of("litmaml.models.MLP", inputs=3, outputs=2, hidden=[4]), ["head"], 2, {})
    AdaptedModel(MLP(3, 2, [4]), ["a", "b"], ImageFormat(28), recipe).save(folder)
    litmaml.load(folder)
    return folder


def folders(good: Path, mark: Path) -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Ways to spoil an adapted model's folder."""
    config = yaml.safe_load((good / "config.yaml").read_text())

    def changed(**parts: Any) -> Callable[[Path], object]:
        return lambda folder: (folder / "config.yaml").write_text(yaml.safe_dump({**config, **parts}))

    def changed_without(part: str) -> Callable[[Path], object]:
        rest = {key: value for key, value in config.items() if key != part}
        return lambda folder: (folder / "config.yaml").write_text(yaml.safe_dump(rest))

    def text(name: str, content: str | bytes) -> Callable[[Path], object]:
        data = content.encode() if isinstance(content, str) else content
        return lambda folder: (folder / name).write_bytes(data)

    for payload in payloads(mark):
        yield f"model {payload['class_path']}", changed(model=payload)
    model = config["model"]
    wrong: dict[str, list[Any]] = {
        "model": [None, "os.system", [], {**model, "x": 1}, {**model, "init_args": {"hidden": [10**9]}}, _of("MLP")],
        "head": [1, "", "body", "nowhere", "body.0", "__class__"],
        "outputs": [None, -1, 10**9, "2", True],
        "image_format": [
            "x",
            {"size": 10**6},
            {"size": "28"},
            {"size": 28, "__class__": 1},
            {"class_path": "os.system"},
        ],
        "sha256": [None, 1, "", ["x"]],
        "source": [None, "x"],
    }
    for name, values in wrong.items():
        for each in values:
            yield f"{name} {str(each)[:40]}", changed(**{name: each})
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))
    merge = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}\n" for k in range(1, 30))
    for content in (
        "",
        "[",
        "- 1",
        "x",
        bomb,
        merge,
        "!!python/object/apply:os.system ['x']",
        "[" * 5000,
        b"\xff\xfe\x00",
        "1" * 9999,
        "a: 1\n" * 300_000,
        "a: 1\n" * 40_000,
        "-\n" * 100_000,
        "#\n" * 130_000,
    ):
        yield f"config {content[:9]!r}", text("config.yaml", content)
    for content in ("", "1", '{"a": 1}', "[1]", '["a"]', "[" * 100_000, b"\xff", '["a", "b", "c"]'):
        yield f"classes {content[:9]!r}", text("classes.json", content)
    for content in (b"", b"\xff" * 8, (10**12).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"{}", b"<html>"):
        yield f"weights {content[:9]!r}", partial(_with_weights, config=config, content=content)
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}).encode()
    lie = len(header).to_bytes(8, "little") + header
    yield "weights that lie", lambda folder: _with_weights(folder, config, lie)
    weights = load_file(good / "model.safetensors")
    name, weight = next(iter(weights.items()))
    for what, others in {
        "an imaginary part": {name: weight.to(torch.complex64)},
        "another shape": {name: torch.zeros(0)},
        "a name that moves the cursor": {"\x1b[31mx\n": weight.clone()},
        "endless names": {f"x{k}": torch.zeros(1) for k in range(5000)},
    }.items():
        yield f"weights of {what}", partial(_with_weights, config=config, content=save(weights | others))
    for count in (9_000, 200_000):
        empty = ",".join(f'"{k}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for k in range(count))
        many = (len(empty) + 2).to_bytes(8, "little") + f"{{{empty}}}".encode()
        yield f"{count} empty weights", partial(_with_weights, config=config, content=many)
    for shape in ([2 * 10**9], [1]):  # of eight gigabytes that take no room on the disk
        vast = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0]]}}).encode()
        yield f"vast weights {shape}", partial(_vast, header=vast)
    for key in {*config} - {"batch_norm", "output", "tied"}:  # which older folders lack
        yield f"no {key}", changed_without(key)
    yield "no weights", lambda folder: _with_weights(folder, config, save({}))
    yield "a weight tied to itself", changed(tied={name: name})


def _with_weights(folder: Path, config: dict[str, Any], content: bytes) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(content)
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "sha256": sha256(file)}))


def _vast(folder: Path, header: bytes) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 8 * 10**9)


def test_adapted_models(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, count = tmp_path / "ran", 0
    canary(tmp_path, mark)
    monkeypatch.syspath_prepend(tmp_path)
    find_class("litmaml.runs.wandb_logger.ResumableWandbLogger", (object,))  # to import it takes a second, once
    gc.freeze()  # else the time to look through what other tests have left in this process is counted
    for name, spoil in folders(adapted, mark):
        folder = tmp_path / "spoilt"
        shutil.copytree(adapted, folder)
        spoil(folder)
        with watched() as watch:
            said = told(lambda folder=folder: litmaml.load(folder))  # type: ignore[misc]
        assert said.startswith("model"), f"{name}: {said!r}"
        assert len(said) < 1000, name
        assert not {"\n", "\x1b"} & {*said}, f"{name}: {said!r}"
        assert not watch.events, f"{name}: {watch.events}"
        assert not mark.exists(), name
        assert watch.seconds < 1, name
        assert watch.megabytes < 500, name
        shutil.rmtree(folder)
        count += 1
    gc.unfreeze()
    assert count >= 60


def test_data_folders_and_archives(tmp_path: Path) -> None:
    """Forty of them: odd entries, bombs, things that are no files."""
    part_name, count = "images_background", 0

    def check(load: Callable[[], object]) -> None:
        nonlocal count
        with watched() as watch:
            said = told(load)
        assert said
        assert "\x1b" not in printable(said)
        assert watch.seconds < 1
        assert watch.megabytes < 500
        count += 1

    def omniglot(root: Path) -> None:
        Omniglot(str(root), cache_dir=str(tmp_path / "cache")).load("train")

    def pictures(root: Path) -> None:
        ImageFolderTasks(str(root), train=Episode(ways=2, queries=1)).load("train")

    entry = f"{part_name}/A/character01/0001_01.png"
    huge = [(f"{part_name}/A{k}/character01/0001_{i:02}.png", bytes(1 << 20)) for k in range(2) for i in range(20)]
    archives: list[list[tuple[str, bytes]]] = [
        [],
        [(entry, b"x")],
        [(entry, bytes(1 << 27))],
        huge,
        [("../../x.png", b"x"), ("/etc/x", b"x")],
        [(f"{part_name}/\x1b[2J/character01/0001_01.png", b"x")],
        [(str(k), b"") for k in range(3000)],
    ]
    for k, entries in enumerate(archives):
        for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
            root = tmp_path / f"zip {k} {compression}"
            root.mkdir()
            with zipfile.ZipFile(root / f"{part_name}.zip", "w", compression) as archive:
                for name, content in entries:
                    archive.writestr(name, content)
            check(partial(omniglot, root))
    stream = random.Random(3)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, b"x")
    for k in range(12):
        root = tmp_path / f"cut {k}"
        root.mkdir()
        (root / f"{part_name}.zip").write_bytes(mutated(file.getvalue(), stream))
        check(partial(omniglot, root))
    for k, content in enumerate((b"", b"x", b"\x89PNG\r\n\x1a\n", b"%!PS", b"GIF89a", b"\xff\xd8\xff", b"II*\x00")):
        root = tmp_path / f"images {k}"
        for label in range(6):
            (root / f"\x1b[31m{label}").mkdir(parents=True)
            for i in range(3):
                (root / f"\x1b[31m{label}" / f"{i}.png").write_bytes(content)
        os.mkfifo(root / "\x1b[31m0" / "pipe.png")
        check(partial(pictures, root))
    assert count >= 40


def test_classify_stays_in_its_folder(adapted: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "secret" / "x.png")
    (tmp_path / "photos" / "inner").mkdir(parents=True)
    Image.new("L", (28, 28)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "inner" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "folder").symlink_to(tmp_path / "secret")
    from litmaml.finetuning.labelled_images import find_images

    assert [file.name for file in find_images(str(tmp_path / "photos"), "images")] == ["a.png"]
    assert len(find_images(str(tmp_path / "photos"), "images", follow_links=True)) == 2
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret" / "x.png")
    asked = ["classify", "--model", str(adapted), "--images", str(tmp_path / "photos")]
    with pytest.raises(SystemExit, match=r"images: 1 images in .* are links to files elsewhere.*--follow_links=true"):
        main([*asked, "--output", str(tmp_path / "out.csv")])


@pytest.mark.parametrize(
    "reference",
    [
        "wandb://a/../b:c",
        "wandb://a/b/..:c",
        "wandb://a/b/c:d\n",
        "wandb://a/b%2f/c:d",
        "wandb://a/b/c:d?x=1",
        "wandb://./b/c:d",
    ],
)
def test_references_are_words(reference: str) -> None:
    with pytest.raises(ValueError, match=r"^checkpoint: .* is no artifact"):
        fetch_artifact(reference)
    with pytest.raises(ValueError, match=r"^init_weights: .* is no artifact"):
        locate(reference, "init_weights")


def test_names_are_text() -> None:
    name = "\x1b]0;x\x07<img src=x>[a](javascript:b)|=1\n`"
    assert "\x1b" not in printable(name)
    assert printable("a\nä 鶴") == "a\nä 鶴"
    assert one_line(name).count("\n") == 0
    assert "<img" not in markdown(name)
    assert "\\[a\\]\\(javascript\\:b\\)\\|" in markdown(name)
    assert [table_cell(text)[0] for text in ("=1+1", "+1", "-1", "@x", " =1", "\t=1")] == ["'"] * 5 + ["\\"]
    assert table_cell("Blaue Meise") == "Blaue Meise"


def test_a_cache_that_is_none_is_passed_over(tmp_path: Path) -> None:
    save_file({"pixels": torch.zeros(1)}, tmp_path / "x.safetensors")
    from litmaml.data.cache import read_tensors

    (tmp_path / "y.safetensors").write_bytes(b"\xff" * 100)
    assert read_tensors(tmp_path / "y.safetensors") is None
    assert read_tensors(tmp_path / "x.safetensors") == ({"pixels": torch.zeros(1)}, {})


def test_names_of_classes_are_in_utf_8(tmp_path: Path) -> None:
    """Others were refused only when the results were written, after all the work."""
    for name in (b"a", b"\xff\xfe"):
        os.makedirs(os.path.join(os.fsencode(tmp_path / "data"), name))
        Image.new("L", (28, 28)).save(os.path.join(tmp_path / "data", os.fsdecode(name), "x.png"))
    from litmaml.finetuning.labelled_images import read_support

    with pytest.raises(ValueError, match=r"^data: names of classes that are not in UTF-8: '\\udcff\\udcfe'; rename"):
        read_support(str(tmp_path / "data"), ImageFormat(28))
