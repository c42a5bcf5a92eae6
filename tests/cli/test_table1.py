"""The script of Finn et al.'s Table 1: the published figures, what is typed for a row, a row that is filled."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import table1
from litmaml.cli.main import main

TINY = [
    *("--model.model.init_args.filters=2", "--data.meta_batch=2", "--data.train_tasks=4", "--data.val_tasks=2"),
    *("--data.test_tasks=4", "--trainer.max_steps=2", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"),
]


def test_each_figure_of_the_table_stands_beside_its_row() -> None:
    published = {name: line.published for name, line in table1.LINES.items()}
    assert published["omniglot-20w1s"] == "95.8 ± 0.3"
    assert published["mini_imagenet-5w1s"] == "48.70 ± 1.84"
    assert published["mini_imagenet-5w5s-first-order"] == "63.15 ± 0.91"
    assert len(published) == 8


def test_rows_are_filled_once_or_say_what_they_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(table1, "LINES", {"letters": table1.Line(("glyphs",), "98.7 ± 0.4", None), **table1.LINES})
    typed = ["--rows", "letters", "omniglot-5w1s", "--out", str(tmp_path), "--omniglot", str(tmp_path / "none"), "--"]
    table1.main([*typed, *TINY])
    first, second = csv.DictReader((tmp_path / "table1.csv").read_text(encoding="utf-8").splitlines())
    assert 0 <= float(first["accuracy"]) <= 1
    assert (first["tasks"], first["ways"], first["published"]) == ("4", "5", "98.7 ± 0.4")
    assert second["skipped"] == f"there is no {tmp_path / 'none'}; give --omniglot"
    told = (tmp_path / "table1.md").read_text(encoding="utf-8")
    assert "Budget: whole, with --model.model.init_args.filters=2 " in told
    assert "| omniglot-5w1s | MAML | 98.7 ± 0.4 | there is no " in told
    assert "- letters: rotations: False, ways: 5, shots: 1, queries: 15, tasks: 4, normalisation: " in told

    monkeypatch.setattr("whole_runs.litmaml", lambda _: pytest.fail("it is tested already"))
    table1.main([*typed, *TINY])
    again, _ = csv.DictReader((tmp_path / "table1.csv").read_text(encoding="utf-8").splitlines())
    assert again == first


def test_mini_imagenet_is_read_with_the_settings_of_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that is typed for a row is taken: the resolved configuration has it."""
    asked: list[list[str]] = []

    def keep(place: Path, fit: list[str]) -> dict[str, str]:
        asked.append(fit)
        return {"failed": "was not tried"}

    monkeypatch.setattr(table1, "tested_row", keep)
    folders = {"mini_imagenet": tmp_path, "omniglot": tmp_path}
    table1.fill("mini_imagenet-5w5s-first-order", folders, [], 3, tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["fit", *asked[0], "--print_config"])
    assert not ended.value.code
    said = yaml.safe_load(capsys.readouterr().out)
    assert said["model"]["inner_optimizer"]["init_args"]["lr"] == 0.01
    assert said["model"]["outer_gradient"]["class_path"] == "litmaml.outer.FirstOrder"
    tasks = said["data"]["tasks"]["init_args"]
    assert tasks["train"]["shots"] == 5
    assert tasks["augment"] is None
    assert (said["data"]["meta_batch"], said["data"]["seed"], said["trainer"]["max_steps"]) == (2, 3, 60000)
