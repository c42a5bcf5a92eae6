"""What is declared, pinned, imported and installed agrees; the set-up script says what it needs."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = [Requirement(line) for line in PROJECT["dependencies"]]
OPTIONAL = [Requirement(line) for lines in PROJECT["optional-dependencies"].values() for line in lines]
OPTIONAL = [requirement for requirement in OPTIONAL if requirement.name != PROJECT["name"]]  # extras in extras


def read_pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pairs}


PINS = read_pins()


@pytest.mark.parametrize("requirement", [*DECLARED, *OPTIONAL], ids=str)
def test_every_dependency_is_pinned_within_its_bound(requirement: Requirement) -> None:
    pin = PINS.get(canonicalize_name(requirement.name))
    assert pin is not None, f"constraints.txt does not pin {requirement.name}"
    assert pin in requirement.specifier, f"constraints.txt pins {requirement.name} {pin}"


def test_what_is_imported_is_declared() -> None:
    """Also what other dependencies would bring along: they may stop doing so."""
    own = {*sys.stdlib_module_names, PROJECT["name"]}
    of_module = metadata.packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in DECLARED}
    imported = set[str]()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    needed = {canonicalize_name(of_module[name][0]) for name in imported - own}
    assert {"torch", "lightning"} <= needed
    assert needed <= declared


def test_nothing_replaced_the_pinned_torch() -> None:
    assert Version(metadata.version("torch")).public == str(PINS["torch"])


def test_learn2learn_is_no_dependency() -> None:
    """pip cannot build it as one on Python 3.11 and later, and its metadata would replace torch."""
    assert "learn2learn" not in {requirement.name for requirement in [*DECLARED, *OPTIONAL]}


def test_setup_refuses_an_old_python(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "setup.sh"
    script.write_bytes((ROOT / "scripts" / "setup.sh").read_bytes())
    old = tmp_path / "old python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 || exit 1\n', encoding="utf-8")
    old.chmod(0o755)
    done = subprocess.run(
        ["bash", script], env={**os.environ, "PYTHON": str(old)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Python 3.11 to 3.14 is needed" in done.stderr
    assert "Python 3.9.2" in done.stderr
    assert "PYTHON=/path/to/python3.12 bash scripts/setup.sh" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_versions_says_which_interpreters_are_missing(tmp_path: Path) -> None:
    for tool in ("dirname",):
        (tmp_path / tool).symlink_to(Path(shutil.which(tool) or ""))

    def versions(*names: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [shutil.which("bash") or "bash", str(ROOT / "scripts" / "versions.sh"), *names]
        found = {"PATH": str(tmp_path), "VERSIONS_DIR": str(tmp_path / "kept"), **environment}
        return subprocess.run(command, env=found, capture_output=True, text=True, check=False)

    done = versions("3.14", "oldest")
    assert done.stdout.endswith("passed: none; failed: none; no interpreter: 3.14 oldest\n")
    assert (done.returncode, versions("3.14", CI="true").returncode) == (0, 1)
    wrong = versions("3.9")
    assert (wrong.returncode, wrong.stderr) == (2, "versions: there is no 3.9; one of 3.11, 3.12, 3.13, 3.14, oldest\n")
    assert not (tmp_path / "kept").exists()


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
