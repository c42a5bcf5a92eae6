"""The image can be built of what its file copies, and holds nothing that is only this machine's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
STAGES = re.split(r"^FROM ", (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
IGNORED = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())


def copied(stage: str) -> set[str]:
    """What the instructions of a stage copy from the repository, and the folders that they make."""
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", stage, flags=re.MULTILINE)
    made = re.findall(r"\bmkdir (\S+)", stage)
    return {name for line in [*lines, *made] for name in line.split()}


def test_the_installation_has_every_file_that_it_asks_for() -> None:
    """The whole repository comes after it, so that a change of the code installs nothing anew."""
    _, builder, image = STAGES
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    asked = {project["project"]["readme"], *project["project"]["license-files"], *wheel["force-include"]}
    asked |= {f"{package}/__init__.py" for package in wheel["packages"]}
    # scripts/setup.sh reads and compares these; requirements/ has one of them.
    asked |= {"pyproject.toml", "constraints.txt", "requirements", "scripts/setup.sh"}
    assert asked <= copied(builder)
    assert copied(image) == {"."}
    assert not {PurePosixPath(name).parts[0] for name in asked} & IGNORED


def test_both_stages_ask_for_the_same_extras() -> None:
    """Else scripts/setup.sh would install at each start of the demo, for which its user has no rights."""
    _, builder, image = STAGES
    extras = [re.findall(r"LITMAML_EXTRAS=(\S+)", stage) for stage in (builder, image)]
    assert extras[0] == extras[1] != []


def test_what_git_ignores_stays_out_of_the_image() -> None:
    for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split():
        name = line.strip("/")
        caches = ".*_cache" if name.endswith("_cache") else name
        here = {caches} if line.startswith(("/", ".")) else {name, f"**/{name}"}
        assert here & IGNORED, f".dockerignore does not leave out {line}"
