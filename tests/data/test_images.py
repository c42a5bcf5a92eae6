"""Files of every kind become the same bytes; files that are none are named."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from litmaml.data import ImageFormat, ImagePool, unpacking

GREY, COLOUR = ImageFormat(8), ImageFormat(8, channels=3)
# Left half black, right half white.
HALVES = np.where(np.arange(16) < 8, 0, 255).astype(np.uint8)[None].repeat(16, 0)


def halves(mode: str) -> Image.Image:
    return Image.fromarray(HALVES).convert(mode)


def clear_left(mode: str) -> Image.Image:
    """All black, and nothing of the left half to be seen."""
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 8, 16))
    return image if mode == "RGBA" else image.convert(mode)


def turned_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # has to be turned clockwise to stand upright
    stream = io.BytesIO()
    halves("RGB").rotate(90).save(stream, "PNG", exif=exif)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("image_format", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_mode_reads_the_same(tmp_path: Path, mode: str, image_format: ImageFormat) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    halves(mode).save(path)
    pixels = image_format.read(path)
    assert pixels.shape == (image_format.channels, 8, 8)
    assert pixels.dtype == torch.uint8
    assert (pixels[..., :3] < 8).all()
    assert (pixels[..., 5:] > 247).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    clear_left(mode).save(tmp_path / "image.png")
    pixels = GREY.read(tmp_path / "image.png")
    assert (pixels[..., :3] > 247).all()
    assert (pixels[..., 5:] < 8).all()


def test_a_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    image = Image.fromarray((HALVES > 0).astype(np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.save(tmp_path / "image.png", transparency=0)
    pixels = COLOUR.read(tmp_path / "image.png")
    assert (pixels[..., :3] > 247).all()
    assert (pixels[..., 5:] < 8).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x8080, dtype=np.uint16)).save(tmp_path / "image.png")
    assert (GREY.read(tmp_path / "image.png") == 0x80).all()
    assert (COLOUR.read(tmp_path / "image.png") == 0x80).all()


def test_exif_turns_the_image_upright(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(turned_by_exif())
    pixels = GREY.read(tmp_path / "image.png")
    assert (pixels[..., :3] < 8).all()
    assert (pixels[..., 5:] > 247).all()


def test_reducing_is_antialiased(tmp_path: Path) -> None:
    # Columns of one pixel in black and white: grey from afar.
    stripes = np.where(np.arange(64) % 2, 255, 0).astype(np.uint8)[None].repeat(64, 0)
    Image.fromarray(stripes).save(tmp_path / "image.png")
    assert ((GREY.read(tmp_path / "image.png").int() - 128).abs() < 12).all()


def broken(name: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(stream, "PNG")
    whole = bytearray(stream.getvalue())
    if name == "flipped":
        whole[60] ^= 0xFF
        whole[1000] ^= 0xFF
    return {"empty": b"", "text": b"no image\n", "cut": bytes(whole[:300]), "flipped": bytes(whole)}[name]


@pytest.mark.parametrize("name", ["empty", "text", "cut", "flipped"])
def test_what_is_no_image_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name} Ж.png"
    path.write_bytes(broken(name))
    with pytest.raises(ValueError, match=f"cannot read the image .*{name} Ж.png: "):
        GREY.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read the image .*nothing\.png"):
        GREY.read(tmp_path / "nothing.png")


@pytest.mark.parametrize("warned", ["error", "ignore"])
def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warned: str) -> None:
    halves("L").save(tmp_path / "bomb.png")
    with warnings.catch_warnings():
        warnings.simplefilter(warned)  # type: ignore[arg-type]
        monkeypatch.setattr(unpacking, "_MOST_BYTES", 99)
        with pytest.raises(ValueError, match=r"cannot read the image .*bomb\.png: .* pixels are too many"):
            GREY.read(tmp_path / "bomb.png")
        monkeypatch.undo()
        # Pillow warns above its limit, which says nothing, and refuses above twice that.
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
        GREY.read(tmp_path / "bomb.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
        with pytest.raises(ValueError, match=r"cannot read the image .*bomb\.png: Image size"):
            GREY.read(tmp_path / "bomb.png")


def test_an_open_file_is_called_by_its_given_name() -> None:
    with pytest.raises(ValueError, match="cannot read the image drawing 7: "):
        GREY.read(io.BytesIO(b"x"), "drawing 7")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size must be at least 1 pixel and at most 4096, got 0"),
        ({"size": 8, "channels": 4}, r"channels must be 1 \(grey\) or 3 \(colour\), got 4"),
        ({"size": 8, "std": 0.0}, "std must be positive, got 0.0"),
    ],
)
def test_wrong_formats_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFormat(**fields)  # type: ignore[arg-type]


def test_a_pool_sorts_images_by_class() -> None:
    pixels = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1)
    pool = ImagePool.of(pixels, [1, 0, 1, 2, 0, 2, 1], ["a", "b", "c"])
    assert len(pool) == 3
    assert pool.counts.tolist() == [2, 3, 2]
    assert [pool.members[k, : pool.counts[k]].tolist() for k in range(3)] == [[1, 4], [0, 2, 6], [3, 5]]


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (torch.zeros(4, 1, 2, 2), [0, 0, 1, 1], "pixels must be uint8"),
        (torch.zeros(4, 2, 2, dtype=torch.uint8), [0, 0, 1, 1], "pixels must be uint8"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), [0, 0, 1], "4 images and 3 labels"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), [0, 0, 1, 2], "indices of the 2 classes, got 2"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), [0, 0, 0, 1], r"at least 2 images, .* fewer: y \(1\)"),
    ],
)
def test_wrong_pools_are_refused(pixels: torch.Tensor, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImagePool.of(pixels, labels, ["x", "y"])
