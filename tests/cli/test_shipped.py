"""Configurations that come with the program: found by name after the file system, listed, copied, in the wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from litmaml.cli import shipped
from litmaml.cli.main import main
from litmaml.cli.shipped import with_shipped

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", shipped.names())
def test_each_begins_with_a_line_that_says_what_it_is(name: str) -> None:
    first = (shipped.folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert len(first) < 105


def test_the_list_has_each_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0] for line in lines if line}
    assert {
        path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")
    } <= (listed)
    assert any(line.startswith("glyphs ") and "5-way 1-shot" in line for line in lines)


@pytest.mark.parametrize(
    "typed", [["-c", "glyphs"], ["-cglyphs"], ["--config=glyphs.yaml"], ["--config", "glyphs"], ["-c=glyphs"]]
)
def test_a_name_is_found_however_it_is_typed(typed: list[str]) -> None:
    found = with_shipped(["fit", *typed, "--model.compile=true", "-c", "{}", "-c"])
    assert found[0] == "fit"
    assert found[-4:] == ["--model.compile=true", "-c", "{}", "-c"]
    assert "".join(found[1:-4]).endswith(str(ROOT / "configs" / "glyphs.yaml"))


def test_a_file_of_ones_own_comes_first() -> None:
    Path("glyphs").write_text("trainer: {max_epochs: 1}\n", encoding="utf-8")
    assert with_shipped(["fit", "-c", "glyphs"]) == ["fit", "-c", "glyphs"]
    assert with_shipped(["fit", "-c", "glyphs.yaml"]) == ["fit", "-c", str(ROOT / "configs" / "glyphs.yaml")]


def test_a_folder_of_the_same_name_is_not_in_the_way() -> None:
    Path("glyphs").mkdir()
    assert with_shipped(["fit", "-c", "glyphs"]) == ["fit", "-c", str(ROOT / "configs" / "glyphs.yaml")]
    Path("mine").mkdir()
    assert with_shipped(["fit", "-c", "mine"]) == ["fit", "-c", "mine"], "which the parser tells to be no file"


@pytest.mark.parametrize(
    ("typed", "meant"), [("glyph", "glyphs"), ("cpu.yml", "trainer/cpu"), ("trainer/gpus", "trainer/gpu")]
)
def test_a_name_that_is_none_is_told_with_what_was_meant(typed: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"config: there is no such file.*got '{typed}'; did you mean {meant}"):
        main(["fit", "-c", typed])


def test_a_copy_is_made_ones_own_and_nothing_is_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs", "copy", "trainer/cpu"])
    assert Path("cpu.yaml").read_bytes() == (ROOT / "configs" / "trainer" / "cpu.yaml").read_bytes()
    assert "-c cpu.yaml" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match=r"'cpu\.yaml' exists already"):
        main(["configs", "copy", "trainer/cpu.yaml"])
    main(["configs", "copy", "glyphs", "--output=own/letters.yaml"])
    assert "model" in yaml.safe_load(Path("own/letters.yaml").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"name: no configuration of this name.*did you mean sinusoid"):
        main(["configs", "copy", "sinusoids"])


def test_the_wheel_has_them_where_the_program_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"configs": "litmaml/configs"}
    package = tmp_path / "site-packages" / "litmaml"
    (package / "configs").mkdir(parents=True)
    monkeypatch.setattr("litmaml.__file__", str(package / "__init__.py"))
    assert shipped.folder() == package / "configs"
