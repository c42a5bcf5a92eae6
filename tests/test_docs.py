"""README and docs say what is there: links, commands and Python blocks, read as a user's."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from litmaml.cli import data, push, shipped
from litmaml.cli.commands import COMMANDS
from litmaml.cli.diagnose import DiagnoseCLI
from litmaml.cli.error_lines import _leaves
from litmaml.cli.finetune import COMMANDS as IMAGE_COMMANDS
from litmaml.cli.meta_cli import MetaCLI
from litmaml.cli.run_help import OPTIONS
from litmaml.cli.typed_parts import repeatable
from litmaml.data import TaskDataModule
from litmaml.learner.meta_learner import MetaLearner
from litmaml.runs.zoo import names, subject_of

ROOT = Path(__file__).parents[1]
PAGES = {file.relative_to(ROOT).as_posix(): file for file in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
SHIPPED = {*shipped.names()}
EXPERIMENTS = {name for name in SHIPPED if name.partition("/")[0] in (name, "rl", "theory")}
_BY_KIND = sorted(SHIPPED, key=lambda name: (name not in EXPERIMENTS, name))  # navigation is also one of the zoo
_FUNCTIONS: dict[str, Callable[..., object]] = {**IMAGE_COMMANDS, "data pack": data.pack, "data check": data.check}
_COMMAND = re.compile(r"^(?:WANDB_MODE=\w+ )?litmaml (?=[a-z])(.*)$")


def _text(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def _anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def commands(text: str) -> list[str]:
    """What follows ``litmaml`` in the lines of code, and in code within sentences where it has options."""
    without_python = _FENCE.sub(lambda block: "" if block[1] else block[2], text)
    lines = [line.strip().partition(" #")[0] for line in without_python.splitlines() if line.startswith("    ")]
    spans = [" ".join(span.split()) for span in re.findall(r"`((?:WANDB_MODE=\w+ )?litmaml [^`]+)`", without_python)]
    spans = [span for span in spans if " -" in span]
    return [match[1].strip() for line in (*lines, *spans) if (match := _COMMAND.match(line)) and "..." not in line]


_RUNS = ("fit", "validate", "test", "predict")
LINES = [shlex.split(line) for page in PAGES for line in commands(_text(page))]
LINES = [words for words in LINES if "--help" not in words]
OTHERS = {" ".join(words): words for words in LINES if words[0] not in _RUNS}


def _split(words: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """The shipped configurations of a line, and its other options; what the reader writes himself is left out."""
    files = [words[place + 1] for place, word in enumerate(words) if word == "-c"]
    options = [word for place, word in enumerate(words) if word != "-c" and words[place - 1 : place] != ["-c"]]
    names = [file.removeprefix("configs/").removesuffix(".yaml") for file in files]
    stack = [name for name, file in zip(names, files, strict=True) if name in SHIPPED or not _is_users(file)]
    if not EXPERIMENTS & {*stack}:  # the configuration that a checkpoint would bring: that of the run of this name
        run = next((word.rpartition("/")[2] for word in words if "runs/" in word), "")
        stack.insert(0, next((name for name in _BY_KIND if name.rpartition("/")[2] == run), "glyphs"))
    for before in ("--imports", "--checkpoint"):  # is read before the parser
        if before in options:
            del options[(place := options.index(before)) : place + 2]
    return tuple(stack), options


def _is_users(file: str) -> bool:
    """Whether a configuration is one that the reader writes: CONFIG, or a file of his own."""
    return file.isupper() or file.endswith(".yaml")


# Lines of one stack are parsed together, which takes as long as one.
STACKS = dict[tuple[str, ...], list[str]]()
for _words in LINES:
    if _words[0] in _RUNS:
        _stack, _options = _split(_words[1:])
        STACKS.setdefault(_stack, []).extend(_options)


class _Enough(Exception):
    """The parser is made."""


def _made(cli: type[MetaCLI], **how: Any) -> LightningArgumentParser:
    """The parser that a command line makes, without the run that would follow."""
    parsers: list[LightningArgumentParser] = []

    class Parser(cli):  # type: ignore[misc, valid-type]  # a class that is given
        def parse_arguments(self, parser: LightningArgumentParser, args: object) -> None:
            parsers.append(parser)
            raise _Enough

    with pytest.raises(_Enough):
        Parser(
            MetaLearner,
            TaskDataModule,
            save_config_callback=None,
            load_from_checkpoint_support=False,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            **how,
        )
    return parsers[0]


@pytest.fixture(scope="module")
def fit_parser() -> LightningArgumentParser:
    """That of ``fit``, whose options are those of validate, test and predict too."""
    return _made(MetaCLI, only="fit")


@pytest.fixture(scope="module")
def diagnose_parser() -> LightningArgumentParser:
    return _made(DiagnoseCLI, run=False)


def test_the_help_of_a_run_names_options_that_there_are(fit_parser: LightningArgumentParser) -> None:
    known = {*_leaves(fit_parser)} | {"init_args"}
    for name in (name for group in OPTIONS.values() for name in group if name.startswith("--")):
        assert {name[2:].partition(".init_args.")[0]} <= known, name


def _parse(parser: ArgumentParser, words: list[str]) -> None:
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            warnings.simplefilter("ignore")  # of one class that takes another's place in the stack, as meant
            parser.parse_args(words)
    except SystemExit as ended:
        if ended.code:
            pytest.fail(said.getvalue())


def test_the_readme_is_short() -> None:
    text = _text("README.md")
    assert len(text.splitlines()) < 120
    assert text.count("](docs/figures/") == 1
    assert len(re.findall(r"^\| --- ", text, re.MULTILINE)) == 1


def test_the_zoo_stands_on_its_page_as_on_its_cards() -> None:
    text = _text("docs/zoo.md")
    for name in names():
        assert f"| `{name}` | {subject_of(name)} |" in text


def test_every_page_is_in_the_index() -> None:
    linked = {Path(link).name for link in _LINK.findall(_text("docs/README.md"))}
    assert {file.name for file in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in _LINK.findall(_FENCE.sub("", _text(page))):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        file = (PAGES[page].parent / name).resolve() if name else PAGES[page]
        assert file.exists(), link
        if anchor:
            headings = _HEADING.findall(_FENCE.sub("", file.read_text(encoding="utf-8")))
            assert anchor in map(_anchor, headings), link


def test_pages_lead_out_of_docs_only_to_what_the_site_takes_in() -> None:
    (listed,) = re.findall(r"^AT_THE_ROOT = \((.*)\)$", (ROOT / "scripts/documentation.py").read_text(), re.MULTILINE)
    taken = {name.strip(' "') for name in listed.split(",")}
    out = {link for file in (ROOT / "docs").glob("*.md") for link in re.findall(r"\]\(\.\./([^)#]+)", file.read_text())}
    assert out
    assert out <= taken


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_compile(page: str) -> None:
    for kind, block in _FENCE.findall(_text(page)):
        if kind == "python":
            compile(block, page, "exec")


def test_every_command_is_shown() -> None:
    assert {words[0] for words in LINES} == {*COMMANDS} - {"validate"}
    assert len(STACKS) > 10


@pytest.mark.parametrize("stack", STACKS, ids=" ".join)
def test_options_of_runs_parse(stack: tuple[str, ...], fit_parser: LightningArgumentParser) -> None:
    if "pretrained_body" in stack:
        pytest.importorskip("timm", reason="needs timm and a torchvision that fits torch")
    _parse(fit_parser, ["fit", *shipped.with_shipped([f"--config={name}" for name in stack]), *STACKS[stack]])


@pytest.mark.parametrize("line", OTHERS)
def test_options_of_the_other_commands_parse(line: str, diagnose_parser: LightningArgumentParser) -> None:
    command, *words = OTHERS[line]
    if command == "configs":
        assert words in ([], ["copy", *words[1:]])
        assert {*words[1:]} <= SHIPPED
    elif command == "diagnose":
        stack, options = _split(words)
        files = shipped.with_shipped([f"--config={name}" for name in stack])
        _parse(diagnose_parser, [*files, *options])
    elif command == "push":
        _parse(push.make_parser(), words)
    elif command == "zoo":
        assert {*words} <= {*names()}
    else:
        function = _FUNCTIONS[command if command != "data" else f"data {words.pop(0)}"]
        parser = ArgumentParser()
        parser.add_argument("-c", "--config", action="config")
        parser.add_function_arguments(function, as_positional=command == "data")
        _parse(parser, repeatable(words, "export"))
