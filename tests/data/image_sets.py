"""The benchmarks' layouts, each rebuilt small in the form in which it is published."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from litmaml.tasks import SPLITS, Split

WORDNET = {
    "train": ("n01532829", "n01558993", "n01704323"),
    "val": ("n01855672", "n02091244"),
    "test": ("n01930112", "n01981276"),
}
"""Some classes of mini-ImageNet."""
CIFAR = {"train": ("apple", "bear", "bee"), "val": ("beaver", "camel"), "test": ("baby", "bed")}
"""Some classes of CIFAR-FS; "camel" and "bear" are in other splits of FC100."""
BIRDS = {
    "train": ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross"),
    "val": ("044.Frigatebird", "051.Horned_Grebe"),
    "test": ("008.Rhinoceros_Auklet", "009.Brewer_Blackbird"),
}
IMAGES = 3
"""Of each class."""


def pixels(*seed: object, size: int = 8) -> NDArray[np.uint8]:
    """One image."""
    return np.random.default_rng([*"/".join(map(str, seed)).encode()]).integers(0, 256, (size, size, 3), np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> None:
    """Write it as a PNG, whatever its suffix, so that it is read back to the byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "PNG")


def _rows(classes: dict[str, tuple[str, ...]]) -> list[tuple[str, str, str]]:
    """Split, class and file."""
    return [
        (split, name, f"{name}{k:08d}.jpg") for split, names in classes.items() for name in names for k in range(IMAGES)
    ]


def libfewshot(root: Path) -> None:
    """images/*.jpg and a CSV file for each split, as of Ravi and Larochelle."""
    for split in SPLITS:
        lines = [f"{file},{name}" for where, name, file in _rows(WORDNET) if where == split]
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.csv").write_text("\n".join(["filename,label", *lines]) + "\n")
    for _, name, file in _rows(WORDNET):
        save(root / "images" / file, pixels(name, file))


def easyfsl(root: Path) -> None:
    """images/CLASS/*.JPEG and a CSV file of class_name,image_name for each split."""
    for split in SPLITS:
        lines = [f"{name},{file}" for where, name, file in _rows(WORDNET) if where == split]
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{split}.csv").write_text("\n".join(["class_name,image_name", *lines]) + "\n")
    for _, name, file in _rows(WORDNET):
        save(root / "images" / name / file, pixels(name, file))


def meta_album(root: Path) -> None:
    """images/*.jpg, labels.csv and info.json."""
    names = [name for split in SPLITS for name in BIRDS[split]]
    lines = [f"{name}_{k}.jpg,{name},birds" for name in names for k in range(IMAGES)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels.csv").write_text("\n".join(["FILE_NAME,CATEGORY,SUPER_CATEGORY", *lines]) + "\n")
    (root / "info.json").write_text(json.dumps({"dataset_name": "BRD", "total_categories": len(names)}))
    for name in names:
        for k in range(IMAGES):
            save(root / "images" / f"{name}_{k}.jpg", pixels(name, k))


def cub(root: Path) -> None:
    """The folder that CUB_200_2011.tgz is unpacked to."""
    names = sorted(name for split in SPLITS for name in BIRDS[split])
    images = [f"{name}/{name[4:]}_{k:04d}_{7 * k}.jpg" for name in names for k in range(IMAGES)]
    folder = root / "CUB_200_2011"
    for file in images:
        save(folder / "images" / file, pixels(file))
    for name in ("attributes", "parts"):
        (folder / name).mkdir()
    labels = [1 + k // IMAGES for k in range(len(images))]
    for title, lines in {
        "images.txt": [f"{1 + k} {file}" for k, file in enumerate(images)],
        "image_class_labels.txt": [f"{1 + k} {label}" for k, label in enumerate(labels)],
        "classes.txt": [f"{1 + k} {name}" for k, name in enumerate(names)],
        "train_test_split.txt": [f"{1 + k} {k % 2}" for k in range(len(images))],
        "bounding_boxes.txt": [f"{1 + k} 0.0 0.0 8.0 8.0" for k in range(len(images))],
    }.items():
        (folder / title).write_text("\n".join(lines) + "\n")


def cifar_fs(root: Path) -> None:
    """The folder that learn2learn unpacks cifarfs.zip to, before it makes its own folders."""
    for split, name, file in _rows(CIFAR):
        save(root / "cifarfs" / "cifar100" / "data" / name / f"{file[:-4]}.png", pixels(name, file))
        lists = root / "cifarfs" / "cifar100" / "splits" / "bertinetto"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("\n".join(CIFAR[split]) + "\n")


def cifar_fs_processed(root: Path) -> None:
    """What learn2learn makes of it."""
    for split, name, file in _rows(CIFAR):
        save(root / "processed" / split / name / f"{file[:-4]}.png", pixels(name, file))


def _stacked(classes: dict[str, tuple[str, ...]], split: Split) -> tuple[NDArray[np.uint8], list[str]]:
    # One image of each class after the other: places are not in the order of classes.
    rows = sorted((row for row in _rows(classes) if row[0] == split), key=lambda row: row[2][-12:])
    return np.stack([pixels(name, file) for _, name, file in rows]), [name for _, name, _ in rows]


def learn2learn_pickles(root: Path) -> None:
    """mini-imagenet-cache-*.pkl, as numpy 1 and Python 3 wrote them."""
    root.mkdir(parents=True, exist_ok=True)
    for split, word in zip(SPLITS, ("train", "validation", "test"), strict=True):
        images, labels = _stacked(WORDNET, split)
        places = {name: [k for k, label in enumerate(labels) if label == name] for name in WORDNET[split]}
        content = pickle.dumps({"image_data": images, "class_dict": places}, protocol=2)
        (root / f"mini-imagenet-cache-{word}.pkl").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    (root / "mini-imagenet-bookkeeping-train.pkl").write_bytes(pickle.dumps({"labels": [0]}))


def _python_2(images: NDArray[np.uint8], labels: list[int], **more: dict[str, int]) -> bytes:
    """A dictionary of data and labels as Python 2 writes it by protocol 2: bytes are texts there."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value if len(value) > 255 else b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"K" + bytes([value])

    shape = b"(" + b"".join(map(number, images.shape)) + b"t"
    made = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85" + text(b"b") + b"\x87R"
    dtype = (
        b"cnumpy\ndtype\nq\x03"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = made + b"(K\x01" + shape + dtype + b"\x89" + text(images.tobytes()) + b"tb"
    parts = text(b"data") + array + text(b"labels") + b"](" + b"".join(map(number, labels)) + b"e"
    for name, numbers in more.items():
        parts += (
            text(name.encode()) + b"}(" + b"".join(text(key.encode()) + number(k) for key, k in numbers.items()) + b"u"
        )
    return b"\x80\x02}(" + parts + b"u."


def metaoptnet_pickles(root: Path) -> None:
    """miniImageNet_category_split_*.pickle, as Python 2 wrote them, with the further images of training classes."""
    root.mkdir(parents=True, exist_ok=True)
    for split, word in zip(SPLITS, ("train_phase_train", "val", "test"), strict=True):
        images, labels = _stacked(WORDNET, split)
        numbers = {name: k for k, name in enumerate(sorted({*labels}))}
        content = _python_2(images, [numbers[name] for name in labels], catname2label=numbers)
        (root / f"miniImageNet_category_split_{word}.pickle").write_bytes(content)
    for word in ("train_phase_val", "train_phase_test"):
        (root / f"miniImageNet_category_split_{word}.pickle").write_bytes(pickle.dumps("not to be read"))


def fc100_pickles(root: Path) -> None:
    """FC100_*.pickle: images and labels, which are numbers alone, by Python 2."""
    root.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        images, labels = _stacked(CIFAR, split)
        content = _python_2(images, [sorted({*labels}).index(name) for name in labels])
        (root / f"FC100_{split}.pickle").write_bytes(content)


def tiered_pickles(root: Path) -> None:
    """*_images_png.pkl, lists of the PNG files that OpenCV encoded to arrays, and *_labels.pkl."""
    folder = root / "tiered-imagenet"
    folder.mkdir(parents=True)
    for split in SPLITS:
        images, labels = _stacked(WORDNET, split)
        names = sorted({*labels})
        files: list[Any] = []
        for image in images:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            files.append(np.frombuffer(file.getvalue(), np.uint8)[:, None])
        (folder / f"{split}_images_png.pkl").write_bytes(pickle.dumps(files, protocol=2))
        numbers = np.array([names.index(name) for name in labels])
        content = {"label_specific": numbers, "label_general": numbers * 0, "label_specific_str": names}
        (folder / f"{split}_labels.pkl").write_bytes(pickle.dumps(content | {"label_general_str": ["bird"]}))


def folders(root: Path, *words: str) -> None:
    """A folder for each split, under the words that are given."""
    for split, word in zip(SPLITS, words, strict=False):
        for name in WORDNET[split]:
            for k in range(IMAGES):
                save(root / word / name / f"{name}{k:08d}.jpg", pixels(name, f"{name}{k:08d}.jpg"))


SETS: dict[str, tuple[Callable[[Path], None], dict[str, tuple[str, ...]], dict[str, Any]]] = {
    "LibFewShot": (libfewshot, WORDNET, {"published": "mini_imagenet"}),
    "easyfsl": (easyfsl, WORDNET, {"published": "mini_imagenet"}),
    "CIFAR-FS": (cifar_fs, CIFAR, {"published": "cifar_fs"}),
    "CIFAR-FS of learn2learn": (cifar_fs_processed, CIFAR, {"published": "cifar_fs"}),
    "pickles of learn2learn": (learn2learn_pickles, WORDNET, {"published": "mini_imagenet"}),
    "pickles of MetaOptNet": (metaoptnet_pickles, WORDNET, {"published": "mini_imagenet"}),
    "pickles of tiered-ImageNet": (tiered_pickles, WORDNET, {}),
    "folders": (lambda root: folders(root, "train", "val", "test"), WORDNET, {"published": "mini_imagenet"}),
    "folders of learn2learn": (lambda root: folders(root, "train", "validation", "test"), WORDNET, {}),
    "folders of LEAF": (lambda root: folders(root, "Training", "VALID", "Test"), WORDNET, {}),
    "folders of CloserLook": (lambda root: folders(root, "base", "val", "novel"), WORDNET, {}),
    "folders of meta-learning": (lambda root: folders(root, "meta-train", "meta_valid", "metatest"), WORDNET, {}),
}
"""How each is made, the classes of its splits, and what is set beside its folder."""
