"""Every published layout, rebuilt small: its classes, its splits and its images, to the byte."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import image_sets
import numpy as np
import pytest
from image_sets import BIRDS, IMAGES, SETS, WORDNET, folders, pixels, save

from litmaml.data import Episode, ImageFolderTasks, ImageFormat, ImageTable
from litmaml.data.shared_out import published_splits, read_split_file
from litmaml.tasks import SPLITS

Form = Literal["NFC", "NFD"]


def table(root: Path, **options: Any) -> ImageTable:
    settings: dict[str, Any] = {
        "image_format": ImageFormat(8, 3),
        "train": Episode(ways=2, shots=1, queries=2),
    } | options
    return ImageTable(str(root), **settings)


@pytest.mark.parametrize("name", SETS)
def test_a_layout_is_told_by_its_files_and_read_to_the_byte(name: str, tmp_path: Path) -> None:
    make, classes, options = SETS[name]
    make(tmp_path / "set")
    tasks = table(tmp_path / "set", **options)
    tasks.prepare()
    for split in SPLITS:
        tasks.load(split)
        assert sorted(tasks.class_names(split)) == sorted(classes[split])
        pool = tasks.read_pool(split)
        assert {*pool.counts.tolist()} == {IMAGES}
        for k, label in enumerate(pool.names):
            read = {pool.pixels[image].numpy().tobytes() for image in pool.members[k]}
            files = [f"{label}{image:08d}.jpg" for image in range(IMAGES)]
            assert read == {pixels(label, file).transpose(2, 0, 1).tobytes() for file in files}
    assert tasks.sample("train", [0, 1], seed=0).query.inputs.shape == (2, 4, 3, 8, 8)


def test_numbers_in_place_of_names_are_of_their_split(tmp_path: Path) -> None:
    image_sets.fc100_pickles(tmp_path)
    tasks = table(tmp_path, published="fc100")
    assert [*tasks.class_names("train")] == ["train 0", "train 1", "train 2"]
    assert [*tasks.class_names("test")] == ["test 0", "test 1"]
    tasks.load("train")


def test_the_birds_are_dealt_out_as_published_if_that_is_asked_for(tmp_path: Path) -> None:
    image_sets.cub(tmp_path)
    with pytest.raises(ValueError, match=r"split_file=cub: .* has no class 004\.Groove_billed_Ani, .* and 190 more"):
        table(tmp_path, published="cub").class_names("train")
    for split in SPLITS:
        for label in BIRDS[split]:
            assert read_split_file("cub")[label] == split
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"training": BIRDS["train"], "valid": BIRDS["val"], "novel": BIRDS["test"]}))
    tasks = table(tmp_path, split_file=str(mine))
    assert {split: tuple(tasks.class_names(split)) for split in SPLITS} == BIRDS
    tasks.load("val")
    pool = tasks.read_pool("val")
    wanted = pixels("044.Frigatebird/Frigatebird_0002_14.jpg").transpose(2, 0, 1)
    assert any(np.array_equal(image.numpy(), wanted) for image in pool.pixels)


def test_meta_album_is_dealt_out_by_chance_as_the_same_classes_in_folders_are(tmp_path: Path) -> None:
    image_sets.meta_album(tmp_path / "album")
    for names in BIRDS.values():
        for name in names:
            for k in range(IMAGES):
                save(tmp_path / "folders" / name / f"{k}.png", pixels(name, k))
    album = table(tmp_path / "album", split=(3, 2, 2))
    same = ImageFolderTasks(str(tmp_path / "folders"), split=(3, 2, 2))
    for split in SPLITS:
        assert album.class_names(split) == same.class_names(split)
        album.load(split)


def test_a_list_has_columns_of_any_name_and_splits_in_it(tmp_path: Path) -> None:
    lines = ["id\tpicture\tkind\tpart"]
    for split, part in zip(SPLITS, ("Training", "valid", "TEST"), strict=True):
        for name in WORDNET[split]:
            for k in range(IMAGES):
                save(tmp_path / "photos" / f"{name} {k}.png", pixels(name, k))
                lines.append(f"{k}\tphotos/{name} {k}.png\t{name}\t{part}")
    (tmp_path / "all.tsv").write_text("\n".join(lines))
    options = {"table": "all.tsv", "file_column": "picture", "label_column": "kind", "split_column": "part"}
    tasks = table(tmp_path, **options)
    assert {split: tuple(tasks.class_names(split)) for split in SPLITS} == WORDNET
    with pytest.raises(ValueError, match=r"label_column: .*all\.tsv has no column 'label'; it has id, picture, kin"):
        table(tmp_path, **options | {"label_column": "label"}).class_names("train")
    with pytest.raises(ValueError, match=r"file_column: .* has no column of a usual name .*; set file_column to"):
        table(tmp_path, table="all.tsv", label_column="kind").class_names("train")
    (tmp_path / "all.tsv").write_text("\n".join([*lines[:-1], lines[-1].replace("TEST", "practice")]))
    with pytest.raises(ValueError, match=r"split_column=part: .*all\.tsv has 'practice' in it, which is no split"):
        table(tmp_path, **options).class_names("train")


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_files_and_classes_are_found_in_either_form_of_unicode(form: Form, other: Form, tmp_path: Path) -> None:
    lines = ["filename,label"]
    for name in ("Caf\u00e9", "M\u00fcsli"):
        for k in range(IMAGES):
            save(tmp_path / "images" / unicodedata.normalize(form, f"{name} {k}.png"), pixels(name, k))
            lines.append(unicodedata.normalize(other if k else form, f"{name} {k}.png,{name}"))
    (tmp_path / "train.csv").write_text("\n".join(lines), encoding="utf-8")
    tasks = table(tmp_path)
    tasks.load("train")
    assert tasks.read_pool("train").counts.tolist() == [IMAGES, IMAGES]


def test_files_that_a_list_names_and_are_not_there_are_counted(tmp_path: Path) -> None:
    image_sets.libfewshot(tmp_path)
    for path in sorted((tmp_path / "images").glob("n01532829*"))[:2]:
        path.unlink()
    message = r"train\.csv: 2 of 9 images are not there: n0153282900000000\.jpg, n0153282900000001\.jpg; they belong in"
    with pytest.raises(ValueError, match=message):
        table(tmp_path).class_names("train")


@pytest.mark.parametrize("label", ["n01532829", "another"])
def test_an_image_that_a_list_names_twice_is_told(tmp_path: Path, label: str) -> None:
    image_sets.libfewshot(tmp_path)
    with (tmp_path / "train.csv").open("a") as file:
        file.write(f"n0153282900000000.jpg,{label}\nimages/n0153282900000000.jpg,{label}\n")
    message = r"train\.csv: 1 images are named more than once: n0153282900000000\.jpg; name each once, in one class$"
    with pytest.raises(ValueError, match=message):
        table(tmp_path).class_names("train")


def test_a_list_of_a_stranger_names_no_file_elsewhere(tmp_path: Path) -> None:
    save(tmp_path / "secret.png", pixels("secret"))
    (tmp_path / "set" / "images").mkdir(parents=True)
    for k, name in enumerate(("../secret.png", "../../secret.png", str(tmp_path / "secret.png"))):
        (tmp_path / "set" / "train.csv").write_text(f"filename,label\n{name},a\n{name},a\n")
        with pytest.raises(ValueError, match="2 of 2 images are not there"):
            table(tmp_path / "set").class_names("train")
        assert k < 3


def test_splits_in_files_are_compared_with_the_published_ones(tmp_path: Path) -> None:
    image_sets.cifar_fs_processed(tmp_path)
    message = r"published=fc100: \d classes are in another split than published, such as \w+ in \w+, published in \w+"
    with pytest.raises(ValueError, match=message):
        table(tmp_path, published="fc100").class_names("train")
    image_sets.learn2learn_pickles(tmp_path / "pickles")
    path = tmp_path / "pickles" / "mini-imagenet-cache-train.pkl"
    path.write_bytes(path.read_bytes().replace(b"n01532829", b"n01930112"))
    with pytest.raises(ValueError, match=r"published=mini_imagenet: 1 classes .* n01930112 in train, published in t"):
        table(tmp_path / "pickles", published="mini_imagenet").class_names("train")


def test_published_splits_are_those_of_the_papers() -> None:
    sizes = {name: [[*read_split_file(name).values()].count(split) for split in SPLITS] for name in published_splits()}
    assert sizes == {
        "cifar_fs": [64, 16, 20],
        "cub": [140, 30, 30],
        "fc100": [60, 20, 20],
        "mini_imagenet": [64, 16, 20],
    }
    assert {*read_split_file("cifar_fs")} == {*read_split_file("fc100")}, "both are all of CIFAR-100"
    assert sorted(int(name[:3]) for name in read_split_file("cub")) == [*range(1, 201)]
    fc100 = read_split_file("fc100")
    for together in (
        ("maple_tree", "oak_tree", "palm_tree"),
        ("baby", "boy", "girl", "man"),
        ("bear", "lion"),
    ):
        assert len({fc100[name] for name in together}) == 1, "a superclass is in one split"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"filename,label\n\xff\xfe,a", r"table=.*train\.csv is not in UTF-8 .*; save it as CSV in UTF-8"),
        (b"filename,label\n" + b"x" * 200_000 + b",a", r"table=.*train\.csv is no CSV file \(field larger .*; mend it"),
        (b"filename,label\n,a\n,a", r"train\.csv: 2 of 2 images are not there: , ; they belong in"),
        (b"filename,label\na.png,b\nc.png", r"table=.*train\.csv: line 3 has 1 columns, not 2: mend it"),
    ],
)
def test_a_damaged_list_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        table(tmp_path).class_names("train")


def _flat(root: Path) -> None:
    save(root / "a.png", pixels("a"))


def _images_of_another(root: Path) -> None:
    image_sets.libfewshot(root.parent)


def _archive(root: Path) -> None:
    root.write_bytes(b"PK")


def _two_sets(root: Path) -> None:
    image_sets.fc100_pickles(root)
    for path in [*root.iterdir()]:
        path.with_name(path.name.replace("FC100", "CIFAR_FS")).write_bytes(path.read_bytes())


def _two_spellings(root: Path) -> None:
    folders(root, "train", "val", "test")
    (root / "val").rename(root / "validation")
    folders(root, "train", "val")


def _half_birds(root: Path) -> None:
    image_sets.cub(root)
    path = root / "CUB_200_2011" / "image_class_labels.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def _odd_csv(root: Path) -> None:
    image_sets.libfewshot(root)
    (root / "val.csv").write_text("a,b\n1,2\n")


def _missing_folder(root: Path) -> None:
    image_sets.cifar_fs(root)
    (root / "cifarfs" / "cifar100" / "splits" / "bertinetto" / "val.txt").write_text("beaver\ncamel\nunicorn\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_flat, r"in no layout that is known; it has a\.png\. Known are .*train\.csv, val\.csv.*CLASS/\*\.png"),
        (_images_of_another, r"The folder above is a list of images for each split.*: set root to"),
        (_archive, r"is a file; unpack it, and set root to the folder"),
        (lambda root: root.mkdir(), r"in no layout that is known; it has nothing in it"),
        (_two_sets, r"has the pickles of 2 sets \(CIFAR_FS, FC100\); move those of one"),
        (_two_spellings, r"val and validation are both for the split val; remove or rename one"),
        (_half_birds, r"images\.txt, image_class_labels\.txt, classes\.txt do not fit together"),
        (_missing_folder, r"val\.txt names classes that .*data has no folder of: unicorn"),
        (_odd_csv, r"in no layout that is known; it has images/, test\.csv, train\.csv, val\.csv"),
    ],
)
def test_what_is_in_no_layout_is_told_what_to_do(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    make(root)
    with pytest.raises(ValueError, match=message):
        table(root).class_names("train")


def test_folders_of_classes_alone_are_no_place_for_lists(tmp_path: Path) -> None:
    image_sets.meta_album(tmp_path)
    with pytest.raises(ValueError, match=r"is one list of all images, as of Meta-Album, .* set data\.tasks to litmaml"):
        ImageFolderTasks(str(tmp_path)).class_names("train")


def test_arguments_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"published: there is no published split of this name, got 'cup'; there are"):
        table(tmp_path, published="cup")
    with pytest.raises(ValueError, match=r"published, split_file: only one of them can say it, got 'cub' and 'x.csv'"):
        table(tmp_path, published="cub", split_file="x.csv")
    image_sets.fc100_pickles(tmp_path)
    with pytest.raises(ValueError, match=r"split_file=fc100: .* has a pickle for each split already; leave split_file"):
        table(tmp_path, split_file="fc100").class_names("train")


def test_what_is_typed_in_vain_is_refused(tmp_path: Path) -> None:
    image_sets.fc100_pickles(tmp_path / "pickles")
    folders(tmp_path / "folders", "train", "val", "test")
    for name in ("pickles", "folders"):
        with pytest.raises(ValueError, match=r"label_column: root=.* is \w+.*, without such columns, got 'kind'; "):
            table(tmp_path / name, label_column="kind").class_names("train")
        with pytest.raises(FileNotFoundError, match=r"table=all\.csv: there is no such file in "):
            table(tmp_path / name, table="all.csv").class_names("train")


def test_training_and_validation_folders_alone_are_enough_to_train(tmp_path: Path) -> None:
    folders(tmp_path, "train", "val")
    tasks = table(tmp_path)
    tasks.prepare()
    tasks.load("train")
    tasks.load("val")
    with pytest.raises(ValueError, match=r"train\.ways: the split test has 0 classes"):
        tasks.load("test")


def test_both_parts_of_a_set_split_by_image_are_pooled_by_a_split_file(tmp_path: Path) -> None:
    for part, numbers in (("train", range(2)), ("val", range(2, 3))):
        for name in (name for names in WORDNET.values() for name in names):
            for k in numbers:
                save(tmp_path / "set" / part / name / f"{k}.png", pixels(name, k))
    with pytest.raises(ValueError, match="each class needs at least 2 images"):
        table(tmp_path / "set").load("train")
    lines = [f"{name},{split}" for split, names in WORDNET.items() for name in names]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    tasks = table(tmp_path / "set", split_file=str(tmp_path / "mine.csv"))
    assert tuple(tasks.class_names("train")) == WORDNET["train"]
    assert tasks.read_pool("test").counts.tolist() == [3, 3]
