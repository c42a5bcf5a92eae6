"""Who may import whom: only downwards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "litmaml"
FILES = sorted(SOURCE.rglob("*.py"))
# The mathematics, from below: a room imports only from itself and from what stands before it.
ROOMS = ("shown", "weights", "tasks", "randomness", "engine", "inner", "outer")
# What looks at models on top of it: torch only, too.
CORE = {
    *ROOMS,
    "agreement",
    "autograd_functions",
    "float32",
    "function_modes",
    "loop_derivatives",
    "loss_broadcast",
    "loss_checks",
    "loss_ranges",
    "losses",
    "model_checks",
    "model_copy",
    "models",
    "modes",
    "own_model",
    "plain_copy",
    "probed_gradients",
    "reached",
    "second_derivatives",
    "trial",
    "trial_derivatives",
    "trial_faults",
    "trial_state",
    "weight_vectors",
}
NEVER_IN_CORE = {"lightning", "wandb", "jsonargparse", "torchmetrics", "learn2learn", "matplotlib", "rich"}


def imports(path: Path) -> set[str]:
    """The modules that a file imports anywhere, also inside functions, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def layer(path: Path) -> str:
    """The first part below the package: a module's name, or its folder's."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_downwards(path: Path) -> None:
    tops = {name.partition(".")[0] for name in imports(path)}
    own = {name.split(".")[1] for name in imports(path) if name.startswith("litmaml.")}
    here = layer(path)
    if here in CORE:
        assert not tops & NEVER_IN_CORE
        assert own <= CORE
    if here in ROOMS:
        assert own <= {*ROOMS[: ROOMS.index(here) + 1]}
        if "importlib" in tops:
            assert path.relative_to(SOURCE).parts == ("inner", "higher.py")
    if here == "data":
        assert not own & {"meta_learner", "inner", "outer", "cli", "callbacks"}
        if path.name != "task_data_module.py":
            assert "lightning" not in tops
    if here != "cli" and path.name not in ("__main__.py", "command.py"):
        assert "cli" not in own
    if "wandb" in tops:
        assert path.name in ("wandb_report.py", "artifact.py"), (
            "wandb is named in one callback and where artifacts load"
        )
    if "learn2learn" in tops:
        assert path.name == "interop.py"


def test_the_core_imports_without_lightning() -> None:
    assert {layer(path) for path in FILES} >= CORE
