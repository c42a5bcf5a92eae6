"""The embedded letters: whole scripts in one split each, nothing alike across splits, drawn once."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from litmaml.data import Episode, Glyphs
from litmaml.data import glyphs as module
from litmaml.data.cache import read_tensors
from litmaml.data.glyphs import ALIKE, FEWEST_FACES, SCRIPTS, likeness, script_of
from litmaml.tasks import SPLITS


@pytest.fixture(scope="module")
def glyphs(cache_dir: Path) -> Glyphs:
    tasks = Glyphs(cache_dir=str(cache_dir))
    tasks.prepare()
    return tasks


def test_every_split_has_letters_of_its_own_scripts(glyphs: Glyphs) -> None:
    least = {"train": 800, "val": 90, "test": 150}
    for split in SPLITS:
        names = glyphs.class_names(split)
        assert len(names) >= least[split]
        assert {script_of(name[0]) for name in names} == {*SCRIPTS[split]}
        assert all(unicodedata.category(name[0]).startswith("L") for name in names)
    scripts = [script for split in SPLITS for script in SCRIPTS[split]]
    assert len({*scripts}) == len(scripts) == 12


def extent(inked: torch.Tensor) -> torch.Tensor:
    """From the first to the last pixel with ink, (M,) of (M, 28)."""
    places = torch.arange(28)
    return places.where(inked, -1).amax(1) - places.where(inked, 28).amin(1) + 1


def test_images_are_black_on_white_in_four_to_twelve_faces(glyphs: Glyphs) -> None:
    for split in SPLITS:
        pool = glyphs.read_pool(split)
        assert pool.pixels.shape[1:] == (1, 28, 28)
        assert pool.counts.min() >= FEWEST_FACES
        assert pool.counts.max() <= 12
        assert (pool.pixels[..., 0, 0] == 255).all()
        ink = 255 - pool.pixels.int()
        assert (ink.flatten(1).max(1).values > 120).all(), "no face is blank"
        heights, widths = (extent(ink.squeeze(1).amax(axis) > 8) for axis in (2, 1))
        longer = torch.maximum(heights, widths)
        assert longer.min() >= 17
        assert longer.max() <= 20


def test_no_two_letters_look_alike(glyphs: Glyphs) -> None:
    kept = [name[0] for split in SPLITS for name in glyphs.class_names(split)]
    drawn = module._all_letters(Path(matplotlib.get_data_path(), "fonts", "ttf"))
    alike = likeness(kept, {letter: drawn[letter] for letter in kept})
    np.fill_diagonal(alike, 0)
    assert alike.max() <= ALIKE


@pytest.mark.parametrize("letters", ["AΑАꓮ", "Oօ", "hһ"])
def test_of_letters_that_look_the_same_one_is_kept(glyphs: Glyphs, letters: str) -> None:
    kept = {name[0] for split in SPLITS for name in glyphs.class_names(split)}
    assert len(kept & {*letters}) <= 1


def test_letters_are_drawn_once_and_then_read(glyphs: Glyphs, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(module, "draw_letters", refuse)
    again = Glyphs(cache_dir=str(cache_dir))
    for split in SPLITS:
        again.load(split)
        assert torch.equal(again.read_pool(split).pixels, glyphs.read_pool(split).pixels)
        assert again.class_names(split) == glyphs.class_names(split)


@pytest.fixture
def few_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The four upright and slanted Sans faces alone, to draw quickly."""
    monkeypatch.setattr(module, "FACES", module.FACES[:4])
    monkeypatch.setattr(module, "SCRIPTS", {"train": ("LISU",), "val": ("LAO",), "test": ("HEBREW",)})


@pytest.mark.usefixtures("few_faces")
def test_a_damaged_cache_is_drawn_anew(tmp_path: Path) -> None:
    Glyphs(cache_dir=str(tmp_path)).prepare()
    (kept,) = tmp_path.iterdir()
    whole = {name: tensor.clone() for name, tensor in read_tensors(kept)[0].items()}  # type: ignore[index]
    kept.write_bytes(kept.read_bytes()[:-100])
    assert read_tensors(kept) is None
    Glyphs(cache_dir=str(tmp_path)).prepare()
    assert [*tmp_path.iterdir()] == [kept]
    torch.testing.assert_close(read_tensors(kept)[0], whole)  # type: ignore[index]


@pytest.mark.usefixtures("few_faces")
def test_without_a_cache_folder_it_works_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    tasks = Glyphs(Episode(queries=2), cache_dir=str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot keep .*it will be made again"):
        tasks.prepare()
    assert tasks.sample("test", [0], 0).query.inputs["images"].shape == (1, 10, 1, 28, 28)


@pytest.mark.usefixtures("few_faces")
@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_the_cache_is_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    Glyphs().prepare()
    folder = tmp_path if variable == "XDG_CACHE_HOME" else tmp_path / ".cache"
    assert [file.suffix for file in (folder / "litmaml").iterdir()] == [".safetensors"]


def test_support_and_query_share_no_face(glyphs: Glyphs) -> None:
    for shots, queries in ((1, 15), (5, 5)):
        letters = Glyphs(Episode(shots=shots, queries=queries), cache_dir=glyphs.cache_dir)
        tasks = letters.sample("test", range(20), 0)
        for task in range(20):
            support = {image.numpy().tobytes() for image in tasks.support[0].inputs["images"][task]}
            assert not support & {image.numpy().tobytes() for image in tasks.query.inputs["images"][task]}


def test_unchanged_letters_are_not_asked_for_more_often_than_there_are_faces(glyphs: Glyphs) -> None:
    with pytest.raises(ValueError, match=r"shots \+ queries = 1 \+ 15 images .* these have fewer: "):
        Glyphs(affine=0.0, cache_dir=glyphs.cache_dir).load("test")


def test_fonts_that_are_gone_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matplotlib, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"DejaVuSans\.ttf"):
        Glyphs(cache_dir=str(tmp_path)).prepare()
