"""The notebook of the documentation runs from a kernel's start to its end, and is kept without what it puts out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "first-steps.ipynb"
LONG, SHORT = "train_tasks=25_000", "train_tasks=500"


def test_it_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 3
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum(LONG in "".join(cell["source"]) for cell in code) == 1


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", NOTEBOOK.read_text(encoding="utf-8"))
    assert links
    assert all((NOTEBOOK.parent / link).is_file() for link in links)


@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs: pip install -e '.[docs]'")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs: pip install -e '.[docs]'")
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    notebook = nbformat.reads(NOTEBOOK.read_text(encoding="utf-8").replace(LONG, SHORT), as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    rows = dict(re.findall(r"^ +(\d+) +(\d+\.\d+) ± \d", text, re.MULTILINE))
    assert len(rows) == 11
    assert float(rows["10"]) < float(rows["0"])
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert float(re.findall(r"on the ten points: (\d+\.\d+)", text)[0]) < 4.5  # the variance of the targets
    lines = [output.get("data", {}).get("text/plain", "") for output in outputs]
    assert sum(line.startswith("epoch 1/1, batch 20/20") for line in lines) == 2
    assert not re.search("tip|ipywidgets", text + "".join(lines), re.IGNORECASE)
