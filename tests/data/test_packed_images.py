"""Packed images: the same tasks, one file for each split, opened at once, and nothing damaged or foreign in them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import image_sets
import numpy as np
import pytest
import torch
from image_sets import WORDNET, pixels, save
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from litmaml.cli.main import main
from litmaml.data import Episode, ImageFormat, ImageTable
from litmaml.data.packed_pool import Damaged, PackedPool, write_pool
from litmaml.tasks import SPLITS, tensors_of

FORMAT = ImageFormat(8, 3)


def table(root: Path, **options: Any) -> ImageTable:
    settings: dict[str, Any] = {"image_format": FORMAT, "train": Episode(ways=2, shots=1, queries=2)} | options
    return ImageTable(str(root), **settings)


def pack(source: Path, output: Path, *options: str) -> None:
    main(["data", "pack", str(source), str(output), "--image_format.size=8", *options])


@pytest.mark.parametrize("name", ["LibFewShot", "pickles of learn2learn", "folders"])
def test_the_tasks_are_those_of_the_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, _, options = image_sets.SETS[name]
    make(tmp_path / "set")
    pack(tmp_path / "set", tmp_path / "packed", *(f"--{key}={value}" for key, value in options.items()))
    said = capsys.readouterr().out
    assert "train: 9 images of 3 classes, " in said
    assert f"root={tmp_path / 'packed'}" in said
    files, packed = table(tmp_path / "set"), table(tmp_path / "packed")
    for split in SPLITS:
        one, other = (tasks.sample(split, range(5), seed=3) for tasks in (files, packed))
        for mine, theirs in zip(tensors_of(one), tensors_of(other), strict=True):
            assert torch.equal(mine, theirs)
        assert files.classes_of(split, 4, 3) == packed.classes_of(split, 4, 3)
    assert packed.describe("test")["layout"] == f"packed {files.describe('test')['layout']}"
    main(["data", "check", str(tmp_path / "packed")])
    assert "is as it was packed" in capsys.readouterr().out


def test_an_index_names_what_there_is_with_checksums(tmp_path: Path) -> None:
    image_sets.libfewshot(tmp_path / "set")
    pack(tmp_path / "set", tmp_path / "packed", "--image_format.fit=crop")
    index = json.loads((tmp_path / "packed" / "index.json").read_text())
    assert index["image_format"] == {"size": 8, "channels": 3, "fit": "crop", "white": None}
    assert {split: entry["images"] for split, entry in index["splits"].items()} == {"train": 9, "val": 6, "test": 6}
    files = ["index.json", *(f"{split}.safetensors" for split in SPLITS)]
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == sorted(files)
    path = tmp_path / "packed" / "val.safetensors"
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        SystemExit, match=r"folder: .*val\.safetensors is not what was packed, its SHA-256 is \w+; pack"
    ):
        main(["data", "check", str(tmp_path / "packed")])
    with pytest.raises(SystemExit, match=r"folder: .*set holds no packed images; pack some first"):
        main(["data", "check", str(tmp_path / "set")])


def test_a_file_of_another_set_is_refused(tmp_path: Path) -> None:
    image_sets.libfewshot(tmp_path / "set")
    pack(tmp_path / "set", tmp_path / "packed")
    shutil.copy(tmp_path / "packed" / "train.safetensors", tmp_path / "packed" / "val.safetensors")
    with pytest.raises(
        ValueError, match=r"root: .*val\.safetensors has to be a file of \d+ bytes; pack the images anew"
    ):
        table(tmp_path / "packed").load("train")
    (tmp_path / "packed" / "val.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"root: .*val\.safetensors has to be a file of \d+ bytes; pack the images anew"
    ):
        table(tmp_path / "packed").load("train")


def test_another_format_than_it_was_packed_with_is_refused(tmp_path: Path) -> None:
    image_sets.libfewshot(tmp_path / "set")
    pack(tmp_path / "set", tmp_path / "packed")
    message = r"image_format\.size: the images of .*packed were packed with 8, got 84; set it to that, or pack them"
    with pytest.raises(ValueError, match=message):
        table(tmp_path / "packed", image_format=ImageFormat(84, 3)).load("train")
    with pytest.raises(ValueError, match=r"image_format\.fit: .* with squeeze, got crop"):
        table(tmp_path / "packed", image_format=ImageFormat(8, 3, fit="crop")).load("train")
    table(tmp_path / "packed", image_format=ImageFormat(8, 3, mean=[0.4, 0.5, 0.6], std=0.2)).load("train")


def test_what_is_typed_wrong_is_named_as_it_was_typed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"litmaml data: source=.*nowhere: there is no such folder"):
        pack(tmp_path / "nowhere", tmp_path / "packed")
    image_sets.libfewshot(tmp_path / "set")
    with pytest.raises(
        SystemExit, match=r"image_format: invert, mean and std are done to packed images when they are us"
    ):
        pack(tmp_path / "set", tmp_path / "packed", "--image_format.mean=0.5")
    main(["data", "pack", str(tmp_path / "set"), str(tmp_path / "packed")])
    table(tmp_path / "packed", image_format=ImageFormat(84, 3)).load("train")


def test_the_split_of_packed_images_is_that_of_packing(tmp_path: Path) -> None:
    image_sets.libfewshot(tmp_path / "set")
    pack(tmp_path / "set", tmp_path / "packed")
    table(tmp_path / "packed", published="mini_imagenet").load("train")
    with pytest.raises(ValueError, match=r"split_file=mini_imagenet: .* is split as it was packed; leave split_"):
        table(tmp_path / "packed", split_file="mini_imagenet").load("train")
    lines = [f"{name},{'val' if split == 'train' else 'train'}" for split, names in WORDNET.items() for name in names]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    pack(tmp_path / "set", tmp_path / "mine", f"--split_file={tmp_path / 'mine.csv'}")
    assert tuple(table(tmp_path / "mine").class_names("val")) == WORDNET["train"]
    with pytest.raises(ValueError, match="published=mini_imagenet: 7 classes are in another split than published"):
        table(tmp_path / "mine", published="mini_imagenet").load("train")


def test_nothing_is_written_over_and_nothing_half_is_left(tmp_path: Path) -> None:
    image_sets.libfewshot(tmp_path / "set")
    (tmp_path / "packed").mkdir()
    pack(tmp_path / "set", tmp_path / "packed")
    with pytest.raises(SystemExit, match=r"output: .*packed exists already and is no empty folder; name a new one"):
        pack(tmp_path / "set", tmp_path / "packed")
    (tmp_path / "set" / "images" / "n0193011200000001.jpg").write_text("no image")
    with pytest.raises(SystemExit, match=r"1 images of the split test cannot be used, mend or remove them"):
        pack(tmp_path / "set", tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "set"]


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_copies_across_splits_are_found_while_packing(kind: str, tmp_path: Path) -> None:
    image_sets.libfewshot(tmp_path / "set")
    twice = Image.fromarray(pixels("n01532829", "n0153282900000000.jpg"))
    twice.save(tmp_path / "set" / "images" / "n0193011200000001.jpg", kind)  # the same file, or the same pixels alone
    with pytest.raises(SystemExit, match="images: 1 stand in two classes, 1 of them in two splits"):
        pack(tmp_path / "set", tmp_path / "packed")
    with pytest.warns(UserWarning, match="images: 1 stand in two classes, 1 of them in two splits"):
        pack(tmp_path / "set", tmp_path / "packed", "--copies=warn")
    tasks = table(tmp_path / "packed")
    tasks.load("train")
    with pytest.raises(ValueError, match=r"images: 1 stand in two .*n0153282900000000\.jpg \(n01532829, train\)"):
        tasks.load("test")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_sets.libfewshot(tmp_path / "set")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(SystemExit, match=r"output: the packed images take 0 MB, and 0 MB are free in .*; name a"):
        pack(tmp_path / "set", tmp_path / "packed")
    tasks = table(tmp_path / "set", cache_dir=str(tmp_path / "cache"))
    with pytest.warns(UserWarning, match=r"cannot keep the images of the split train in .*; they are read from"):
        tasks.load("train")
    assert tasks.sample("train", [0], seed=0).query.inputs.shape == (1, 4, 3, 8, 8)
    assert not (tmp_path / "packed").exists()
    assert not [*(tmp_path / "cache").iterdir()]


def _with_metadata(path: Path, **changes: str) -> None:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in ("pixels", "prints", "names")}
        metadata = file.metadata()
    save_file(tensors, path, metadata | changes)


def _bytes(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


DAMAGES: dict[str, Any] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "no file": lambda path: path.write_bytes(b"<html>"),
    "empty": lambda path: path.write_bytes(b""),
    "an endless header": lambda path: path.write_bytes(struct.pack("<Q", 1 << 60)),
    "another form": lambda path: _with_metadata(path, form="99"),
    "more images than there are": lambda path: _with_metadata(path, classes='{"a": 900}'),
    "fewer images than are compared": lambda path: save_file(
        {"pixels": _bytes(3, 3, 8, 8), "prints": _bytes(4, 20), "names": _bytes(1)},
        path,
        {"form": "1", "key": "", "classes": '{"a": 4}'},
    ),
    "counts that are none": lambda path: _with_metadata(path, classes='{"a": -1, "b": 3}'),
    "classes that are no dictionary": lambda path: _with_metadata(path, classes="[5]"),
    "metadata that is no JSON": lambda path: _with_metadata(path, classes="os.system"),
    "nested metadata": lambda path: _with_metadata(path, classes="[" * 100_000),
    "no classes at all": lambda path: save_file({"pixels": torch.zeros(3)}, path),
    "pixels that are no bytes": lambda path: save_file(
        {"pixels": torch.zeros(4, 3, 8, 8), "prints": torch.zeros(4, 20), "names": torch.zeros(1)},
        path,
        {"form": "1", "key": "", "classes": '{"a": 4}'},
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_pools_are_refused_and_kept_ones_made_anew(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.safetensors"
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    write_pool(path, {"a": 2, "b": 2}, (3, 8, 8), [images[:3], images[3:]], ["w", "x", "y", "z"], "key")
    pool = PackedPool(path).open()
    assert torch.equal(pool.pixels, images)
    assert pool.called(2) == ("b", "y")
    sent = pickle.dumps(pool)
    assert len(sent) < 1000, "another process maps the file, too"
    assert torch.equal(pickle.loads(sent).pixels, images)
    write_pool(path, {"a": 4}, (3, 8, 8), [images], [], "another key")
    with pytest.raises(Damaged, match="was replaced while it was in use; begin again"):
        pickle.loads(sent)
    DAMAGES[damage](path)
    with pytest.raises(Damaged):
        PackedPool(path)
    image_sets.folders(tmp_path / "set", "train", "val", "test")
    for _ in range(2):
        tasks = table(tmp_path / "set", cache_dir=str(tmp_path / "cache"))
        tasks.load("train")
        assert {*tasks.read_pool("train").counts.tolist()} == {3}
        for kept in (tmp_path / "cache").glob("*.safetensors"):
            DAMAGES[damage](kept)


def test_a_pool_is_whole_or_not_there(tmp_path: Path) -> None:
    images = torch.zeros((2, 3, 8, 8), dtype=torch.uint8)
    for pieces, message in (
        ([images], "there are 2 images in place of 3"),
        ([images.float()], r"images have to be bytes \(3, 8, 8\), got torch\.float32"),
        ([images[:, :2]], r"images have to be bytes \(3, 8, 8\), got torch\.uint8 \(2, 2, 8, 8\)"),
    ):
        with pytest.raises(ValueError, match=message):
            write_pool(tmp_path / "pool.safetensors", {"a": 3}, (3, 8, 8), pieces, [], "")
    assert not [*tmp_path.iterdir()]


def test_folders_are_read_once_and_again_where_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_sets.folders(tmp_path / "set", "train", "val", "test")
    reads: list[str] = []
    read = ImageFormat.read

    def counted(self: ImageFormat, source: Any, name: str | None = None) -> torch.Tensor:
        reads.append(str(name))
        return read(self, source, name)

    monkeypatch.setattr(ImageFormat, "read", counted)

    def loaded(**options: Any) -> tuple[int, torch.Tensor]:
        reads.clear()
        tasks = table(tmp_path / "set", cache_dir=str(tmp_path / "cache"), **options)
        tasks.prepare()
        tasks.load("train")
        return len(reads), tasks.read_pool("train").pixels

    images = sum(len(names) for names in WORDNET.values()) * image_sets.IMAGES
    assert loaded()[0] == images
    assert loaded()[0] == 0
    assert loaded(image_format=ImageFormat(8, 3, mean=0.5, std=0.2, invert=True))[0] == 0, "bytes are the same"
    assert loaded(image_format=ImageFormat(6, 3))[0] == images
    assert loaded()[0] == 0, "each format is kept"
    changed = tmp_path / "set" / "train" / "n01532829" / "n0153282900000000.jpg"
    before = loaded()[1]
    save(changed, pixels("other"))
    count, after = loaded()
    assert count == images
    assert not torch.equal(before, after)
    assert np.array_equal(after[0].numpy().transpose(1, 2, 0), pixels("other"))
    save(changed.with_name("new.jpg"), pixels("new"))
    assert len(loaded()[1]) == len(before) + 1
    changed.unlink()
    assert len(loaded()[1]) == len(before)
    assert len([*(tmp_path / "cache").iterdir()]) == 6, "what is kept is replaced, not added to"


def test_what_is_kept_for_one_split_is_not_taken_for_another(tmp_path: Path) -> None:
    image_sets.folders(tmp_path / "set", "train", "val", "test")
    others = {"train": "val", "val": "train", "test": "test"}
    lines = [f"{name},{others[split]}" for split, names in WORDNET.items() for name in names]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    cache, mine = str(tmp_path / "cache"), str(tmp_path / "mine.csv")
    for _ in range(2):
        assert table(tmp_path / "set", cache_dir=cache).read_pool("train").names == WORDNET["train"]
        assert table(tmp_path / "set", cache_dir=cache, split_file=mine).read_pool("train").names == WORDNET["val"]


@pytest.mark.parametrize("name", ["pickles of learn2learn", "LibFewShot"])
def test_the_second_start_reads_no_file_of_the_set(name: str, tmp_path: Path) -> None:
    make, classes, options = image_sets.SETS[name]
    make(tmp_path / "set")
    first = table(tmp_path / "set", cache_dir=str(tmp_path / "cache"), **options)
    first.prepare()
    wanted = first.sample("test", [1, 2], seed=0)
    for path in (tmp_path / "set").rglob("*.*"):
        if path.suffix in (".pkl", ".jpg"):  # another content, with the same size and time
            stat = path.stat()
            path.write_bytes(bytes(stat.st_size))
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = table(tmp_path / "set", cache_dir=str(tmp_path / "cache"), **options)
    again.prepare()
    assert {split: tuple(again.class_names(split)) for split in SPLITS} == classes
    assert all(map(torch.equal, tensors_of(again.sample("test", [1, 2], seed=0)), tensors_of(wanted)))


def test_copies_that_were_told_of_are_told_of_at_each_start(tmp_path: Path) -> None:
    image_sets.folders(tmp_path / "set", "train", "val", "test")
    save(tmp_path / "set" / "test" / "n01930112" / "new.jpg", pixels("n01532829", "n0153282900000000.jpg"))
    for _ in range(2):
        with pytest.warns(UserWarning, match="images: 1 stand in two classes, 1 of them in two splits"):
            table(tmp_path / "set", cache_dir=str(tmp_path / "cache"), copies="warn").load("train")
        with pytest.raises(ValueError, match="images: 1 stand in two classes, 1 of them in two splits"):
            table(tmp_path / "set", cache_dir=str(tmp_path / "cache")).load("train")


def held_open(path: Path) -> tuple[int, int]:
    """A process that opens a pool, looks at all of it, and waits: its number, and the pipe that ends it."""
    (ready, told), (waiting, ending) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(ending)
        pool = PackedPool(path).open()
        os.write(told, str(pool.pixels.numpy()[..., 0].sum()).encode())
        os.read(waiting, 1)
        os._exit(0)
    os.close(waiting)
    os.close(told)
    assert int(os.read(ready, 30)) > 0
    os.close(ready)
    return child, ending


def shared(process: int, path: Path) -> int:
    """The proportional part of a file that a process has in memory, in bytes."""
    total, inside = 0, False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        first, *rest = line.split()
        inside = line.endswith(str(path)) if not first.endswith(":") else inside
        total += int(rest[0]) << 10 if inside and first == "Pss:" else 0
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="tells of memory by /proc, as Linux has it")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("count", [pytest.param(100_000, marks=pytest.mark.slow), 1_000])
def test_two_processes_hold_a_pool_once_and_open_it_in_a_second(count: int, tmp_path: Path) -> None:
    stream, shape = torch.Generator().manual_seed(0), (500, 3, 84, 84)
    pieces = (torch.randint(0, 256, shape, dtype=torch.uint8, generator=stream) for _ in range(count // 500))
    path, names = tmp_path / "pool.safetensors", [f"{k}.png" for k in range(count)]
    write_pool(path, {f"class {k}": 100 for k in range(count // 100)}, shape[1:], pieces, names, "")
    holders = [held_open(path) for _ in range(2)]
    size, parts = path.stat().st_size, [shared(child, path) for child, _ in holders]
    for child, ending in holders:
        os.write(ending, b".")
        os.waitpid(child, 0)
        os.close(ending)
    assert sum(parts) == pytest.approx(size, rel=0.02), "together"
    assert max(parts) < 0.6 * size
    began = time.process_time()
    pool = PackedPool(path).open()
    assert time.process_time() - began < 1
    assert pool.called(count - 1) == (f"class {count // 100 - 1}", f"{count - 1}.png")
