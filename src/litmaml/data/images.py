"""Images as bytes: reading files of many kinds, and pools of images sorted by class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track
from torch import Tensor

from litmaml.data.affine import sent
from litmaml.data.eight_bits import flattening
from litmaml.data.leakage import Copies, judge_copies, pairs_of_twins, prints_of
from litmaml.data.unpacking import unpack
from litmaml.shown import listed, spelled
from litmaml.tasks import Split

_LARGEST, _THREADS = 4096, 32


@dataclass(frozen=True, repr=False)
class ImageFormat:
    """What an image becomes: C x size x size bytes in memory, (x / 255 - mean) / std for the learner.

    Args:
        size: Height and width in pixels, to which files are scaled, antialiased.
        channels: 1 for grey, 3 for red, green and blue.
        invert: Turn dark ink on white paper to ones on zeros: 1 - x / 255 in place of x / 255.
        mean: Taken off every pixel: a number, or a list of one for each channel, such as [0.485, 0.456, 0.406], which
            bodies that were trained on ImageNet expect.
        std: What every pixel is then divided by: likewise, such as [0.229, 0.224, 0.225].
        white: The value that is white in grey files of more than 8 bits; by default 1 in files of floats and the
            largest number, 65535 or 4095, in 16-bit and 12-bit ones. Files of 32-bit numbers need it.
        fit: What is done with files that are not square: "squeeze" scales height and width by themselves, "crop" keeps
            the shape and only takes the middle, as far as it is square.

    Raises:
        ValueError: if a field is out of its range.
    """

    size: int
    channels: Literal[1, 3] = 1
    invert: bool = False
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    white: float | None = None
    fit: Literal["squeeze", "crop"] = "squeeze"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _LARGEST:
            raise ValueError(
                f"image_format.size: must lie between 1 and {_LARGEST} pixels, got {self.size}; give 84, say"
            )
        if self.channels not in (1, 3):
            raise ValueError(f"image_format.channels: unknown, got {self.channels}; give 1 (grey) or 3 (colour)")
        if self.white is not None and not 0 < self.white < inf:
            raise ValueError(
                f"image_format.white: must be positive, got {self.white}; give the value that is white in the files"
            )
        if self.fit not in ("squeeze", "crop"):
            raise ValueError(f"image_format.fit: unknown, got {self.fit!r}; give squeeze or crop")
        self._check_numbers("mean", -inf, "a finite number")
        self._check_numbers("std", 0, "a positive number")

    def __repr__(self) -> str:
        return spelled(self)

    def _check_numbers(self, field: str, above: float, kind: str) -> None:
        """Refuse what is neither a number nor one for each channel; lists become tuples, by which formats compare."""
        given = getattr(self, field)
        numbers = tuple(map(float, given if isinstance(given, Iterable) else [given]))
        if isinstance(given, Iterable):
            object.__setattr__(self, field, numbers)
            if len(numbers) != self.channels:
                raise ValueError(
                    f"image_format.{field}: is no list of {self.channels} numbers, one for each channel, got "
                    f"[{listed([str(number) for number in numbers])}]; give such a list, or one number for all"
                )
        if not all(above < number < inf for number in numbers):
            raise ValueError(f"image_format.{field}: has to be {kind}, got {given}; give one, or a list of such")

    def read(self, source: str | Path | BinaryIO, name: str | None = None) -> Tensor:
        """The image in a file as (C, size, size) uint8.

        Transparent images are laid on white, turned ones are set upright by their EXIF tag, and grey ones of more
        than 8 bits are scaled so that ``white`` becomes 255, none by its own brightest value. Of an animation or a
        file of several pages the first picture is taken, of more than three channels red, green and blue. Numbers
        are taken as they are: colour profiles and gamma are left out of account.

        Args:
            source: A path or an open file.
            name: What to call the file in an error; the path if not given.

        Raises:
            ValueError: naming the file, if it is no image, is damaged, is too large to be unpacked safely, or does
                not say what is white.
        """
        try:
            return self._scaled(unpack(source, self.size, lambda opened: flattening(opened, self._mode, self.white)))
        except UnidentifiedImageError as error:
            raise ValueError(
                f"cannot read the image {name or source}: it is none, or of a kind that is not read, such as floats of "
                "16 or 64 bits and colours of 32 bits; save it as a PNG of 8 bits"
            ) from error
        except Exception as error:  # Pillow raises almost any on a broken file
            raise ValueError(f"cannot read the image {name or source}: {error}") from error

    def of_bytes(self, pixels: NDArray[np.uint8]) -> Tensor:
        """An image (H, W), (H, W, 1) or (H, W, 3) of bytes, as ``read`` would give it of a file that holds it."""
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)
        return self._scaled(image.convert(self._mode))

    @property
    def _mode(self) -> Literal["L", "RGB"]:
        return "L" if self.channels == 1 else "RGB"

    def _scaled(self, image: Image.Image) -> Tensor:
        scaled = ImageOps.fit if self.fit == "crop" else Image.Image.resize
        if image.size != (self.size, self.size):
            image = scaled(image, (self.size, self.size), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(image))
        return pixels.unsqueeze(0) if self.channels == 1 else pixels.permute(2, 0, 1).contiguous()

    def to_float(self, pixels: Tensor) -> Tensor:
        """Pixels (..., C, size, size) as the learner takes them: of torch's default dtype, on the device they are on.

        Args:
            pixels: Bytes, or floats from 0, black, to 1, white.
        """
        white = 1 if pixels.is_floating_point() else 255
        mean, std = np.asarray(self.mean), np.asarray(self.std)
        # One pass over the pixels, or two: nothing else in rendering takes as long.
        numbers = torch.div(pixels, _for_channels((-white if self.invert else white) * std, pixels))
        shift = ((1 if self.invert else 0) - mean) / std
        return numbers.add_(_for_channels(shift, pixels)) if shift.any() else numbers


PHOTOGRAPHS = ImageFormat(84, 3)
"""What photographs become where nothing else is said: in colours and as large as those of mini-ImageNet."""


def _for_channels(numbers: NDArray[np.float64], pixels: Tensor) -> Tensor | float:
    """A number as it is; one for each channel to be broadcast over pixels (..., C, H, W)."""
    if numbers.ndim == 0:
        return float(numbers)
    return sent(torch.tensor(numbers[:, None, None], dtype=torch.get_default_dtype()), pixels.device)


@dataclass(frozen=True)
class ImagePool:
    """The images of one split, sorted by class.

    Args:
        pixels: (M, C, H, W) uint8.
        names: The K classes' names.
        members: (K, most) the images of each class as indices into ``pixels``; what is beyond a class's count
            is 0.
        counts: (K,) how many images each class has.
        files: The M images' files, to name them in errors; none if they are not kept in files.
        prints: (M, 20) what the images are compared by, if that is known already.
    """

    pixels: Tensor
    names: tuple[str, ...]
    members: NDArray[np.int64]
    counts: NDArray[np.int64]
    files: Sequence[str] = ()
    prints: NDArray[np.uint8] | None = None

    @classmethod
    def of(
        cls,
        pixels: Tensor,
        labels: Sequence[int] | Tensor | NDArray[np.int64],
        names: Sequence[str],
        files: Sequence[str] = (),
        prints: NDArray[np.uint8] | None = None,
    ) -> ImagePool:
        """Sorts images by class.

        Args:
            pixels: (M, C, H, W) uint8.
            labels: The class of each image, as an index into ``names``.
            names: The classes' names.
            files: The images' files, to name them in errors.
            prints: (M, 20) what they are compared by, if that is known already.

        Raises:
            ValueError: if images are not bytes, labels do not fit them, or a class has fewer than two images;
                all such classes are named.
        """
        classes = np.asarray(labels, dtype=np.int64)
        if pixels.dtype != torch.uint8 or pixels.dim() != 4:
            raise ValueError(f"pixels must be uint8 (M, C, H, W), got {pixels.dtype} {tuple(pixels.shape)}")
        if len(classes) != len(pixels):
            raise ValueError(f"there are {len(pixels)} images and {len(classes)} labels")
        if len(wrong := classes[(classes < 0) | (classes >= len(names))]):
            raise ValueError(f"labels must be indices of the {len(names)} classes, got {wrong[0]}")
        counts = np.bincount(classes, minlength=len(names))
        if few := [f"{name} ({count})" for name, count in zip(names, counts, strict=True) if count < 2]:
            raise ValueError(f"a class needs at least 2 images, these have fewer: {', '.join(few)}")
        members = np.zeros((len(names), int(counts.max(initial=0))), dtype=np.int64)
        members[np.arange(members.shape[1]) < counts[:, None]] = np.argsort(classes, kind="stable")
        return cls(pixels, tuple(names), members, counts, files, prints)

    def __len__(self) -> int:
        """The number of classes."""
        return len(self.names)

    def called(self, image: int) -> tuple[str, str]:
        """The class of an image, and its file, or which of its class it is."""
        held = np.arange(self.members.shape[1]) < self.counts[:, None]
        ((k, place),) = np.argwhere((self.members == image) & held)
        return self.names[k], self.files[image] if self.files else f"image {place}"


def compare_pools(pools: Mapping[Split, ImagePool], split: Split, pool: ImagePool, policy: Copies) -> ImagePool:
    """The pool of a split with what its images are compared by, once they are.

    Args:
        pools: Those of other splits, compared already.
        split: The split.
        pool: Its images.
        policy: What is done about an image that stands in two classes or splits.

    Raises:
        ValueError: There is one, and the policy is to refuse it.
    """
    if pool.prints is None:
        pool = replace(pool, prints=prints_of(pool.pixels))
    together = {**pools, split: pool}
    prints = {name: each.prints for name, each in together.items() if each.prints is not None}
    pairs = pairs_of_twins(prints, lambda name, image: together[name].called(image))
    judge_copies(pairs, len(pool.pixels), policy)
    return pool


_WORTH_A_BAR = 100
"""Images to read at once from which on it is shown how far that has come: photographs take a tenth of a second each."""


def read_images(files: Mapping[str, str | Path | BinaryIO], image_format: ImageFormat) -> tuple[Tensor, dict[str, str]]:
    """Reads many images, several at a time.

    Args:
        files: Paths or open files by the names to call them in errors.
        image_format: What they become.

    Returns:
        (M, C, size, size) uint8 of the images that could be read, and the errors of those that could not, by name. M
        is ``len(files)`` where there are no errors.
    """

    shape = (len(files), image_format.channels, image_format.size, image_format.size)
    pixels = torch.empty(shape, dtype=torch.uint8)

    def attempt(place: int, name: str) -> str | None:
        try:
            pixels[place] = image_format.read(files[name], name)
        except ValueError as error:
            return str(error)
        return None

    # Pillow lets go of the interpreter lock while it decodes. Its warnings name no file, and filters are all threads'.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(os.cpu_count() or 1, _THREADS)) as threads:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        console = Console(stderr=True)
        hidden = len(files) < _WORTH_A_BAR or not console.is_terminal
        done = threads.map(attempt, range(len(files)), files)
        errors = [*track(done, "reading images", total=len(files), console=console, transient=True, disable=hidden)]
    read = torch.tensor([error is None for error in errors], dtype=torch.bool)
    wrong = {name: error for name, error in zip(files, errors, strict=True) if error is not None}
    return pixels[read] if wrong else pixels, wrong


def lines(errors: Sequence[str], most: int = 20) -> str:
    """Errors for a message, one per line, the first few of many: a whole folder may be of one kind that is not read."""
    rest = [f"and {len(errors) - most} more"] if len(errors) > most else []
    return "\n".join([*errors[:most], *rest])


def picture(image: Tensor) -> Image.Image:
    """An image (C, H, W) of any range, from its darkest to its brightest value."""
    image = image.detach().float().cpu()
    low, high = float(image.min()), float(image.max())
    pixels = ((image - low) / max(high - low, 1e-12) * 255).to(torch.uint8)
    return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())
