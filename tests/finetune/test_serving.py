"""The page on serving, done as a reader does it: the files that are exported answer without litmaml."""

from __future__ import annotations

import json
import re
import runpy
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

import litmaml
from litmaml.cli.finetune import finetune

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def test_the_page_answers_as_the_model_does(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    finetune(str(run), str(images / "data"), "OUT", str(images / "flat"), steps=3, export=["onnx", "pt2"])
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for name, program in zip(("answer", "serve", "export"), programs, strict=True):
        assert "litmaml" not in re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE)
        (tmp_path / f"{name}.py").write_text(program, encoding="utf-8")
    files = [*sorted((images / "flat").iterdir()), tmp_path / "clear.png"]
    clear = Image.open(files[0]).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(files[-1])
    wanted = [(found.label, found.probability) for found in litmaml.load("OUT").classify(files)]

    answers = runpy.run_path("answer.py")["answer"](*map(str, files))
    assert [label for label, _ in answers] == [label for label, _ in wanted]
    assert [share for _, share in answers] == pytest.approx([share for _, share in wanted], abs=1e-5)

    server = runpy.run_path("serve.py")["server"](0)
    monkeypatch.delitem(sys.modules, "answer")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        place = f"http://localhost:{server.server_address[1]}"
        with urllib.request.urlopen(urllib.request.Request(place, files[0].read_bytes()), timeout=20) as reply:
            said = json.load(reply)
    finally:
        server.shutdown()
        server.server_close()
    assert said == {"class": wanted[0][0], "probability": pytest.approx(wanted[0][1], abs=1e-5)}

    assert runpy.run_path("export.py")["classes"] == litmaml.load("OUT").classes
