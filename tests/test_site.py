"""The site of the documentation is built as mkdocs.yml says, and has every public name."""

from __future__ import annotations

import doctest
import html
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "callbacks": "litmaml.callbacks",
    "data": "litmaml.data",
    "finetuning": "litmaml",
    "inner": "litmaml.inner",
    "models": "litmaml.models",
    "outer": "litmaml.outer",
    "problems": "litmaml.problems",
    "rl": "litmaml.rl",
}
"""What each page of the reference has the names of."""
ABROAD = re.compile(r"<(?:link|script|img|iframe)\b[^>]*(?:href|src)=\"?(?:https?:)?//[^>]*>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs the extra docs: pip install -e '.[docs]'")
    pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet, which keeps the warnings from --strict too.
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def ids(page: Path) -> set[str]:
    return set(re.findall(r"<h\d[^>]* id=\"?([\w.-]+)", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_has_every_public_name(room: str, site: Path) -> None:
    names = {f"{ROOMS[room]}.{name}" for name in importlib.import_module(ROOMS[room]).__all__}
    if room == "finetuning":  # the other two have pages of their own kind
        assert "litmaml.MetaLearner" in ids(site / "api" / "litmaml.html")
        names -= {"litmaml.MetaLearner", "litmaml.TaskDataModule"}
    assert names <= ids(site / "api" / f"{room}.html")


def test_docstrings_are_rendered_as_they_are_meant(site: Path) -> None:
    text = (site / "api" / "outer.html").read_text(encoding="utf-8")
    assert "Examples:" in text
    assert "<blockquote>" not in text  # of >>> that is taken for a quotation
    assert "<strong>probes</strong>" in text
    plain = html.unescape(re.sub(r"<[^>]+>", "", text))
    assert "d/dslow <grad_fast l, v>, summed over tasks" in plain


def test_how_a_docstring_is_rendered(site: Path) -> None:
    failed, tried = doctest.testmod(importlib.import_module("documentation"))
    assert (failed, tried) == (0, 1)


def test_nothing_is_fetched_by_a_page(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not ABROAD.findall(page.read_text(encoding="utf-8")), page


def test_pages_of_the_root_are_in_it(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    for name in ("SECURITY", "CONTRIBUTING", "CHANGELOG"):
        assert (site / f"{name}.html").is_file()
        assert re.search(rf"href=\"?{name}.html", index)
