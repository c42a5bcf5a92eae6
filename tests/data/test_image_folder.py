"""A user's own folder: how its classes are dealt out, and what is said about a bad one."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from litmaml.data import Episode, ImageFolderTasks, ImageFormat, TaskDataModule
from litmaml.tasks import SPLITS, numbers_of

NAMES = [f"class {k}" for k in range(8)] + ["Ж и я", "漢字"]
SMALL = ImageFormat(6)


def write_class(folder: Path, images: int = 4, suffix: str = ".png") -> None:
    folder.mkdir(parents=True)
    for k in range(images):
        shade = np.random.default_rng([k, *str(folder).encode()]).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        Image.fromarray(shade).save(folder / f"{k}{suffix}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        write_class(tmp_path / "images" / name)
    return tmp_path / "images"


def folder_names(folder: Path) -> list[str]:
    return [inner.name for inner in folder.iterdir()]


def folder_tasks(root: Path, **options: object) -> ImageFolderTasks:
    settings = {"image_format": SMALL, "train": Episode(ways=2, queries=2)} | options
    return ImageFolderTasks(str(root), **settings)  # type: ignore[arg-type]


def test_classes_are_dealt_out_by_shares_and_seed(root: Path) -> None:
    splits = {split: {*folder_tasks(root).class_names(split)} for split in SPLITS}
    assert [len(splits[split]) for split in SPLITS] == [6, 2, 2]
    assert set.union(*splits.values()) == {*NAMES}
    assert {split: {*folder_tasks(root).class_names(split)} for split in SPLITS} == splits
    others = [{*folder_tasks(root, split_seed=seed).class_names("train")} for seed in range(1, 6)]
    assert any(other != splits["train"] for other in others)
    shared = folder_tasks(root, split=(2, 1, 2))
    assert [len(shared.class_names(split)) for split in SPLITS] == [4, 2, 4]


@pytest.mark.parametrize("kind", ["json", "csv", "csv with titles"])
def test_classes_are_dealt_out_by_a_file(root: Path, tmp_path: Path, kind: str) -> None:
    wanted = {name: SPLITS[k % 3] for k, name in enumerate(NAMES)}
    path = tmp_path / f"splits.{kind[:4].strip()}"
    if kind == "json":
        path.write_text(json.dumps(wanted), encoding="utf-8")
    else:
        lines = ["class,split"] if kind == "csv with titles" else []
        lines += [f"{name},{split}" for name, split in wanted.items()]
        path.write_text("\n".join(lines), encoding="utf-8")
    tasks = folder_tasks(root, split_file=str(path))
    assert {name: split for split in SPLITS for name in tasks.class_names(split)} == wanted


@pytest.mark.parametrize("called", [SPLITS, ("Training", "valid", "Testing"), ("train_set", "Eval", "test images")])
def test_classes_are_dealt_out_by_folders(tmp_path: Path, called: tuple[str, ...]) -> None:
    for k, name in enumerate(NAMES):
        write_class(tmp_path / called[k % 3] / name)
    (tmp_path / "__MACOSX" / "class 0").mkdir(parents=True)
    tasks = folder_tasks(tmp_path)
    assert {name: split for split in SPLITS for name in tasks.class_names(split)} == {
        name: SPLITS[k % 3] for k, name in enumerate(NAMES)
    }
    write_class(tmp_path / called[2] / "class 0")
    with pytest.raises(ValueError, match=r"splits train and test share 1 classes: class 0\..*shared out by themselves"):
        folder_tasks(tmp_path).load("train")


@pytest.mark.parametrize("called", [("train", "test"), ("Training Set", "TESTING"), ("train",)])
def test_without_a_folder_for_validation_some_classes_of_training_are_taken(
    tmp_path: Path, called: tuple[str, ...]
) -> None:
    for k, name in enumerate(NAMES):
        write_class(tmp_path / called[k % 5 // 4 % len(called)] / name)
    given = {*folder_names(tmp_path / called[0])}
    with pytest.warns(UserWarning, match=rf"not what validation is: 2 of the {len(given)} classes of training are"):
        found = {split: {*folder_tasks(tmp_path).class_names(split)} for split in SPLITS}
    assert len(found["val"]) == 2
    assert found["train"] | found["val"] == given
    assert not found["train"] & found["val"]
    assert found["test"] == {*NAMES} - given
    with pytest.warns(UserWarning, match="are taken for it"):
        assert {*folder_tasks(tmp_path).class_names("val")} == found["val"]


def test_nothing_is_taken_for_validation_where_too_little_would_be_left(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    for k, name in enumerate(NAMES[:5]):
        write_class(tmp_path / ("train" if k < 3 else "test") / name)
    tasks = folder_tasks(tmp_path)
    assert [len(tasks.class_names(split)) for split in SPLITS] == [3, 0, 2]
    assert not recwarn.list


def test_images_beside_the_splits_are_named(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for split in SPLITS:
        for name in ("a class", "another"):
            write_class(tmp_path / split / f"{name} of {split}")
    (tmp_path / "notes").mkdir()
    folder_tasks(tmp_path, train=Episode(ways=2, queries=2)).load("train")
    assert not recwarn
    write_class(tmp_path / "holdout" / "a class")
    write_class(tmp_path / "more")
    with pytest.warns(
        UserWarning, match=r"root=.*: images in holdout, more, beside train, val, test, are left out; move"
    ):
        folder_tasks(tmp_path, train=Episode(ways=2, queries=2)).load("train")


def test_images_of_all_kinds_become_tasks(tmp_path: Path) -> None:
    suffixes = (".png", ".jpg", ".JPEG", ".bmp", ".webp", ".gif", ".tif")
    for k in range(6):
        for place, suffix in enumerate(suffixes):
            folder = tmp_path / f"class{k}"
            folder.mkdir(exist_ok=True)
            Image.new("RGB", (20, 10), (40 * k, 20 * place, 255)).save(folder / f"image{suffix}")
        (folder / "notes.txt").write_text("not an image")
        (folder / ".hidden.png").write_text("not an image")
    tasks = folder_tasks(
        tmp_path, image_format=ImageFormat(6, channels=3), train=Episode(ways=2, queries=6), split=(1, 1, 1)
    )
    with pytest.warns(
        UserWarning, match=r"root=.*: 6 files or folders are left out \(6 \.txt\), since images are files"
    ):
        tasks.load("train")
    sampled = tasks.render(tasks.sample("train", range(3), 0))
    assert sampled.query.inputs.shape == (3, 12, 3, 6, 6)
    assert (sampled.query.inputs[:, :, 2] > 0.9).all()
    assert tasks.read_pool("val").counts.tolist() == [len(suffixes)] * 2


def test_the_data_module_serves_it(root: Path) -> None:
    module = TaskDataModule(folder_tasks(root), meta_batch=2, train_tasks=4)
    module.prepare_data()
    module.setup("fit")
    assert [numbers_of(batch).tolist() for batch in module.train_dataloader()] == [[0, 1], [2, 3]]


def test_what_other_programs_leave_and_empty_folders_are_named_and_left_out(root: Path) -> None:
    before = {split: [*folder_tasks(root).class_names(split)] for split in SPLITS}
    for inner in ("__MACOSX/class 0", "@eaDir", "class 1/@eaDir", "nothing at all", "текст"):
        (root / inner).mkdir(parents=True)
    for file in ("__MACOSX/class 0/0.png", "@eaDir/0.png", "class 1/@eaDir/0.png", "текст/a.txt"):
        (root / file).write_text("no image")
    tasks = folder_tasks(root)
    message = (
        r"6 files or folders are left out \(3 of other programs, 1 \.txt, 1 empty folder, 1 other folder\).*@eaDir.*"
        "__MACOSX.*class 1/@eaDir.*nothing at all.*текст and 1 more"
    )
    with pytest.warns(UserWarning, match=message):
        assert {split: [*tasks.class_names(split)] for split in SPLITS} == before
    tasks.load("train")


def test_a_class_of_one_image_is_refused(root: Path) -> None:
    write_class(root / "lonely", images=1)
    with pytest.raises(ValueError, match=r"at least 2 images .*; with one only: lonely"):
        folder_tasks(root).load("train")


@pytest.mark.parametrize(("classes", "ways"), [(25, (5, 5, 5)), (12, (5, 3, 2)), (6, (2, 2, 2))])
def test_tasks_have_as_many_classes_as_their_split(tmp_path: Path, classes: int, ways: tuple[int, ...]) -> None:
    for k in range(classes):
        write_class(tmp_path / f"class {k}", images=2)
    tasks = folder_tasks(tmp_path, train=Episode(shots=1, queries=1))
    for split, expected in zip(SPLITS, ways, strict=True):
        if expected < 5:
            with pytest.warns(UserWarning, match=f"split {split} has {expected} classes, so its tasks are {expected}-"):
                tasks.load(split)
        else:
            tasks.load(split)
        assert tasks.sample(split, [0], 0).query.targets.shape == (1, expected)
        assert tasks.describe(split)["ways"] == expected


def test_a_number_of_classes_that_was_said_is_kept(root: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.ways: the split val has 2 classes, got 5; choose at most 2"):
        folder_tasks(root, train=Episode(ways=5, queries=2)).load("val")
    with pytest.raises(ValueError, match=r"test\.ways: the split val has 2 classes, got 3; choose at most 2"):
        folder_tasks(root, train=Episode(queries=2), test=Episode(ways=3)).load("val")


def test_unreadable_images_are_left_out_counted_and_named(root: Path) -> None:
    first, second = folder_tasks(root).class_names("train")[:2]
    (root / first / "1.png").write_text("text")
    (root / second / "0.png").write_bytes(b"")
    message = r"root=.*: 2 of 24 images of the split train cannot be read: .*1\.png, .*0\.png; mend .*left out"
    for _ in ("read", "kept"):
        tasks = folder_tasks(root)
        with pytest.warns(UserWarning, match=message):
            tasks.load("train")
        pool = tasks.read_pool("test")
        assert (len(pool.pixels), len(pool.files)) == (8, 8)
        sampled = tasks.sample("train", range(20), 0)
        assert sampled.query.targets.shape == (20, 4)
    with pytest.raises(ValueError, match=r"2 of 24 images of the split train cannot be read: .*; mend or remove them$"):
        folder_tasks(root, unreadable="refuse").load("train")
    for k in (0, 2):
        (root / first / f"{k}.png").write_text("text")
    with pytest.raises(ValueError, match=rf"at least 2 images .*; with one only: {first}"):
        folder_tasks(root).load("train")


def test_unreadable_images_are_all_named(root: Path) -> None:
    tasks = folder_tasks(root, unreadable="refuse")
    first, second = tasks.class_names("train")[:2]
    (root / first / "1.png").write_text("text")
    (root / second / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="2 images of the split train cannot be used") as caught:
        tasks.load("train")
    assert str(root / first / "1.png") in str(caught.value)
    assert str(root / second / "0.png") in str(caught.value)
    tasks.load("test")


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"root=.*nowhere: there is no such folder"):
        folder_tasks(tmp_path / "nowhere").load("train")
    with pytest.raises(ValueError, match=r"no class folders: images belong in .*CLASS.*; .*ImageTable"):
        folder_tasks(tmp_path).load("train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.json", '{"class 0": "train"', "is no JSON object of splits by class"),
        ("s.json", '["class 0"]', "is no JSON object of splits by class"),
        ("s.json", '{"class 0": "practice"}', "expected a class and one of train, val, test, got .*practice"),
        ("s.json", '{"class 0": "train", "class 0": "val"}', "the class class 0 to the splits train and val"),
        ("s.csv", "class 0,train\nclass 0,val", "gives the class class 0 to the splits train and val"),
        ("s.csv", "class 0,train\nclass 1", "expected a class and one of train, val, test, got .*class 1"),
        ("s.csv", "class 0,train\nclass 99,val", "has no class class 99"),
        ("s.csv", "class 0,train\nclass 1,val", "gives no split to the class class 2, class 3"),
    ],
)
def test_a_split_file_that_does_not_fit_is_refused(root: Path, name: str, content: str, message: str) -> None:
    path = root.parent / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        folder_tasks(root, split_file=str(path)).load("train")


def test_a_missing_split_file_is_named(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"split_file=.*no\.csv: there is no such file"):
        folder_tasks(root, split_file=str(root / "no.csv")).load("train")


@pytest.mark.parametrize("split", [(1, 0, 1), (0.5, 0.5), (1, -1, 1)])
def test_wrong_shares_are_refused(split: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="split: has to be three positive shares"):
        folder_tasks(Path(), split=split)


def test_the_home_folder_is_understood(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(folder_tasks(Path("~/images")).class_names("train")) == 6


def test_accents_written_in_another_way_change_no_split(tmp_path: Path) -> None:
    """Copied from a Mac the letter é can be two signs."""
    names = [f"Caf\u00e9 {k}" for k in range(10)]
    for form in ("NFC", "NFD"):
        for name in names:
            write_class(tmp_path / form / unicodedata.normalize(form, name))
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({name: SPLITS[k % 3] for k, name in enumerate(names)}), encoding="utf-8")
    for options in ({}, {"split_file": str(path)}):
        for split in SPLITS:
            one, other = (folder_tasks(tmp_path / form, **options).class_names(split) for form in ("NFC", "NFD"))
            assert [*one] == [unicodedata.normalize("NFC", name) for name in other]
            assert one != other


def test_of_very_many_unreadable_images_the_first_are_named(root: Path) -> None:
    tasks = folder_tasks(root)
    for k in range(30):
        (root / tasks.class_names("train")[0] / f"bad{k:02d}.png").write_text("text")
    with pytest.raises(ValueError, match="30 images of the split train cannot be used") as caught:
        folder_tasks(root, unreadable="refuse").load("train")
    assert str(caught.value).endswith("and 10 more")
    assert str(caught.value).count("cannot read the image") == 20
