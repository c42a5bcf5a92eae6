"""Files of every kind become the same bytes; files that are none are named."""

from __future__ import annotations

import io
import os
import struct
import warnings
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageCms
from torch.utils._python_dispatch import TorchDispatchMode

from litmaml.data import ImageFormat, ImagePool, unpacking
from litmaml.data.affine import random_affine
from litmaml.data.eight_bits import flattening
from litmaml.data.images import read_images

GREY, COLOUR = ImageFormat(8), ImageFormat(8, channels=3)
FITS: tuple[Literal["crop", "squeeze"], ...] = ("crop", "squeeze")
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


def test_every_sixteen_bit_value_is_rounded_to_the_nearest_byte(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "image.png")
    pixels = ImageFormat(256).read(tmp_path / "image.png")
    assert (pixels[0].numpy() == np.rint(values / 257)).all()


RAMP = np.tile(np.linspace(0, 1, 8), (8, 1))
BYTES = np.rint(255 * RAMP)
BITS, COMPRESSION, PHOTOMETRIC, SAMPLE_FORMAT = 258, 259, 262, 339


def tiff(path: Path, values: np.ndarray, **changed: int) -> Path:
    """A TIFF of one grey channel as other programs write it, with any bits, number format and sense of white."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {BITS: 8 * values.itemsize, COMPRESSION: 1, PHOTOMETRIC: 1, SAMPLE_FORMAT: kind}
    tags |= {256: 8, 257: len(values), 273: 0, 277: 1, 278: len(values), 279: values.nbytes}
    tags |= {globals()[name]: value for name, value in changed.items()}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    path.write_bytes(header + entries + bytes(4) + values.tobytes())
    return path


def packed(values: np.ndarray) -> np.ndarray:
    """12-bit numbers, two in three bytes."""
    first, second = values.astype(int)[:, ::2], values.astype(int)[:, 1::2]
    parts = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return np.stack(parts, -1).reshape(len(values), -1).astype(np.uint8)


@pytest.mark.parametrize("image_format", [GREY, COLOUR], ids=["grey", "colour"])
def test_floats_from_0_to_1_are_black_to_white_in_every_image(tmp_path: Path, image_format: ImageFormat) -> None:
    for brightest in (1.0, 0.25):  # the second one is dark, not stretched
        path = tiff(tmp_path / "image.tif", (brightest * RAMP).astype("f4"))
        assert (image_format.read(path).numpy() == np.rint(255 * brightest * RAMP)).all()
    # What resampling leaves beyond the ends is within a rounding of them.
    path = tiff(tmp_path / "image.tif", (RAMP * 1.002 - 0.001).astype("f4"))
    assert (abs(image_format.read(path).numpy() - BYTES) <= 1).all()


@pytest.mark.parametrize("dtype", ["f4", "i4", "u4", "u2"])
@pytest.mark.parametrize("white", [255, 1000, 65535])
def test_white_says_the_scale_of_every_deep_kind(tmp_path: Path, dtype: str, white: int) -> None:
    given = ImageFormat(8, white=white)
    path = tiff(tmp_path / "image.tif", np.rint(white * RAMP).astype(dtype))
    assert (abs(given.read(path).numpy() - 255 * RAMP) <= 0.5 + 128 / white).all()
    dark = tiff(tmp_path / "dark.tif", np.rint(white * RAMP / 2).astype(dtype))
    assert (abs(given.read(dark).numpy() - 127.5 * RAMP) <= 0.5 + 128 / white).all()
    Image.fromarray(BYTES.astype("u1")).save(tmp_path / "eight.png")
    assert (given.read(tmp_path / "eight.png").numpy() == BYTES).all(), "it is not for 8-bit files"


def test_all_32_bits_are_read_without_a_sign_if_there_is_none(tmp_path: Path) -> None:
    path = tiff(tmp_path / "image.tif", (RAMP * (2**32 - 1)).astype("u4"))
    assert (abs(ImageFormat(8, white=2**32 - 1).read(path).numpy() - 255 * RAMP) <= 0.5).all()


def test_twelve_bits_are_scaled_by_their_own_white(tmp_path: Path) -> None:
    path = tiff(tmp_path / "image.tif", packed(np.rint(4095 * RAMP)), BITS=12)
    assert (abs(GREY.read(path).numpy() - 255 * RAMP) <= 0.6).all()


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_where_white_is_zero_the_image_is_inverted(tmp_path: Path, dtype: str) -> None:
    values = RAMP if dtype == "f4" else np.rint(RAMP * np.iinfo(dtype).max)
    path = tiff(tmp_path / "image.tif", values.astype(dtype), PHOTOMETRIC=0)
    assert (GREY.read(path).numpy() == 255 - BYTES).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            (255 * RAMP).astype("f4"),
            "from 0 to 255, and not from 0, black, to 1, white; set image_format.white",
        ),
        ((65535 * RAMP).astype("f4"), "values go from 0 to 65535, and not from 0, black, to 1, white"),
        ((RAMP - 0.5).astype("f4"), r"values go from -0\.5 to 0\.5, and not from 0"),
        (np.where(RAMP > 0.9, np.nan, RAMP).astype("f4"), "some of its values are NaN or infinite"),
        (np.where(RAMP > 0.9, np.inf, RAMP).astype("f4"), "some of its values are NaN or infinite"),
        ((255 * RAMP).astype("i4"), "from 0 to 255 in 32-bit or signed numbers, which do not say what is white; set"),
        ((65535 * RAMP).astype("i4"), "from 0 to 65535 in 32-bit or signed numbers, which do not say what is white"),
        ((65535 * RAMP).astype("u4"), "from 0 to 65535 in 32-bit or signed numbers, which do not say what is white"),
        ((32767 * RAMP).astype("i2"), "from 0 to 32767 in 32-bit or signed numbers, which do not say what is white"),
        ((127 * RAMP).astype("i1"), "8-bit numbers are signed"),
        ((255 * RAMP).astype("u2"), "from 0 to 255, which is all black where 65535 is white; set image_format.white"),
        (RAMP.astype("f2"), "it is none, or of a kind that is not read, such as floats of 16 or 64 bits"),
        (RAMP.astype("f8"), "it is none, or of a kind that is not read, such as floats of 16 or 64 bits"),
    ],
)
def test_what_does_not_say_its_white_is_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    path = tiff(tmp_path / "odd Ж.tif", values)
    with pytest.raises(ValueError, match=rf"cannot read the image .*odd Ж\.tif: .*{message}"):
        GREY.read(path)


def test_a_scale_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path / "image.tif", RAMP.astype("f4"))
    with pytest.raises(ValueError, match="from 0 to 1, which is all black where 255 is white"):
        ImageFormat(8, white=255).read(path)
    black = tiff(tmp_path / "black.tif", (0 * RAMP).astype("f4"))
    assert (GREY.read(black) == 0).all(), "nothing but black is black at any scale"


def test_a_portable_grey_map_of_16_bits_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "image.pgm"
    path.write_bytes(b"P5 8 8 4095\n" + np.rint(4095 * RAMP).astype(">u2").tobytes())
    assert (abs(GREY.read(path).numpy() - 255 * RAMP) <= 0.6).all()


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_part_of_a_picture_becomes_the_same_bytes_as_in_the_whole(tmp_path: Path, dtype: str) -> None:
    """Also where the part is black, and on a scale that only the file knows."""
    values = np.rint(65535 * RAMP) if dtype == "u2" else RAMP
    with Image.open(tiff(tmp_path / "image.tif", values.T.copy().astype(dtype), PHOTOMETRIC=0)) as opened:
        flat = flattening(opened, "L", None)
        whole = np.asarray(flat(opened))
        parts = [np.asarray(flat(opened.crop((0, top, 8, top + 1)))) for top in range(8)]
    assert (np.concatenate(parts) == whole).all()
    assert (whole == 255 - BYTES.T).all()


def test_lightness_and_colour_axes_become_grey(tmp_path: Path) -> None:
    of, to = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
    lab = ImageCms.profileToProfile(Image.fromarray(BYTES.astype("u1")).convert("RGB"), of, to, outputMode="LAB")
    assert lab is not None
    lab.save(tmp_path / "image.tif")
    for image_format in (GREY, COLOUR):
        assert (abs(image_format.read(tmp_path / "image.tif").numpy() - BYTES) <= 3).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_grey_value_is_white(tmp_path: Path, bits: int) -> None:
    values = np.rint(RAMP * (2**bits - 1)).astype(f"u{bits // 8}")
    Image.fromarray(values).save(tmp_path / "image.png", transparency=0)
    pixels = GREY.read(tmp_path / "image.png").numpy()
    assert (pixels[..., 0] == 255).all()
    assert (pixels[..., 1:] == BYTES[:, 1:]).all()


def test_of_several_pages_or_pictures_the_first_is_taken(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((8, 8), grey, np.uint8)) for grey in (200, 20))
    for suffix in ("tif", "gif", "webp"):
        first.save(tmp_path / f"image.{suffix}", save_all=True, append_images=[second])
        assert (abs(GREY.read(tmp_path / f"image.{suffix}").int() - 200) <= 3).all()


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


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "image.png"
    if kind == "a pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    pixels, errors = read_images({"image.png": file}, GREY)
    assert (len(pixels), [*errors.values()]) == (0, ["cannot read the image image.png: it is no file"])


@pytest.mark.parametrize(("entry", "readable"), [(3, True), (5, False)], ids=["compression", "place of the pixels"])
def test_what_pillow_warns_of_is_left_out(tmp_path: Path, entry: int, readable: bool) -> None:
    file = tmp_path / "image.tif"
    halves("L").save(file)
    content = bytearray(file.read_bytes())
    (directory,) = struct.unpack("<I", content[4:8])
    struct.pack_into("<I", content, directory + 2 + 12 * entry + 4, 1000)  # values, which the file is too short for
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="Tag data larger than file"), suppress(ValueError):
        GREY.read(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels, errors = read_images({"image.tif": file}, GREY)
    assert (len(pixels), len(errors)) == ((1, 0) if readable else (0, 1))
    assert "Tag data" not in "".join(errors)


def test_an_open_file_is_called_by_its_given_name() -> None:
    with pytest.raises(ValueError, match="cannot read the image drawing 7: "):
        GREY.read(io.BytesIO(b"x"), "drawing 7")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, r"image_format\.size: must lie between 1 and 4096 pixels, got 0; give"),
        ({"size": 8, "channels": 4}, r"image_format\.channels: unknown, got 4; give 1 \(grey\) or 3 \(colour\)"),
        ({"size": 8, "std": 0.0}, r"image_format\.std: has to be a positive number, got 0\.0; give"),
        ({"size": 8, "std": float("inf")}, r"image_format\.std: has to be a positive number, got inf; give"),
        ({"size": 8, "std": [1, -1, 1], "channels": 3}, r"std: has to be a positive number, got \[1, -1, 1\]; give"),
        ({"size": 8, "mean": float("nan")}, r"image_format\.mean: has to be a finite number, got nan; give"),
        (
            {"size": 8, "mean": [0.5, 0.5, 0.5]},
            r"image_format\.mean: is no list of 1 numbers, .* got \[0\.5, 0\.5, 0\.5\]; give",
        ),
        (
            {"size": 8, "channels": 3, "mean": [0.5]},
            r"image_format\.mean: is no list of 3 numbers, .* got \[0\.5\]; give",
        ),
        (
            {"size": 8, "std": range(1, 100)},
            r"image_format\.std: is no list of 1 .* got \[1\.0, .*20\.0 and 79 more\]; give",
        ),
        ({"size": 8, "white": 0.0}, r"image_format\.white: must be positive, got 0\.0; give"),
        ({"size": 8, "white": float("nan")}, r"image_format\.white: must be positive, got nan; give"),
        ({"size": 8, "fit": "pad"}, r"image_format\.fit: unknown, got 'pad'; give squeeze or crop"),
    ],
)
def test_wrong_formats_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFormat(**fields)


@pytest.mark.parametrize("invert", [False, True])
def test_each_channel_has_its_own_mean_and_std(invert: bool) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pixels = torch.randint(256, (2, 5, 3, 4, 4), dtype=torch.uint8)
    numbers = pixels / 255
    found = ImageFormat(4, 3, invert, mean, std).to_float(pixels)
    for k in range(3):
        wanted = ((1 - numbers[:, :, k] if invert else numbers[:, :, k]) - mean[k]) / std[k]
        torch.testing.assert_close(found[:, :, k], wanted, rtol=1e-6, atol=1e-6)
    one_mean = ImageFormat(4, 3, invert, 0.5, std).to_float(pixels)
    torch.testing.assert_close(one_mean, ImageFormat(4, 3, invert, [0.5] * 3, std).to_float(pixels))
    torch.testing.assert_close(
        ImageFormat(4, 3, invert, [0.5] * 3, [0.2] * 3).to_float(pixels),
        ImageFormat(4, 3, invert, 0.5, 0.2).to_float(pixels),
    )
    assert torch.equal(ImageFormat(4, 3, std=[0.5, 1, 2]).to_float(pixels)[:, :, 1], numbers[:, :, 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_from_0_to_1_are_normalised_as_bytes_are(dtype: torch.dtype) -> None:
    pixels = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    torch.set_default_dtype(dtype)
    try:
        for given in (ImageFormat(4, 3, True), ImageFormat(4, 3, mean=[0.1, 0.2, 0.3], std=0.5)):
            one, other = given.to_float(pixels), given.to_float(pixels / 255)
            assert one.dtype == other.dtype == dtype
            torch.testing.assert_close(one, other)
    finally:
        torch.set_default_dtype(torch.float32)


def test_formats_of_lists_arrays_and_tuples_are_the_same() -> None:
    means: list[Any] = [[0.5, 0.25, 1], np.array([0.5, 0.25, 1]), (0.5, 0.25, 1.0)]
    given = [ImageFormat(8, 3, mean=mean) for mean in means]
    assert len({*given}) == 1
    assert yaml.safe_load(yaml.safe_dump(asdict(given[0])))["mean"] == [0.5, 0.25, 1.0]


@pytest.mark.parametrize(("width", "height"), [(24, 8), (8, 24), (8, 8), (9, 8)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_middle_of_an_image_that_is_not_square_is_taken(tmp_path: Path, mode: str, width: int, height: int) -> None:
    """Ends of a long image are black and white; its middle is a picture that is neither stretched nor moved."""
    stream = np.random.default_rng(0)
    middle = Image.fromarray(stream.integers(64, 192, (8, 8, 3), dtype=np.uint8)).convert(mode)
    image = Image.new(mode, (width, height))
    image.paste("white", (0, 0, width // 2, height // 2))
    image.paste(middle, ((width - 8) // 2, (height - 8) // 2))
    image.save(tmp_path / "image.png")
    crop, squeeze = (ImageFormat(8, 1 if mode == "L" else 3, fit=fit).read(tmp_path / "image.png") for fit in FITS)
    wanted = torch.from_numpy(np.array(middle)).view(8, 8, -1).permute(2, 0, 1)
    assert crop.shape == squeeze.shape == wanted.shape
    if (width - 8) % 2 == (height - 8) % 2 == 0:
        assert torch.equal(crop, wanted)
    else:  # half a pixel from both sides
        assert (crop.float() - wanted.float()).abs().mean() < 40
    assert torch.equal(squeeze, crop) == (width == height)


def test_crop_scales_the_shorter_side_and_cuts_the_longer_one(tmp_path: Path) -> None:
    """As torchvision's Resize and CenterCrop, away from the cut edges, where a scaled image sees beyond them."""
    y, x = np.mgrid[:120, :200]
    smooth = 127 + 60 * np.sin(x / 17) + 60 * np.cos(y / 11)
    image = Image.fromarray(smooth.astype(np.uint8))
    image.save(tmp_path / "image.png")
    by_two_steps = np.array(image.resize((50, 30), Image.Resampling.LANCZOS))[:, 10:40]
    found = ImageFormat(30, fit="crop").read(tmp_path / "image.png")[0].numpy()
    off = abs(found.astype(int) - by_two_steps)
    assert off[:, 2:-2].max() <= 1
    assert off.max() <= 8


def test_a_long_strip_is_cut_before_it_is_scaled(tmp_path: Path) -> None:
    """Scaled first it would have a hundred million pixels."""
    Image.new("L", (200_000, 2), 77).save(tmp_path / "strip.png")
    assert (ImageFormat(64, fit="crop").read(tmp_path / "strip.png") == 77).all()


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
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), [0, 0, 1, -1], "indices of the 2 classes, got -1"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), [0, 0, 0, 1], r"at least 2 images, .* fewer: y \(1\)"),
    ],
)
def test_wrong_pools_are_refused(pixels: torch.Tensor, labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImagePool.of(pixels, labels, ["x", "y"])


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
def test_reading_many_images_is_shown_in_a_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1" if terminal else "0")
    encoded = io.BytesIO()
    Image.new("L", (8, 8)).save(encoded, "PNG")
    for count, shown in ((100, terminal), (99, False)):
        files = {f"{k}.png": io.BytesIO(encoded.getvalue()) for k in range(count)}
        pixels, errors = read_images(files, ImageFormat(size=8, channels=1))
        assert (len(pixels), errors) == (count, {})
        assert ("reading images" in capsys.readouterr().err) == shown


class Sent(TorchDispatchMode):
    """Notes of each copy to a device whether it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[bool] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        to = (kwargs or {}).get("device")
        if function.overloadpacket.__name__ == "_to_copy" and to and to != args[0].device:
            self.waited.append(not kwargs.get("non_blocking", False))
        return function(*args, **(kwargs or {}))


def test_rendering_does_not_wait_for_a_device() -> None:
    """Which a copy does unless it says otherwise; as of a GPU, to which numbers for each channel are sent."""
    pixels, chances = torch.zeros(2, 3, 8, 8, dtype=torch.uint8, device="meta"), torch.zeros(2, 5, device="meta")
    with Sent() as sent:
        images = ImageFormat(8, 3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2)).to_float(pixels)
        random_affine(images, chances, 1.0)
    assert sent.waited == [False] * 3
