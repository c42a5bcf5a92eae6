"""Omniglot from the archives or the folders that a user has, both splits, kept small in the cache."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from litmaml.data import Episode, Omniglot
from litmaml.data import omniglot as module
from litmaml.tasks import SPLITS

PARTS = {"images_background": (6, 12), "images_evaluation": (3, 5)}
"""A small Omniglot: alphabets and characters of each part."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expects the small Omniglot in place of the real one."""
    published = {part: ("0" * 32, characters) for part, (_, characters) in PARTS.items()}
    monkeypatch.setattr(module, "_PUBLISHED", published)
    monkeypatch.setattr(module, "_TEST_CHARACTERS", 6)
    monkeypatch.setattr(module, "_VAL_CHARACTERS", 4)
    monkeypatch.setattr(module, "_VAL_ALPHABETS", 2)


def write_tree(root: Path) -> None:
    number = 0
    for part, (alphabets, characters) in PARTS.items():
        for character in range(characters):
            number += 1
            folder = root / part / f"Alphabet_{character % alphabets}" / f"character{character:02d}"
            folder.mkdir(parents=True)
            for drawing in range(1, 21):
                paper = np.ones((105, 105), dtype=bool)
                paper[5 * number - 4 : 5 * number, : 5 * drawing] = False
                Image.fromarray(paper).save(folder / f"{number:04d}_{drawing:02d}.png")


def pack(root: Path, part: str) -> None:
    with zipfile.ZipFile(root / f"{part}.zip", "w") as archive:
        archive.writestr("__MACOSX/._x", "")
        for file in sorted((root / part).rglob("*"), reverse=True):
            archive.write(file, file.relative_to(root))
    shutil.rmtree(root / part)


def tasks(root: Path, **options: object) -> Omniglot:
    return Omniglot(str(root), cache_dir=str(root / "cache"), **options)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path, small: None) -> Path:
    write_tree(tmp_path)
    return tmp_path


@pytest.mark.parametrize("packed", [(), ("images_background",), ("images_background", "images_evaluation")])
def test_folders_and_archives_give_the_same_images(root: Path, packed: tuple[str, ...]) -> None:
    for part in packed:
        pack(root, part)
    omniglot = tasks(root, train=Episode(ways=2))
    assert sum(len(omniglot.class_names(split)) for split in SPLITS) == 17
    for split in SPLITS:
        pool = omniglot.read_pool(split)
        for k, name in enumerate(pool.names):
            alphabet, character = name.split("/")[1:]
            number = int(character[-2:]) + (1 if name.startswith("images_background") else 13)
            assert alphabet == f"Alphabet_{(number - 1) % 6 if number <= 12 else (number - 13) % 3}"
            images = pool.pixels[torch.from_numpy(pool.members[k])].float()
            rows = (255 - images).mean((0, 1, 3))
            centre = rows @ torch.arange(28.0) / rows.sum()
            assert abs(centre.item() - ((5 * number - 2) * 28 / 105 - 0.5)) < 0.1, name
            ink = (255 - images).sum((1, 2, 3))
            assert (ink.diff() > 0).all(), "drawings are in their order"


def test_the_split_by_alphabet_parts_whole_alphabets(root: Path) -> None:
    omniglot = tasks(root, split_by="alphabet", train=Episode(ways=2))
    names = {split: omniglot.class_names(split) for split in SPLITS}
    assert all(name.startswith("images_evaluation/") for name in names["test"])
    alphabets = {split: {name.rpartition("/")[0] for name in names[split]} for split in SPLITS}
    assert [len(alphabets[split]) for split in SPLITS] == [4, 2, 3]
    assert not alphabets["train"] & alphabets["val"]
    assert omniglot.describe("test")["split_by"] == "alphabet"


def test_the_second_start_reads_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tasks(root, train=Episode(ways=2))
    first.prepare()

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(module, "read_images", refuse)
    second = tasks(root, train=Episode(ways=2))
    second.prepare()
    for split in SPLITS:
        assert torch.equal(first.read_pool(split).pixels, second.read_pool(split).pixels)
    drawing = next((root / "images_background").rglob("*.png"))
    drawing.write_bytes(drawing.read_bytes() + b"more")
    with pytest.raises(AssertionError, match="decoded again"):
        tasks(root).prepare()


def test_another_archive_is_read_anew(root: Path) -> None:
    write_tree(root / "other")
    drawing = next((root / "other" / "images_background").rglob("*.png"))
    Image.new("1", (105, 105), 1).save(drawing)
    pools = []
    for folder in (root, root / "other"):
        for part in PARTS:
            pack(folder, part)
        omniglot = Omniglot(str(folder), train=Episode(ways=2), cache_dir=str(root / "cache"))
        pools.append(torch.cat([omniglot.read_pool(split).pixels for split in SPLITS]))
    assert (pools[0] != pools[1]).flatten(1).any(1).sum() == 1


def test_missing_files_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither the folder images_background .* set download"):
        tasks(tmp_path).load("train")


def test_other_contents_are_refused(root: Path) -> None:
    shutil.rmtree(root / "images_evaluation" / "Alphabet_1")
    with pytest.raises(ValueError, match=r"images_evaluation: .* 60 of 3 characters, not 20 of each of 5"):
        tasks(root).load("train")


@pytest.mark.parametrize("damage", ["no zip", "cut"])
def test_a_damaged_archive_is_named(root: Path, damage: str) -> None:
    pack(root, "images_background")
    archive = root / "images_background.zip"
    content = archive.read_bytes()
    archive.write_bytes(b"text" if damage == "no zip" else content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"images_background\.zip is damaged or no zip file"):
        tasks(root).load("train")


def test_a_changed_byte_in_an_archive_is_found(root: Path) -> None:
    pack(root, "images_background")
    archive = root / "images_background.zip"
    content = bytearray(archive.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"images_background\.zip is damaged: Bad CRC-32"):
        tasks(root).load("train")


def test_damaged_drawings_are_named(root: Path) -> None:
    drawing = root / "images_background" / "Alphabet_0" / "character00" / "0001_07.png"
    drawing.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"1 drawings of .* are damaged: .*character00/0001_07\.png"):
        tasks(root).load("train")


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split_by must be 'character' or 'alphabet', got 'letters'"):
        Omniglot(split_by="letters")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def real() -> Path:
    folder = Path(os.environ.get("LITMAML_DATA", ""), "omniglot")
    if "LITMAML_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("the real Omniglot is needed: set LITMAML_DATA to the folder that holds omniglot/")
    return folder


def test_the_real_one_has_its_characters_and_starts_fast_the_second_time(real: Path, cache_dir: Path) -> None:
    for sizes, split_by in (([1100, 100, 423], "character"), ([817, 147, 659], "alphabet")):
        omniglot = Omniglot(str(real), split_by=split_by, cache_dir=str(cache_dir))  # type: ignore[arg-type]
        omniglot.prepare()
        assert [len(omniglot.class_names(split)) for split in SPLITS] == sizes
        assert [len(omniglot.read_pool(split).pixels) for split in SPLITS] == [20 * size for size in sizes]
    again = Omniglot(str(real), cache_dir=str(cache_dir))
    start = time.perf_counter()
    again.prepare()
    again.load("train")
    assert time.perf_counter() - start < 2
    tasks = again.render(again.sample("train", range(16), seed=0))
    ink = tasks.query.inputs.mean().item()
    assert 0.05 < ink < 0.15, "ink is 1, paper 0"
