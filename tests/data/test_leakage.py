"""An image that stands twice: refused across splits and classes, told of within a class, and nothing else."""

from __future__ import annotations

import os
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_tasks import Numbered
from PIL import Image

from litmaml.data import Episode, Glyphs, ImageFolderTasks, ImageFormat, ImagePool, ImageTasks, Omniglot
from litmaml.data.leakage import copies, fingerprints, prints_of, twins
from litmaml.tasks import SPLITS, Split


def picture(*seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of four images in each split."""
    for k in range(6):
        folder = tmp_path / "images" / SPLITS[k // 2] / f"class{k}"
        folder.mkdir(parents=True)
        for image in range(4):
            picture(k, image).save(folder / f"{image}.png")
    return tmp_path / "images"


def tasks(root: Path, **options: object) -> ImageFolderTasks:
    settings = {"image_format": ImageFormat(6, 3), "train": Episode(ways=2, queries=2)} | options
    return ImageFolderTasks(str(root), **settings)  # type: ignore[arg-type]


def load(root: Path, *splits: Split, **options: object) -> None:
    folder = tasks(root, **options)
    for split in splits or SPLITS:
        folder.load(split)


def test_a_folder_without_copies_is_taken(root: Path) -> None:
    load(root)


@pytest.mark.parametrize("loaded", [("train",), ("val",), ("test",)])
def test_the_same_file_in_two_splits_is_refused_whichever_is_loaded(root: Path, loaded: tuple[Split, ...]) -> None:
    shutil.copy(root / "train" / "class0" / "2.png", root / "test" / "class5" / "other name.png")
    with pytest.raises(ValueError, match=r"images: 1 stand in two classes, 1 of them in two splits: ") as caught:
        load(root, *loaded)
    for part in (
        "train/class0/2.png (class0, train)",
        "test/class5/other name.png (class5, test)",
        "set copies to warn",
    ):
        assert part in str(caught.value)


def test_the_same_pixels_in_another_file_are_found_among_what_is_loaded(root: Path) -> None:
    picture(0, 2).save(root / "val" / "class3" / "again.bmp")
    with pytest.raises(ValueError, match=r"1 of them in two splits: .*class0/2\.png .* and .*class3/again\.bmp"):
        load(root, "train", "val")


def test_an_image_in_two_classes_of_a_split_is_refused(root: Path) -> None:
    picture(0, 2).save(root / "train" / "class1" / "again.bmp")
    with pytest.raises(ValueError, match=r"images: 1 stand in two classes, 0 of them in two splits: "):
        load(root, "train")


def test_a_class_under_two_names_is_refused_by_links(root: Path) -> None:
    (root / "val" / "linked").symlink_to(root / "train" / "class0", target_is_directory=True)
    message = r"images: 4 stand .* 4 of them in two splits: .*0\.png .*1\.png .*2\.png .*; and 1 more\. Results"
    with pytest.raises(ValueError, match=message):
        load(root, "val")


def test_a_refusal_is_repeated(root: Path) -> None:
    picture(0, 2).save(root / "train" / "class1" / "again.bmp")
    folder = tasks(root)
    for _ in range(2):
        with pytest.raises(ValueError, match="stand in two classes"):
            folder.load("train")


def test_a_published_set_can_be_used_as_it_is_and_the_copies_are_counted(root: Path) -> None:
    picture(0, 2).save(root / "train" / "class1" / "again.bmp")
    with pytest.warns(UserWarning, match=r"images: 1 stand in two classes"):
        load(root, "train", copies="warn")
    with pytest.raises(ValueError, match="copies must be 'refuse' or 'warn', got 'ignore'"):
        tasks(root, copies="ignore")


def test_copies_within_a_class_are_counted_and_told_of(root: Path) -> None:
    for k in range(2):
        picture(0, 0).save(root / "train" / "class0" / f"again{k}.bmp")
    with pytest.warns(UserWarning, match=r"images: 2 of 10 are copies of another one of their class: .*0\.png"):
        load(root, "train")


def test_one_copy_among_very_many_images_is_no_matter() -> None:
    class Many(Numbered):
        def read_pool(self, split: Split) -> ImagePool:
            pixels = torch.arange(4002).view(-1, 1, 1, 1).expand(-1, 1, 1, 2).clone()
            pixels[..., 1] //= 256
            pixels[1] = pixels[0]
            return ImagePool.of((pixels % 256).to(torch.uint8), torch.arange(4002) % 2001, self.class_names(split))

    pool = Many(classes=2001, train=Episode(ways=2, queries=1))
    pixels = pool.read_pool("train").pixels
    assert len({*fingerprints(pixels)}) == 4001
    with pytest.raises(ValueError, match=r"image 0 \(train0, train\) and image 0 \(train1, train\)"):
        pool.load("train")

    class Within(Many):
        def read_pool(self, split: Split) -> ImagePool:
            pool = super().read_pool(split)
            return ImagePool.of(pool.pixels, torch.arange(4002) // 2, pool.names)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Within(classes=2001, train=Episode(ways=2, queries=1)).load("train")


def test_fingerprints_are_equal_for_equal_bytes_alone() -> None:
    examples = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0000002]])
    marks = fingerprints(examples)
    assert marks[0] == marks[2]
    assert len({*marks}) == 3
    assert fingerprints(examples.T.contiguous().T) == marks
    assert copies({}, marks, [(k,) for k in range(4)]) == [((0,), (2,))]


def test_twins_are_the_copies_also_where_marks_begin_alike() -> None:
    stream = np.random.default_rng(0)
    for count in (0, 1, 2, 300):
        examples = torch.from_numpy(stream.integers(0, 12, (count, 2), dtype=np.uint8))
        marks = prints_of(examples).copy()
        if count:
            marks[::3, :8] = 7  # as if these were alike at their beginning
        rows = [(k,) for k in range(count)]
        wanted = [(first[0], again[0]) for first, again in copies({}, [mark.tobytes() for mark in marks], rows)]
        assert twins(marks) == wanted
        assert count < 300 or len(wanted) > 100


def test_names_that_differ_in_case_alone_are_told_of(root: Path) -> None:
    (root / "val" / "class3").rename(root / "val" / "CLASS0")
    with pytest.warns(UserWarning, match=r"the classes class0 \(train\) and CLASS0 \(val\) differ in case only"):
        load(root, "train")


def test_names_that_look_the_same_are_one_class(root: Path) -> None:
    (root / "val" / "class3").rename(root / "val" / "Cafe\u0301")
    (root / "train" / "class0").rename(root / "train" / "Caf\u00e9")
    with pytest.raises(ValueError, match="splits train and val share 1 classes: Caf\u00e9"):
        load(root, "train")


def test_a_split_left_without_classes_is_told_what_to_do(tmp_path: Path) -> None:
    for k in range(3):
        (tmp_path / f"class{k}").mkdir()
        for image in range(4):
            picture(k, image).save(tmp_path / f"class{k}" / f"{image}.png")
    with pytest.raises(ValueError, match=r"train\.ways: the split val has 0 classes, got 2; give the split more"):
        load(tmp_path, "val")
    with pytest.raises(ValueError, match="split: has to be three positive shares"):
        tasks(tmp_path, split=(float("inf"), 1, 1))


def test_no_picture_of_the_letters_stands_twice(cache_dir: Path) -> None:
    letters = Glyphs(cache_dir=str(cache_dir))
    seen: dict[bytes, tuple[Split, int]] = {}
    for split in SPLITS:
        pool = letters.read_pool(split)
        examples = [(split, k) for k in range(len(pool.pixels))]
        assert not copies(seen, fingerprints(pool.pixels), examples)


def different(tasks: ImageTasks) -> int:
    """How many different images the splits have that are loaded."""
    return len({mark for split in SPLITS for mark in fingerprints(tasks._pools[split].pixels)})


@pytest.mark.slow
@pytest.mark.parametrize("split_by", ["character", "alphabet"])
def test_the_real_omniglot_is_taken(cache_dir: Path, omniglot: Path | None, split_by: str) -> None:
    if omniglot is None:
        pytest.skip("the real Omniglot is needed: set LITMAML_DATA to the folder that holds omniglot/")
    real = Omniglot(str(omniglot), split_by=split_by, cache_dir=str(cache_dir))  # type: ignore[arg-type]
    for split in SPLITS:
        real.load(split)
    assert different(real) == 32460 - 1, "two dots of Braille are the same at this size"


def test_real_photographs_are_taken(tmp_path: Path) -> None:
    packed = Path(os.environ.get("LITMAML_DATA", ""), "data", "grocery_96.zip")
    if not packed.is_file():
        pytest.skip("real photographs are needed: set LITMAML_DATA to the folder that holds data/grocery_96.zip")
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    folder = ImageFolderTasks(str(tmp_path / "grocery"), ImageFormat(28))
    for split in SPLITS:
        folder.load(split)
    assert different(folder) == 5421
