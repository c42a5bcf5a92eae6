"""The user's folders: what is read from them, and what is said where they cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from gratings import draw, grating
from PIL import Image

from litmaml.data.images import ImageFormat
from litmaml.finetuning.labelled_images import check_copies, find_images, read_query, read_support

FORMAT = ImageFormat(28)


def test_classes_are_sorted_and_labelled_by_their_folders(images: Path) -> None:
    support, names = read_support(str(images / "data"), FORMAT)
    assert names == sorted(names)
    assert {"Blaue Meise", "ворона", "鶴"} < set(names)
    assert support.inputs.shape == (12, 1, 28, 28)
    assert [names[k] for k in support.labels] == [file.parent.name for file in support.files]
    assert read_query(str(images / "flat"), names, FORMAT).targets is None
    query = read_query(str(images / "query"), names, FORMAT)
    assert [names[k] for k in query.labels] == [file.parent.name for file in query.files]


def test_a_query_may_lack_classes(images: Path, tmp_path: Path) -> None:
    _, names = read_support(str(images / "data"), FORMAT)
    draw(tmp_path, ["鶴"], each=2)
    assert read_query(str(tmp_path), names, FORMAT).labels.tolist() == [names.index("鶴")] * 2


def test_images_of_all_sizes_and_modes_look_the_same(tmp_path: Path) -> None:
    """RGBA, 16 bit, palette, one bit, JPEG, large and oblong: each as the grey original."""
    grey = grating(0.7, 0)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    kinds = {
        "grey.png": grey,
        "colour.png": grey.convert("RGB"),
        "transparent.png": grey.convert("RGBA"),
        "palette.png": grey.convert("P"),
        "grey alpha.png": grey.convert("LA"),
        "16 bit.png": deep,
        "photo.JPG": grey,
        "large.png": grey.resize((320, 320), Image.Resampling.BICUBIC),
        "oblong.png": grey.resize((64, 96), Image.Resampling.BICUBIC),
    }
    (tmp_path / "a").mkdir()
    for name, picture in kinds.items():
        if name.endswith("JPG"):
            picture.save(tmp_path / "a" / name, quality=98)
        else:
            picture.save(tmp_path / "a" / name)
    draw(tmp_path, ["b"], each=1)
    support, _ = read_support(str(tmp_path), FORMAT)
    assert len(support.files) == len(kinds) + 1
    original = FORMAT.to_float(FORMAT.read(tmp_path / "a" / "grey.png"))
    for file, found in zip(support.files[: len(kinds)], support.inputs, strict=False):
        assert float((found - original).abs().mean()) < 0.03, file.name


def nothing(folder: Path) -> None:
    folder.mkdir()


def loose(folder: Path) -> None:
    folder.mkdir()
    grating(0, 0).save(folder / "a.png")


def one_class(folder: Path) -> None:
    draw(folder, ["only"], each=3)


def no_images(folder: Path) -> None:
    draw(folder, ["a", "b"], each=0)


def one_empty(folder: Path) -> None:
    draw(folder, ["a", "b"], each=2)
    (folder / "leer").mkdir()
    (folder / "leer" / "notes.txt").write_text("nothing to see")


def text_as_png(folder: Path) -> None:
    draw(folder, ["a", "b"], each=2)
    (folder / "a" / "text.png").write_text("I am no picture")
    (folder / "b" / "cut.png").write_bytes((folder / "b" / "0.png").read_bytes()[:200])


def missing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (missing, FileNotFoundError, "data: there is no folder '.*mine'"),
        (nothing, ValueError, r"data: '.*mine' has no class folders; put the images of each class in a folder"),
        (loose, ValueError, r"data: '.*mine' has no class folders; .*mine/CLASS/image\.png"),
        (one_class, ValueError, "data: '.*mine' has one class only, 'only'; a classifier needs at least two"),
        (no_images, ValueError, r"data: without any image \(\.png, .*\) in '.*mine': a, b; add images"),
    ],
)
def test_what_cannot_be_adapted_to_is_named(
    make: Callable[[Path], None], error: type[Exception], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "mine")
    with pytest.raises(error, match=message):
        read_support(str(tmp_path / "mine"), FORMAT)


def test_folders_without_images_are_no_classes(tmp_path: Path) -> None:
    one_empty(tmp_path / "mine")
    (tmp_path / "mine" / "__MACOSX").mkdir()
    with pytest.warns(UserWarning, match=r"data: 3 files or folders are left out .*__MACOSX, .*leer, .*notes\.txt;"):
        _, names = read_support(str(tmp_path / "mine"), FORMAT)
    assert names == ["a", "b"]


def test_images_that_cannot_be_read_are_left_out_counted_and_named(tmp_path: Path) -> None:
    text_as_png(tmp_path / "mine")
    message = r"(?s)data: 2 of 6 images cannot be read and are left out; mend or remove them:.*text\.png.*cut\.png"
    with pytest.warns(UserWarning, match=message):
        support, _ = read_support(str(tmp_path / "mine"), FORMAT)
    assert support.labels.tolist() == [0, 0, 1, 1]
    assert [file.name for file in support.files] == ["0.png", "1.png"] * 2
    assert len(support.inputs) == 4
    with pytest.raises(ValueError, match=r"(?s)data: 2 of 6 images cannot be read; mend or remove them:.*cut\.png"):
        read_support(str(tmp_path / "mine"), FORMAT, "refuse")
    for file in (tmp_path / "mine" / "a").iterdir():
        file.write_text("I am no picture")
    refused = pytest.raises(ValueError, match="data: no image of a can be read; mend some")
    with pytest.warns(UserWarning, match="4 of 6"), refused:
        read_support(str(tmp_path / "mine"), FORMAT)


def test_a_query_that_does_not_fit_is_told_how(tmp_path: Path) -> None:
    draw(tmp_path / "odd", ["a", "zebra"], each=1)
    with pytest.raises(ValueError, match=r"query: no class of --data is called zebra; the classes are a, b\."):
        read_query(str(tmp_path / "odd"), ["a", "b"], FORMAT)
    draw(tmp_path / "both", ["a"], each=1)
    grating(0, 0).save(tmp_path / "both" / "x.png")
    with pytest.raises(ValueError, match=r"query: '.*both' has both images and folders"):
        read_query(str(tmp_path / "both"), ["a", "b"], FORMAT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"query: there is no image \(\.png, .*\) in '.*empty'"):
        read_query(str(tmp_path / "empty"), ["a", "b"], FORMAT)
    with pytest.raises(ValueError, match=r"images: there is no image \(\.png, .*\) in '.*empty'"):
        find_images(str(tmp_path / "empty"), "images")
    assert len(find_images(str(tmp_path / "both"), "images")) == 2
    assert torch.is_tensor(read_query(str(tmp_path / "odd"), ["a", "zebra"], FORMAT).targets)


def folders(tmp_path: Path, scored: Sequence[str]) -> tuple[Path, Path]:
    """Two classes of three images each to adapt to, and two further images in each of some classes."""
    for part, names, each, start in (("data", ["a", "b"], 3, 0), ("query", scored, 2, 10)):
        for k, name in enumerate(names):
            (tmp_path / part / name).mkdir(parents=True)
            for image in range(each):
                grating(0.3 + k, start + image).save(tmp_path / part / name / f"{image}.png")
    return tmp_path / "data", tmp_path / "query"


def check(data: Path, query: Path) -> None:
    support, names = read_support(str(data), FORMAT)
    check_copies(support, read_query(str(query), names, FORMAT), names)


def test_images_that_stand_once_are_taken(tmp_path: Path) -> None:
    check(*folders(tmp_path, ["a", "b"]))


def test_a_scored_image_that_was_adapted_to_is_refused(tmp_path: Path) -> None:
    data, query = folders(tmp_path, ["a", "b"])
    with Image.open(data / "b" / "1.png") as image:
        image.save(query / "b" / "again.bmp")
    message = r"query: 1 of 5 images stand in --data too: .*1\.png \(b, data\) and .*again\.bmp \(b, query\); the score"
    with pytest.raises(ValueError, match=message):
        check(data, query)


def test_an_image_in_two_classes_is_refused(tmp_path: Path) -> None:
    data, query = folders(tmp_path, ["a", "b"])
    (query / "a" / "again.png").write_bytes((query / "b" / "1.png").read_bytes())
    with pytest.raises(ValueError, match=r"query: 1 images stand in two classes: .*again\.png \(a, query\)"):
        check(data, query)
    (data / "b" / "again.png").write_bytes((data / "a" / "1.png").read_bytes())
    with pytest.raises(ValueError, match=r"data: 1 images stand in two classes: .*1\.png \(a, data\) and"):
        check(data, query)


def test_copies_within_a_class_are_told_of(tmp_path: Path) -> None:
    data, query = folders(tmp_path, ["a", "b"])
    (data / "a" / "again.png").write_bytes((data / "a" / "1.png").read_bytes())
    (query / "a" / "again.png").write_bytes((query / "a" / "1.png").read_bytes())
    with pytest.warns(UserWarning, match=r"data: 1 of 7 images are copies of another one of their class: .*1\.png"):
        check(data, query)


def test_an_image_without_a_label_may_be_one_that_was_adapted_to(tmp_path: Path) -> None:
    data, query = folders(tmp_path, [])
    query.mkdir()
    (query / "again.png").write_bytes((data / "a" / "1.png").read_bytes())
    check(data, query)


def test_names_are_one_in_either_form_of_unicode(tmp_path: Path) -> None:
    """Copied from a Mac the letter é can be two signs."""
    draw(tmp_path / "data", ["Caf\u00e9", "Mu\u0308sli"], each=2)
    draw(tmp_path / "query", ["Cafe\u0301", "M\u00fcsli"], each=1)
    support, names = read_support(str(tmp_path / "data"), FORMAT)
    query = read_query(str(tmp_path / "query"), names, FORMAT)
    assert [names[k] for k in query.labels] == [names[k] for k in support.labels[::2]]
    draw(tmp_path / "data", ["Cafe\u0301"], each=1)
    with pytest.raises(ValueError, match="data: two folders are called Caf\u00e9, with accents written in two ways"):
        read_support(str(tmp_path / "data"), FORMAT)


def test_files_that_are_taken_for_no_images_are_counted_and_named(tmp_path: Path) -> None:
    draw(tmp_path / "data", ["a", "b"], each=2)
    for name in ("a/1.heic", "a/2.HEIC", "b/3.jfif", "b/.hidden", "b/Thumbs.db"):
        (tmp_path / "data" / name).write_bytes(b"")
    (tmp_path / "data" / "b" / "more").mkdir()
    message = (
        r"data: 4 files or folders are left out \(2 \.heic, 1 \.jfif, 1 empty folder\), since images are files that "
        r"end in \.png, .*: .*b/more, .*a/1\.heic, .*a/2\.HEIC, .*b/3\.jfif; convert those"
    )
    with pytest.warns(UserWarning, match=message):
        support, names = read_support(str(tmp_path / "data"), FORMAT)
    assert len(support.files) == 4
    with pytest.warns(UserWarning, match=r"query: 4 files"):
        read_query(str(tmp_path / "data"), names, FORMAT)
    draw(tmp_path / "photos", ["within"], each=1)
    for name in ("x.avif", "within/y.heic"):
        (tmp_path / "photos" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"images: 2 files or folders are left out \(1 \.avif, 1 \.heic\)"):
        assert len(find_images(str(tmp_path / "photos"), "images")) == 1
    draw(tmp_path / "else", ["deep"], each=1)
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "else", target_is_directory=True)
    for name in ("x.avif", "within/y.heic"):
        (tmp_path / "photos" / name).unlink()
    with pytest.warns(UserWarning, match=r"images: 1 files or folders are left out \(1 other folder\).*link"):
        assert len(find_images(str(tmp_path / "photos"), "images")) == 1
    assert len(find_images(str(tmp_path / "photos"), "images", follow_links=True)) == 2
