"""The configurations that come with the program: named with ``-c``, listed and copied by ``litmaml configs``."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import litmaml
from litmaml.runs.arguments import with_files
from litmaml.runs.paths import expanded
from litmaml.runs.whole_files import check_writable
from litmaml.shown import printable

_SUFFIX = ".yaml"


def folder() -> Path:
    """The folder of the configurations: in the package where it was installed, beside ``src`` in the repository."""
    package = Path(litmaml.__file__).parent
    return inside if (inside := package / "configs").is_dir() else package.parents[1] / "configs"


def names() -> list[str]:
    """Their names, such as ``glyphs`` and ``trainer/cpu``: experiments first, then what is laid over them."""
    root = folder()
    found = [path.relative_to(root).with_suffix("").as_posix() for path in root.rglob(f"*{_SUFFIX}")]
    return sorted(found, key=lambda name: (name.count("/"), name))


def with_shipped(arguments: Iterable[str]) -> list[str]:
    """The arguments, with the file of a shipped configuration where ``-c`` names one and no file of that name exists.

    A folder of that name, such as of data, is not in the way.

    Raises:
        ValueError: There is neither.
    """
    return with_files([*arguments], _file)


def _file(value: str) -> str:
    """The file to read in a value's place; a value that is no name, as a configuration typed in full, stays."""
    in_the_way = os.path.lexists(value) and not (os.path.isdir(value) and value in names())
    if in_the_way or any(letter in value for letter in " :{\n") or value in ("", "null"):
        return value
    return str(_shipped(value, "config: there is no such file, and no"))


def _shipped(value: str, what: str) -> Path:
    """The file of a name, with or without its suffix.

    Raises:
        ValueError: There is none; "``what`` configuration of this name".
    """
    name, shipped = value.removesuffix(_SUFFIX), names()
    if name in shipped:
        return folder() / f"{name}{_SUFFIX}"
    near = difflib.get_close_matches(name, [*shipped, *(each.rpartition("/")[2] for each in shipped)], n=1)
    meant = [f"did you mean {each}? " for each in shipped if near and each.endswith(near[0])][:1]
    raise ValueError(
        f"{what} configuration of this name comes with litmaml, got {printable(value)!r}; {''.join(meant)}"
        "litmaml configs lists them"
    )


def _subject(name: str) -> str:
    """The first line of a configuration, a comment that says what it is."""
    with (folder() / f"{name}{_SUFFIX}").open(encoding="utf-8") as file:
        return next(file).removeprefix("# ").strip()


def show() -> None:
    """List the configurations, each with a line on what it is; -c NAME takes one."""
    wide = max(map(len, names()))
    for name in names():
        print(f"{name:{wide}}  {_subject(name)}")
    print("\nSeveral are laid over one another: litmaml fit -c omniglot_5w1s -c trainer/cpu")


def copy(name: str, output: str | None = None) -> Path:
    """Copy a configuration, to be made one's own.

    Args:
        name: Which, as listed.
        output: The file to write; by default the same name in the current folder. It must not exist.

    Raises:
        FileExistsError: There is such a file.
        ValueError: There is no such configuration.
    """
    file = _shipped(name, "name: no")
    path = expanded(output or file.name)
    if os.path.lexists(path):
        raise FileExistsError(f"output: {printable(path)!r} exists already; name another file")
    check_writable(path.parent, "output")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, path)
    print(f"written to {printable(path)}; use it by -c {printable(path)}")
    return path


_COMMANDS: dict[str, Callable[..., object]] = {"list": show, "copy": copy}


def run_configs(arguments: Sequence[str]) -> None:
    """Run ``litmaml configs``: the list, or a copy."""
    from jsonargparse import auto_cli  # here, since these take seconds and the list needs neither

    from litmaml.cli.error_lines import OneLineErrors

    typed = list(arguments) or ["list"]
    auto_cli(dict(_COMMANDS), args=typed, parser_class=OneLineErrors, prog="litmaml configs")
