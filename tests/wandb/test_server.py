"""The server that the user's W&B key goes to."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from litmaml.runs.wandb_server import keep_to_own_server

STRANGE = "http://127.0.0.1:9977"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_BASE_URL", "WANDB_DIR"):
        monkeypatch.setenv(name, "")  # so that what is set here is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "own"))
    return tmp_path


def settings(file: Path, server: str) -> None:
    file.parent.mkdir()
    file.write_text(f"[default]\nbase_url = {server}\n", encoding="utf-8")


def asked() -> str:
    import wandb

    wandb.teardown()
    return str(wandb.setup().settings.base_url)


@pytest.mark.parametrize("place", ["wandb", ".wandb"])
@pytest.mark.parametrize("own", ["", "https://mine.example"])
def test_a_stranger_s_server_is_not_asked(place: str, own: str, folder: Path) -> None:
    settings(folder / place / "settings", STRANGE)
    if own:
        settings(folder / "own" / "settings", own)
    if place == "wandb":
        assert asked() == STRANGE  # or this would show nothing
    with pytest.warns(UserWarning, match=rf"settings: names the W&B server {STRANGE}, which is not asked"):
        keep_to_own_server()
    assert asked() == (own or "https://api.wandb.ai")


def test_what_the_user_says_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings(folder / "own" / "settings", STRANGE)
    settings(folder / "wandb" / "settings", STRANGE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep_to_own_server()
        assert asked() == STRANGE
        (folder / "own" / "settings").unlink()
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
        keep_to_own_server()
    assert asked() == "http://127.0.0.1:1"


@pytest.mark.parametrize("text", ["", "no sections", "[default]\nbase_url\n", "[other]\nbase_url = x\n", "\0\xff"])
def test_other_files_say_nothing(text: str, folder: Path) -> None:
    (folder / "wandb").mkdir()
    (folder / "wandb" / "settings").write_text(text, encoding="utf-8")
    keep_to_own_server()
