"""What comes with the package, adapted as a user does right after the installation."""

from __future__ import annotations

import csv
import socket
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

import litmaml
from litmaml.cli.main import main

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def digits(folder: Path, faces: list[str], classes: str) -> Path:
    """A folder of digits, one image of each for each face."""
    for face in faces:
        font = ImageFont.truetype(FONTS / f"DejaVu{face}.ttf", 25)
        for digit in classes:
            file = folder / digit / f"{face}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.new("L", (28, 28), "white")
            ImageDraw.Draw(picture).text((14, 14), digit, "black", font, "mm")
            picture.save(file)
    return folder


@pytest.mark.parametrize(("name", "classes"), [("omniglot-5w1s", "12478"), ("glyphs-5w1s", "0123456789")])
def test_a_few_images_make_a_classifier(name: str, classes: str, tmp_path: Path) -> None:
    few = digits(tmp_path / "few", ["Sans", "Serif"], classes)
    more = digits(tmp_path / "more", ["SansMono", "Sans-Bold", "Serif-Italic"], classes)
    out = tmp_path / "out"
    main(["finetune", f"--checkpoint=zoo:{name}", f"--data={few}", f"--query={more}", f"--output={out}"])
    with (out / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["class"] == row["label"] for row in rows)
    assert len(rows) == 3 * len(classes)
    assert right >= 0.8 * len(rows)
    assert f"zoo:{name}" in (out / "report.md").read_text(encoding="utf-8")


def test_ten_points_make_a_sinusoid() -> None:
    x = torch.linspace(-5, 5, 10)[:, None]
    model = litmaml.adapt("zoo:sinusoid", x, 2 * torch.sin(x - 1))
    between = torch.linspace(-4, 4, 50)[:, None]
    error = (model(between) - 2 * torch.sin(between - 1)).square().mean()
    assert error < 0.2, "a line through the points has 1.9"


def test_sentences_of_any_number_of_intents_are_told_apart() -> None:
    """By the directions of their embeddings: the encoder is the user's."""
    torch.manual_seed(0)
    kinds = torch.randn(8, 1, 256)
    support, query = ((kinds + torch.randn(8, n, 256)).flatten(0, 1) for n in (3, 10))
    model = litmaml.adapt("zoo:intents-5w1s", support, [f"intent {k}" for k in range(8) for _ in range(3)])
    found = model(query).argmax(1)
    assert model.classes == [f"intent {k}" for k in range(8)]
    assert (found == torch.arange(8).repeat_interleave(10)).double().mean() > 0.9


def test_a_policy_finds_its_goal(tmp_path: Path) -> None:
    main(["finetune", "--checkpoint=zoo:navigation", "--task=x=0.3,y=-0.2", f"--output={tmp_path / 'goal'}"])
    with (tmp_path / "goal" / "returns.csv").open(encoding="utf-8") as file:
        returns = [float(row["return"]) for row in csv.DictReader(file) if row["start"] == "meta-learnt"]
    assert returns[-1] > returns[0] / 2
    assert len(returns) == 4
