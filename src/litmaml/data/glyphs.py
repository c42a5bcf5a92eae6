"""The embedded tasks: letters of many scripts, drawn with the fonts that matplotlib ships."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor
from torch.nn import functional

from litmaml.data.cache import cache_folder, read_tensors, write_tensors
from litmaml.data.episode import AS_IN_TRAINING, FEW_SHOT, Episode
from litmaml.data.image_tasks import ImageTasks
from litmaml.data.images import ImageFormat, ImagePool
from litmaml.data.leakage import fingerprints
from litmaml.tasks import SPLITS, Split

SCRIPTS: dict[Split, tuple[str, ...]] = {
    # Scripts of one family stand on one side: most letters that look alike are then in one split.
    "train": ("LATIN", "GREEK", "CYRILLIC", "COPTIC", "OLD ITALIC", "LISU", "CANADIAN SYLLABICS"),
    "val": ("ARMENIAN", "LAO"),
    "test": ("GEORGIAN", "ARABIC", "HEBREW"),
}
"""The scripts of each split, by the first words of their letters' Unicode names."""

FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, slanted in (("Sans", "Oblique"), ("SansMono", "Oblique"), ("Serif", "Italic"))
    for style in ("", "-Bold", f"-{slanted}", f"-Bold{slanted}")
)
"""The twelve font files."""

FEWEST_FACES = 4
ALIKE = 0.95
"""Letters whose pictures have a higher mean cosine than this, over the faces that have both, count as one."""

_SIZE, _INK = 28, 20
_RECIPE = 2
"""To be raised whenever the pictures or their selection change: it is part of the cache file's name."""


class Glyphs(ImageTasks):
    """Letters of scripts that training never saw: few-shot classification without a download.

    A class is a letter, an image one of the 4 to 12 faces of the DejaVu fonts that have it, black on white,
    28 x 28, its longer side 20 pixels. Training has the Latin, Greek, Cyrillic, Coptic, Old Italic and Lisu
    letters and the Canadian syllabics, validation the Armenian and Lao, test the Georgian, Arabic and Hebrew
    ones. Letters with a decomposition (accents, ligatures) are left out, and of letters that look alike, such
    as the Latin A and the Greek Alpha, one is kept: never two in different splits. Of equal pictures, such as
    the italic m and the italic Cyrillic te, one is kept too. Every use of an image is a new drawing by a small
    affine change, and support and query never share a face of a letter.

    Args:
        train: The numbers of classes, images and batches of a task in training.
        test: Those in validation and test; as in training where they are left out.
        affine: Strength of the affine changes, in every split; at 1 up to 15 degrees, 15 % of scale and shear
            and 8 % of shift.
        cache_dir: Folder where the drawn letters are kept; litmaml in the user's cache folder if not given.

    Raises:
        ValueError: if a number is out of its range.
        FileNotFoundError: when drawing, if matplotlib's fonts are not where matplotlib says.
    """

    drawn_anew: ClassVar[bool] = True

    def __init__(
        self,
        train: Episode = FEW_SHOT,
        test: Episode = AS_IN_TRAINING,
        affine: float = 0.5,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(
            image_format=ImageFormat(_SIZE, invert=True),
            train=train,
            test=test,
            affine=affine,
        )
        self.cache_dir = cache_dir
        self._letters: dict[Split, ImagePool] = {}

    def prepare(self) -> None:
        self._draw()

    def class_names(self, split: Split) -> Sequence[str]:
        return self._draw()[split].names

    def read_pool(self, split: Split) -> ImagePool:
        return self._draw()[split]

    def _draw(self) -> dict[Split, ImagePool]:
        """All letters, from the cache if they are there."""
        if not self._letters:
            fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
            path = cache_folder(self.cache_dir) / f"glyphs-{_fingerprint(fonts)}.safetensors"
            kept = read_tensors(path)
            if kept is None or not _is_whole(*kept):
                kept = draw_letters(fonts)
                write_tensors(path, *kept)
            tensors, metadata = kept
            for split in SPLITS:
                self._letters[split] = ImagePool.of(
                    tensors[f"{split}.pixels"], tensors[f"{split}.labels"], json.loads(metadata[split])
                )
        return self._letters


def _is_whole(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bool:
    """Whether the cache holds letters: its folder may be named by a checkpoint of somebody else's."""
    try:
        for split in SPLITS:
            pixels, names = tensors[f"{split}.pixels"], json.loads(metadata[split])
            if pixels.shape[1:] != (1, _SIZE, _SIZE) or not all(isinstance(name, str) for name in names):
                return False
            ImagePool.of(pixels, tensors[f"{split}.labels"], names)
    except (KeyError, ValueError, TypeError, RecursionError):
        return False
    return True


def _fingerprint(fonts: Path) -> str:
    """What the pictures depend on: the fonts, the program that draws, and how."""
    digest = hashlib.sha256(f"{_RECIPE} {features.version('freetype2')}".encode())
    for face in FACES:
        digest.update((fonts / face).read_bytes())
    return digest.hexdigest()[:16]


def draw_letters(fonts: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Draws and selects the letters.

    Args:
        fonts: The folder of the font files.

    Returns:
        ``SPLIT.pixels`` (M, 1, 28, 28) uint8 and ``SPLIT.labels`` (M,) of every split; and of every split the
        names of its letters as a JSON list.
    """
    pictures = _all_letters(fonts)
    # Test letters are kept first: what looks alike is then taken from training, which has the most.
    order = [
        letter
        for split in reversed(SPLITS)
        for script in SCRIPTS[split]
        for letter in sorted(pictures)
        if script_of(letter) == script
    ]
    pictures = _without_copies(_without_alikes(order, pictures), pictures)
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for split in SPLITS:
        letters = [letter for letter in pictures if script_of(letter) in SCRIPTS[split]]
        tensors[f"{split}.pixels"] = torch.stack([x for letter in letters for x in pictures[letter].values()])
        tensors[f"{split}.labels"] = torch.tensor([k for k, x in enumerate(letters) for _ in pictures[x]])
        names[split] = json.dumps([f"{letter} {unicodedata.name(letter)}" for letter in letters])
    return tensors, names


def script_of(letter: str) -> str | None:
    """Which of the scripts a letter belongs to."""
    name = unicodedata.name(letter, "")
    return next((x for scripts in SCRIPTS.values() for x in scripts if name.startswith(f"{x} ")), None)


def _all_letters(fonts: Path) -> dict[str, dict[str, Tensor]]:
    """The pictures (1, 28, 28) of every letter, by letter and face, of letters that enough faces have."""
    pictures: dict[str, dict[str, Tensor]] = {}
    for face in FACES:
        font = ImageFont.truetype(fonts / face, size=80, layout_engine=ImageFont.Layout.BASIC)
        for letter in map(chr, FT2Font(str(fonts / face)).get_charmap()):
            plain = unicodedata.category(letter).startswith("L") and not unicodedata.decomposition(letter)
            if plain and script_of(letter):
                pictures.setdefault(letter, {})[face] = _picture(letter, font)
    return {letter: faces for letter, faces in pictures.items() if len(faces) >= FEWEST_FACES}


def _picture(letter: str, font: ImageFont.FreeTypeFont) -> Tensor:
    """A letter in black on white, its ink centred and its longer side 20 of 28 pixels."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(letter))
    ink = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(ink).text((1 - left, 1 - top), letter, fill=255, font=font)
    ink = ink.crop(ink.getbbox())
    scale = _INK / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    ink = ink.resize((width, height), Image.Resampling.LANCZOS)
    picture = Image.new("L", (_SIZE, _SIZE))
    picture.paste(ink, ((_SIZE - width) // 2, (_SIZE - height) // 2))
    return torch.from_numpy(255 - np.array(picture)).unsqueeze(0)


def _without_alikes(letters: list[str], pictures: dict[str, dict[str, Tensor]]) -> list[str]:
    """The letters but for those that look like one before them."""
    alike = likeness(letters, pictures) > ALIKE
    kept: list[int] = []
    for k in range(len(letters)):
        if not alike[k, kept].any():
            kept.append(k)
    return [letters[k] for k in kept]


def _without_copies(letters: list[str], pictures: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The letters' pictures but for those that equal one before them, as the italic m does the Cyrillic te.

    Letters with too few faces left are left out.
    """
    seen: set[bytes] = set()
    kept: dict[str, dict[str, Tensor]] = {}
    for letter in letters:
        own: dict[str, Tensor] = {}
        marks = fingerprints(torch.stack([*pictures[letter].values()]))
        for mark, (face, picture) in zip(marks, pictures[letter].items(), strict=True):
            if mark not in seen:
                seen.add(mark)
                own[face] = picture
        if len(own) >= FEWEST_FACES:
            kept[letter] = own
    return kept


def likeness(letters: list[str], pictures: dict[str, dict[str, Tensor]]) -> NDArray[np.float32]:
    """The mean cosine of the slightly blurred pictures of each two letters, over the faces that have both."""
    total = torch.zeros(len(letters), len(letters))
    faces = torch.zeros(len(letters), len(letters))
    blank = torch.full((1, _SIZE, _SIZE), 255, dtype=torch.uint8)
    for face in FACES:
        ink = 255 - torch.stack([pictures[letter].get(face, blank) for letter in letters]).float()
        flat = functional.avg_pool2d(ink, 3, stride=1, padding=1).flatten(1)
        unit = functional.normalize(flat, dim=1)
        there = (flat.sum(1) > 0).float()
        total += unit @ unit.T
        faces += there[:, None] * there
    return (total / faces.clamp(min=1)).numpy()
