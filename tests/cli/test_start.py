"""What the program answers before it imports anything that takes seconds."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

import litmaml
from litmaml.cli.commands import COMMANDS, help_text
from litmaml.cli.finetune import COMMANDS as IMAGE_COMMANDS
from litmaml.cli.main import main
from litmaml.cli.run_help import OPTIONS, RUNS


def started(*arguments: str) -> list[str]:
    """The lines that the program prints, the last of which names heavy packages that it imported."""
    code = (
        "import sys; from litmaml.cli.start import main; main(); "
        "heavy = 'torch', 'lightning', 'jsonargparse', 'numpy', 'rich', 'huggingface_hub'; "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_help_names_every_command_in_a_line_on_one_screen() -> None:
    lines = started("--help")
    assert lines == [*help_text().splitlines(), "[]"]
    assert started() == lines
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert {*COMMANDS} >= {*LightningCLI.subcommands(), *IMAGE_COMMANDS, "diagnose", "data", "zoo", "configs"}
    assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)


@pytest.mark.parametrize("command", RUNS)
def test_the_help_of_a_run_names_the_options_that_matter(command: str) -> None:
    *lines, heavy = started(command, "-c", "glyphs", "--help")
    assert heavy == "[]"
    assert lines[0] == f"usage: litmaml {command} -c CONFIG [options]"
    assert len(lines) < 50
    assert max(map(len, lines)) <= 80
    assert all(any(line.startswith(f"  {name} ") for line in lines) for group in OPTIONS.values() for name in group)
    assert sum(map(len, OPTIONS.values())) in range(28, 34)
    assert f"litmaml {command} --help=all" in lines[-3]


def test_the_zoo_is_told_at_once() -> None:
    *lines, heavy = started("zoo")
    assert heavy == "[]"
    assert any(line.startswith("omniglot-5w1s ") for line in lines)
    *lines, heavy = started("zoo", "sinusoid")
    assert heavy == "[]"
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("arguments", [(), ("list",)], ids=["alone", "list"])
def test_the_configurations_are_listed_at_once(arguments: tuple[str, ...]) -> None:
    *lines, heavy = started("configs", *arguments)
    assert heavy == "[]"
    assert any(line.startswith("method/reptile ") for line in lines)


def test_the_version_is_that_of_the_package() -> None:
    assert started("--version") == [f"litmaml {version('litmaml')}", "[]"]
    assert litmaml.__version__ == version("litmaml")
    assert "__version__" in dir(litmaml)


def test_a_command_that_is_none_is_told_with_what_was_meant() -> None:
    with pytest.raises(ValueError, match="there is no command 'fine-tune'; did you mean finetune"):
        main(["fine-tune"])


def test_garbage_is_searched_for_in_the_run_and_not_among_the_modules(tmp_path: Path) -> None:
    """The modules are kept apart from what the run makes: that is closed at the end, as a callback that knows its
    trainer and has left a file open."""
    notes = tmp_path / "notes.txt"
    code = f"""
import gc
from litmaml.cli import main as cli
from litmaml.cli.start import main

class Noter:
    def __init__(self):
        self.trainer = self

    def __del__(self):
        with open({str(notes)!r}, "w") as file:
            file.write("all of it")

def run():
    print(gc.isenabled(), gc.get_freeze_count())
    Noter()

cli.main = run
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "fit"], capture_output=True, text=True, check=True)
    enabled, frozen = done.stdout.split()
    assert enabled == "True"
    assert int(frozen) > 100_000
    assert notes.read_text() == "all of it"
