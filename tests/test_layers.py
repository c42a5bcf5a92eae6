"""Who may import whom: only downwards."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "litmaml"
FILES = sorted(SOURCE.rglob("*.py"))
# From below: a room imports only from itself and from what stands before it.
ROOMS = (
    *("shown", "weights", "tasks", "randomness", "engine", "inner", "outer", "models"),
    *("runs", "statistics", "data", "problems", "learner"),
    *("measure", "finetuning", "diagnosis", "callbacks", "rl", "cli"),
)
ABOVE_ALL = ("__init__", "__main__")
# The mathematics, and what looks at somebody's model on top of it, are of torch only.
TORCH_ONLY = {*ROOMS[:8], "learner/trial"}
NEVER_IN_CORE = {
    "lightning",
    "wandb",
    "jsonargparse",
    "torchmetrics",
    "learn2learn",
    "matplotlib",
    "rich",
    "PIL",
    "huggingface_hub",
}


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere, also inside functions, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(path: Path) -> str:
    """The first part below the package: a module's name, or its folder's."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_downwards(path: Path) -> None:
    tops = {name.partition(".")[0] for name in imports(path)}
    own = {name.split(".")[1] for name in imports(path) if name.startswith("litmaml.")}
    here = room(path)
    if here not in ABOVE_ALL:
        assert own <= {*ROOMS[: ROOMS.index(here) + 1]}
    if here in TORCH_ONLY or str(path.relative_to(SOURCE).parent) in TORCH_ONLY:
        assert not tops & NEVER_IN_CORE
    if here in ("engine", "inner", "outer") and "importlib" in tops:
        assert path.relative_to(SOURCE).parts == ("inner", "higher.py")
    if here == "data" and path.name != "task_data_module.py":
        assert "lightning" not in tops
    if "wandb" in tops:
        assert path.name in ("wandb_report.py", "wandb_logger.py", "artifact.py"), (
            "wandb is named where a run is logged and where artifacts load"
        )
    if "learn2learn" in tops:
        assert path.name == "interop.py"


def test_there_are_few_rooms_and_none_is_empty() -> None:
    assert {room(path) for path in FILES} == {*ROOMS, *ABOVE_ALL}
    assert len(ROOMS) + len(ABOVE_ALL) <= 21


def test_no_import_goes_round() -> None:
    names = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): imports(path) for path in FILES}
    modules = {name.removesuffix(".__init__"): found for name, found in names.items()}
    # A package's own file imports what it shows, and is imported with each of its parts.
    files = {name: found & modules.keys() for name, found in modules.items() if f"{name}.__init__" not in names}
    sorter = TopologicalSorter({name: {f for f in found if f in files} for name, found in files.items()})
    sorter.prepare()  # raises CycleError, naming them
