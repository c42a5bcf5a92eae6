"""The script that makes the zoo: what it writes is the same each time, and is compared when it is made anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import make_zoo
from litmaml.runs import zoo
from litmaml.runs.checkpoint import read_checkpoint
from litmaml.statistics.interval import Interval

TINY = """# Tiny.
model:
  model: {class_path: litmaml.models.MLP, init_args: {hidden: [4]}}
  lr_scheduler: {class_path: torch.optim.lr_scheduler.CosineAnnealingLR, init_args: {T_max: 2}}
data: {meta_batch: 2, train_tasks: 4, val_tasks: 2, test_tasks: 8}
trainer: {max_epochs: 1, log_every_n_steps: 1, accelerator: cpu, default_root_dir: runs/tiny}
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo of one that takes a second, in an empty folder."""
    monkeypatch.setattr(make_zoo, "ENTRIES", {"tiny": make_zoo.Entry("sinusoid")})
    monkeypatch.setattr(make_zoo, "TEXTS", tmp_path / "texts")
    monkeypatch.setattr(zoo, "folder", lambda: tmp_path / "zoo")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "tiny.md").write_text("# A tiny one\nOf few words.\n", encoding="utf-8")
    return tmp_path


def made(place: Path, work: str, *typed: str) -> int:
    """The status of the script in a folder to work in, where the overlay lies as if it shipped."""
    overlay = place / work / "tiny" / "zoo" / "tiny"
    overlay.parent.mkdir(parents=True, exist_ok=True)
    overlay.write_text(TINY, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        make_zoo.main(["--work", str(place / work), *typed])
    return int(ended.value.code or 0)


def test_it_writes_weights_and_a_card_the_same_each_time(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for work in ("first", "second"):
        assert made(tiny, work, "--out", str(tiny / f"zoo of {work}")) == 0
    folders = [tiny / f"zoo of {work}" for work in ("first", "second")]
    first, second = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders)
    assert {*first} == {"tiny.ckpt", "tiny.ckpt.sha256", "tiny.json", "tiny.md"}
    assert first == second
    saved = read_checkpoint(tiny / "zoo of first" / "tiny.ckpt")
    assert {*saved} == {*make_zoo.KEPT}
    assert str(tiny) not in str(saved)
    assert first["tiny.md"].startswith(b"# tiny: A tiny one, loss ")
    assert b"after 10 inner steps\n\nOf few words.\n\n## Results\n" in first["tiny.md"]
    assert b"litmaml fit -c sinusoid -c zoo/tiny\n" in first["tiny.md"]


def test_one_that_is_made_anew_is_compared_with_its_card(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {"steps": [{"inner_steps": 1, "loss": {"mean": 3.0, "half_width": 0.2}}]}
    (tiny / "zoo").mkdir()
    (tiny / "zoo" / "tiny.json").write_text(json.dumps(found), encoding="utf-8")
    assert make_zoo.agrees("tiny", {"steps": [{"inner_steps": 1, "loss": Interval(3.19, 0.1)._asdict()}]})
    assert not make_zoo.agrees("tiny", {"steps": [{"inner_steps": 1, "loss": Interval(2.7, 0.9)._asdict()}]})
    assert "NOT WITHIN 3.0000" in capsys.readouterr().out


def test_what_lacks_its_data_is_left_out(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_zoo, "ENTRIES", {"tiny": make_zoo.Entry("sinusoid", {"data/x": "{data}/none"})})
    assert made(tiny, "work", "--data", str(tiny / "nowhere")) == 0
    assert f"tiny: left out, since there is no {tiny / 'nowhere' / 'none'}" in capsys.readouterr().out
    assert not (tiny / "zoo").exists()
